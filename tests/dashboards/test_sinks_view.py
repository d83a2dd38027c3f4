"""The page on sinks, and what it reads."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from dashboards import sink_data
from dashboards.reading import open_run, run_cards
from dashboards.reproduce import command_of
from dashboards.sink_recipe import sink_recipe
from experiments.cli import run as command
from headscope.errors import UsageError
from headscope.runs import Run
from headscope.zoo import zoo_names
from tests.dashboards.conftest import MARKUP, Open, saved
from tests.dashboards.test_views import charts, markup, sound

pytestmark = pytest.mark.skipif("zoo:needle" not in zoo_names(), reason="zoo:needle is not trained")
CANDIDATES = "L1H0,L2H2,L2H6"


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """Sinks of a text model, heads chosen for calibration, and a run that knows of neither."""
    folder = tmp_path_factory.mktemp("sinks") / "runs"
    sinks = ("heads", "sinks", "--model=zoo:needle", "--lengths=64", "--n=2", "--draws=1", "--json")
    assert command([*sinks, "--out", str(folder / "sinks")]) == 0
    small = (
        "--model=zoo:needle",
        "--calibration=2",
        "--held-out=2",
        "--length=96",
        "--draws=1",
        f"--heads={CANDIDATES}",
        "--json",
    )
    assert command(["heads", "filter", *small, "--out", str(folder / "filter")]) == 0
    saved(folder, "seen", model="zoo:scenes", kinds=("vhd",))
    return folder


def card(runs: Path, name: str):
    return next(one for one in run_cards(runs) if one.name == name)


def test_what_runs_hold(found):
    assert sink_data.scores_of(card(found, "sinks")) == ("first_token", "later_sinks")
    assert sink_data.scores_of(card(found, "filter")) == ()
    assert sink_data.shows_sinks(card(found, "filter"))
    assert not sink_data.shows_sinks(card(found, "seen"))
    assert sink_data.filter_runs(run_cards(found), card(found, "sinks")) == ("filter",)
    assert sink_data.filter_runs(run_cards(found), card(found, "seen")) == ()


def test_changes_are_differences_from_the_plain_model(found):
    run = open_run(found, "sinks")
    removed = sink_data.removal_of(run, "loss")
    assert removed is not None
    changes, contrasts = removed
    assert "none" not in set(changes["kind"])
    assert {"treatment", "control"} == set(changes["kind"])
    raw = run.table("removal").pivot(index="sample", columns="condition", values="loss")
    treatment = changes.loc[changes["kind"] == "treatment", "condition"].iloc[0]
    by_hand = (raw[treatment] - raw["none"]).mean()
    assert changes.set_index("condition").loc[treatment, "mean"] == pytest.approx(by_hand)
    assert {"more", "q"} <= set(contrasts.columns)
    assert sink_data.removal_of(open_run(found, "filter"), "loss") is None
    assert sink_data.how_cut(run) == "masked"


def test_gains_as_a_map():
    heads = pd.DataFrame({"layer": [0, 1], "head": [0, 1], "name": ["L0H0", "L1H1"], "gain": [0.1, 0.5], "se": 0.2})
    table = sink_data.gain_map(heads)
    assert list(table["name"]) == ["L1H1", "L0H0"]
    assert list(table["se"]) == [0.2, 0.2]
    assert "low" not in table, "a standard error is no 95 % interval"


def test_tables_of_another_kind(found, tmp_path):
    with pytest.raises(UsageError, match="holds no gains of heads"):
        sink_data.filtered(tmp_path, _odd(tmp_path))
    with Run.create(tmp_path / "cut", command="x", config={}) as run:
        run.save_table("removal", pd.DataFrame({"condition": ["none"]}))
    with pytest.raises(UsageError, match=r"'removal' in .* is damaged"):
        sink_data.removal_of(run, "loss")


def _odd(folder: Path) -> str:
    with Run.create(folder / "odd", command="x", config={}) as run:
        for name in ("heads", "held_out_families", "stability"):
            run.save_table(name, pd.DataFrame({"a": [1]}))
    return "odd"


def test_sinks_are_shown(opened: Open, found):
    page = sound(opened("sinks", found, run="sinks"))
    assert [one.value for one in page.error] == []
    maps = charts(page)
    assert any("attention on the first token" in said for said in maps)
    assert any("attention on later sinks" in said for said in maps)
    assert any("gain in accuracy" in said for said in maps), "of the filter on the same model"
    bars = charts(page, "plotly_chart")
    assert any("as much attention for" in said for said in bars), "controls stand beside the sinks"
    assert any("Residual norm" in said for said in bars)
    assert list(page.dataframe[0].value.columns[:2]) == ["token", "n"]
    assert all(one.proto.alt for one in page.dataframe)
    assert page.expander[0].label == "Reproduce this"
    page.selectbox(key="choice: measured").set_value("kl").run()
    assert page.query_params["measured"] == "kl"
    assert any("divergence" in said for said in charts(sound(page), "plotly_chart"))


def test_a_head_is_in_the_address(opened: Open, found):
    page = sound(opened("sinks", found, run="sinks", head="3.1"))
    assert page.selectbox(key="choice: head").value == "L3H1"
    assert page.query_params["head"] == "L3H1"


def test_a_filter_alone_is_shown(opened: Open, found):
    page = sound(opened("sinks", found, run="filter"))
    assert [one.value for one in page.error] == []
    assert any("heads were kept" in said for said in charts(page))
    assert any("as many random heads" in said for said in charts(page, "plotly_chart"))
    assert set(page.dataframe[0].value["name"]) == set(CANDIDATES.split(","))


def test_other_runs_name_those_that_know_of_sinks(opened: Open, found):
    page = sound(opened("sinks", found, run="seen"))
    assert set(page.dataframe[0].value["run"]) == {"sinks", "filter"}


def test_no_run_that_knows_of_sinks(opened: Open, tmp_path, empty):
    saved(tmp_path / "runs", "seen", model="zoo:scenes", kinds=("vhd",))
    page = sound(opened("sinks", tmp_path / "runs"))
    assert page.code[0].value.startswith("headscope heads sinks")
    assert "headscope demo" in sound(opened("sinks", empty)).code[0].value


def test_a_damaged_table_leaves_the_others(opened: Open, tmp_path):
    run = saved(tmp_path / "runs", "cut", model="m", kinds=("first_token", "later_sinks"))
    run.save_table("norms", pd.DataFrame({"layer": [0], "tokens": ["x"], "residual": ["much"], "value": ["none"]}))
    run.save_table("tokens", pd.DataFrame({"token": ["a"], "n": [1]}))
    page = sound(opened("sinks", tmp_path / "runs"))
    assert [one.value for one in page.error] == ["These norms cannot be shown."]
    assert len(charts(page)) == 2
    assert page.dataframe[0].value["token"].tolist() == ["a"]


def test_markup_is_shown_as_text(opened: Open, tmp_path):
    run = saved(tmp_path / "runs", "<b onclick=alert(1)>", model=MARKUP, kinds=("first_token", "later_sinks"))
    run.save_table("tokens", pd.DataFrame({"token": [MARKUP], "n": [1]}))
    heads = pd.DataFrame({"layer": [0], "head": [0], "name": [MARKUP], "gain": [0.1], "se": [0.1], "kept": [True]})
    run.save_table("heads", heads)
    run.save_table("stability", pd.DataFrame({MARKUP: [0.5]}))
    row = {"condition": MARKUP, "kind": "treatment", "mean": 0.5, "low": 0.4, "high": 0.6, "task": MARKUP}
    run.save_table("held_out_families", pd.DataFrame([row]))
    page = sound(opened("sinks", tmp_path / "runs"))
    assert markup(page) == ""
    assert "<img" not in page.code[-1].value or "'" in page.code[-1].value


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sinks", "filter"])
def test_the_command_makes_the_same_run(found, name, tmp_path, monkeypatch):
    before = open_run(found, name)
    words = shlex.split(command_of(before.facts))
    monkeypatch.chdir(tmp_path)
    assert command([*words[1:], "--json"]) == 0
    made = Run.open("runs/again")
    assert made.facts["config"] == before.facts["config"]
    pd.testing.assert_frame_equal(made.table("heads"), before.table("heads"))


@pytest.mark.parametrize("name", ["sinks", "filter"])
def test_the_python_gives_the_tables(found, name, capsys):
    run, names = open_run(found, name), sink_data.scores_of(card(found, name))
    exec(compile(sink_recipe(run.path, names, run.facts).python, "recipe", "exec"), {})
    assert ("L2H2" if name == "filter" else "layer") in capsys.readouterr().out


@pytest.mark.parametrize("config", [{}, {"rule": MARKUP}, {"rule": "SinkRule()", "lengths": "64"}, {"act": "ACT(1)"}])
def test_no_command_where_the_config_does_not_tell(config):
    for name in ("heads sinks", "heads filter"):
        assert command_of({"command": name, "config": config, "seeds": [0]}) == ""
