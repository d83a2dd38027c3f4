"""The page on probes: layers and heads, two beside one another, and runs that hold none."""

import json
import random
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dashboards.probe_recipe import command_words, probe_recipe
from dashboards.probed import (
    both_lines,
    difference,
    map_table,
    of_heads,
    ranked_heads,
    results_of,
    said_of,
    shares_of,
    shown_table,
)
from experiments.cli import run as command
from experiments.probing.cells import keep_probe
from experiments.probing.enough_draws import note_on
from headscope import UsageError
from headscope.runs import Run
from tests.dashboards.conftest import MARKUP, Open, saved
from tests.dashboards.test_views import charts, markup, sound

FEW = ("--draws", "2", "--folds", "3", "--baselines", "none", "--layers", "1,3", "--json")


@pytest.fixture(scope="module")
def probes(tmp_path_factory) -> Path:
    """Runs of probes of layers and of heads, one of captions, one of another kind and one damaged."""
    folder = tmp_path_factory.mktemp("probes") / "runs"
    folder.mkdir()
    rng = random.Random(0)
    rows = [
        {"prompt": f"The {rng.choice(('baker', 'nurse'))} sold the {word}", "label": word}
        for word in ("lamp", "bell") * 12
    ]
    path = folder.parent / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    of_words = ["probe", "--set", str(path), *FEW]
    assert command([*of_words, "--site", "resid_pre,resid_post", "--bits", "--out", str(folder / "layers")]) == 0
    assert command([*of_words, "--seed", "1", "--out", str(folder / "again")]) == 0
    assert command([*of_words, "--by", "head", "--out", str(folder / "heads")]) == 0
    seen = ["probe", "--model", "zoo:scenes", "--set", "negation", "--limit", "9", *FEW]
    assert command([*seen, "--out", str(folder / "captions")]) == 0
    saved(folder, "other", model="zoo:scenes")
    with Run.create(folder / "begun", command="probe", config={}) as run:
        run.save_table("nothing", Run.open(folder / "layers").table("probes"))
    with Run.create(folder / "torn", command="probe", config={}) as run:
        run.save_cell("a z seed 0", Run.open(folder / "layers").table("probes"))
        run.update(probes={"a z seed 0": {"measure": "accuracy", "shape": [4]}})
    return folder


def test_layers_with_their_numbers(opened: Open, probes):
    page = sound(opened("probes", probes, run="layers"))
    assert list(page.error) == []
    assert page.query_params["probe"] == "words resid_pre seed 0"
    (first, *_) = charts(page, "plotly_chart")
    assert "best in layer" in first
    table = page.dataframe[0].value
    assert list(table["layer"]) == [1, 3]
    assert {"accuracy", "control", "selectivity", "compression", "n"} <= set(table)
    assert "so no layer can be found" in page.info[0].value.replace("\\", ""), "two draws are too few"
    assert page.expander[0].label == "Reproduce this"
    assert all(one.proto.alt for one in page.dataframe)


def test_another_probe_is_chosen_and_kept(opened: Open, probes):
    page = opened("probes", probes, run="layers")
    page.selectbox(key="choice: probe").set_value("words resid_post seed 0").run()
    assert page.query_params["probe"] == "words resid_post seed 0"
    again = sound(opened("probes", probes, **page.query_params))
    assert again.selectbox(key="choice: probe").value == "words resid_post seed 0"


def test_heads_as_maps(opened: Open, probes):
    page = sound(opened("probes", probes, run="heads"))
    assert list(page.error) == []
    assert len(charts(page)) == 2
    assert any("selectivity" in said for said in charts(page))
    page.selectbox(key="choice: head").set_value("L3H2").run()
    assert page.query_params["head"] == "L3H2"
    assert len(page.dataframe[0].value) == 16


def test_two_are_compared(opened: Open, probes):
    page = sound(opened("probes", probes, run="layers", **{"with-run": "again"}))
    assert any("greatest gap" in said for said in charts(page, "plotly_chart"))
    assert {"accuracy (first)", "accuracy (second)", "difference"} <= set(page.dataframe[-1].value)
    page = sound(opened("probes", probes, run="layers", **{"with-run": "heads"}))
    assert any("one of the two is of heads" in one.value for one in page.text)


def test_what_the_model_chooses_is_shown(opened: Open, probes):
    page = sound(opened("probes", probes, run="captions"))
    assert any("Share of every option of negation" in said for said in charts(page, "plotly_chart"))


def test_a_run_without_probes_names_those_that_have_some(opened: Open, probes):
    page = sound(opened("probes", probes, run="other"))
    assert set(page.dataframe[0].value["run"]) == {"layers", "again", "heads", "captions", "begun", "torn"}
    assert charts(page, "plotly_chart") == []


def test_an_empty_folder_says_what_to_run(opened: Open, empty, tmp_path):
    page = sound(opened("probes", empty))
    assert "no runs here yet" in page.info[0].value
    saved(tmp_path / "one", "other", model="zoo:scenes")
    page = sound(opened("probes", tmp_path / "one"))
    assert page.code[0].value.startswith("headscope probe --set presence")


@pytest.mark.parametrize(("name", "says"), [("begun", "no finished probe yet"), ("torn", "no 'a z seed 0 hits'")])
def test_what_is_not_whole_says_so(opened: Open, probes, name, says):
    page = sound(opened("probes", probes, run=name))
    assert "cannot be shown" in page.error[0].value
    assert says in page.text[0].value


def test_an_address_that_means_harm(opened: Open, probes, hostile):
    page = sound(opened("probes", probes, run="layers", probe=MARKUP, **{"with-run": "../layers", "with-probe": "x"}))
    assert len(page.warning) == 3
    assert set(markup(page)) <= set("[]")
    assert markup(sound(opened("probes", hostile))) == ""


def test_tables_by_hand(probes):
    found = results_of(Run.open(probes / "layers"))
    first, second = found.values()
    gap = difference(first, second).set_index("layer")["difference"]
    for layer in (1, 3):
        a, b = (one.table.set_index("layer")["accuracy"][layer] for one in (first, second))
        assert gap[layer] == a - b
    assert list(both_lines(first, second, ("a", "b")).layout.xaxis.tickvals) == [1, 3]
    assert [trace.name for trace in both_lines(first, second, ("a", "b")).data] == [
        "a",
        "a: control",
        "b",
        "b: control",
    ]
    assert list(shown_table(first).columns)[:4] == ["layer", "accuracy", "low", "high"]
    (heads,) = results_of(Run.open(probes / "heads")).values()
    assert of_heads(heads)
    ranks = map_table(heads, "selectivity")["value"]
    assert ranks.is_monotonic_decreasing
    assert list(ranked_heads(heads).data[3].x) == list(shown_table(heads)["head"])
    assert "of a probe for each head" in said_of(heads)
    with pytest.raises(UsageError, match="of heads and the other of layers"):
        difference(first, heads)


@pytest.mark.parametrize("name", ["again", "heads"])
def test_the_recipe_is_true(probes, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run.open(probes / name)
    (key,) = results_of(run)
    recipe = probe_recipe(run.path, key, run.facts)
    exec(compile(recipe.python, "recipe", "exec"), {})
    assert "majority" in capsys.readouterr().out
    assert (tmp_path / "probe.html").is_file()
    words = shlex.split(recipe.command)
    assert command([*words[1:], "--json"]) == 0
    made = Run.open(tmp_path / "runs" / "again")
    assert made.facts["config"] == run.facts["config"]
    assert made.table("probes").equals(run.table("probes"))


def test_enough_draws_need_no_note(opened: Open, probes, tmp_path):
    result = results_of(Run.open(probes / "layers"))["words resid_pre seed 0"]
    assert note_on(result) != ""
    more = replace(result, controls=np.tile(result.controls, (1, 30)))
    with Run.create(tmp_path / "runs" / "enough", command="probe", config={}) as run:
        keep_probe(run, "words resid_pre seed 0", more)
    page = sound(opened("probes", tmp_path / "runs"))
    assert list(page.error) == []
    assert not any("can be found" in one.value for one in page.info)


def test_images_from_anywhere_are_asked_for_again(probes):
    facts = Run.open(probes / "again").facts
    assert "--images-anywhere" not in command_words(facts)
    assert "--images-anywhere" in command_words({"config": facts["config"] | {"images_anywhere": True}})


@pytest.mark.parametrize("config", [None, {}, {"asked": "x"}, {"asked": ["x"], "plan": MARKUP}])
def test_no_command_where_the_config_does_not_tell(config):
    assert command_words({"config": config}) == []


def test_shares_are_those_of_the_set():
    tables = ("a", "a shares", "a b shares", "probes")
    assert shares_of(tables, "a resid_post seed 0") == "a shares"
    assert shares_of(tables, "a b resid_post seed 0") == "a b shares"
    assert shares_of(tables, "other resid_post seed 0") == ""
