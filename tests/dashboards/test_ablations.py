"""The page on ablations, and what it reads: full, empty, stopped, died, and from files and addresses that mean harm."""

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

from dashboards import started
from dashboards.asked_sweep import AskedSweep
from dashboards.narrow_bars import with_short_lines
from dashboards.reading import open_run, run_cards
from dashboards.started import all_started, process_of, read_started, stop
from dashboards.sweep_recipe import sweep_recipe
from dashboards.sweep_results import effect_bars, effect_map, effects_of, metric_of, sweeps, together_of
from experiments.cli import run as command
from headscope.errors import UsageError
from headscope.figures import causal_bars
from headscope.runs import Run
from headscope.scores import HeadScores
from headscope.zoo import zoo_names
from tests.dashboards.conftest import MARKUP, Open
from tests.dashboards.test_views import charts, markup, sound

pytestmark = pytest.mark.skipif("zoo:needle" not in zoo_names(), reason="zoo:needle is not trained")
SMALL = ("--lengths=64", "--depths=2", "--repeats=2", "--draws=2", "--json")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A sweep of heads, effects of layers, and a run of another kind."""
    folder = tmp_path_factory.mktemp("ablations") / "runs"
    start = ("ablate", "sweep", "--model=zoo:needle", *SMALL)
    assert command([*start, "--heads=L0H0,L1H7,L2H2,L3H0", "--out", str(folder / "heads")]) == 0
    fake("layers", {"layer 1": 2.0, "layer 0": -1.0}, folder)
    with Run.create(folder / "other", command="heads vision", config={}) as run:
        run.save_scores("vhd", HeadScores(torch.rand(3, 2, 2), "VHD"))
    return folder


def fake(name: str, effects: dict[str, float], folder: Path, **columns: object) -> Run:
    """A run that holds these effects."""
    numbers = {"low": -1.0, "high": 1.0, "n": 4, "p": 0.5, "q": 0.5} | columns
    table = pd.DataFrame({"unit": list(effects), "effect": list(effects.values())}).assign(**numbers)
    with Run.create(folder / name, command="ablate sweep", config={"metric": MARKUP, "model": MARKUP}) as run:
        run.save_table("units", table)
        run.save_table("effects", table)
    return run


def record(runs: Path, name: str, **facts: object) -> None:
    """That a sweep was started, whoever wrote it."""
    folder = runs / ".dashboard" / name
    folder.mkdir(parents=True)
    begun = {"name": name, "asked": asdict(AskedSweep("zoo:needle")), "pid": 2**22 + 1, "born": 1.0, "before": 0}
    (folder / "sweep.json").write_text(json.dumps({**begun, "stopped": False, **facts}))
    (folder / "log.txt").write_text(f"ablating: 1 of 9\n{MARKUP}\n")


def test_effects_as_a_map_and_as_bars(tmp_path):
    table = effects_of(fake("a", {"L1H2": -3.0, "L0H1": 0.5}, tmp_path))
    heads = effect_map(table)
    assert list(heads["name"]) == ["L1H2", "L0H1"]
    assert list(heads["layer"]) == [1, 0]
    assert list(heads["value"]) == [-3.0, 0.5]
    assert list(heads["low"]) == [-1.0, -1.0]
    assert list(effect_bars(table, most=1)["condition"]) == ["L1H2"]
    assert effect_map(effects_of(fake("b", {"layer 0": 1.0}, tmp_path))).empty


def test_long_names_are_broken_on_a_narrow_screen():
    names = ["none", "random for L1H7, L2H2, L0H1 at once (2 draws)", "a&b <br>"]
    table = pd.DataFrame({"condition": names, "kind": ["none", "control", "treatment"], "mean": 1.0})
    drawn = causal_bars(table.assign(low=0.5, high=1.5))
    broken = with_short_lines(drawn)
    texts = broken.layout.yaxis.ticktext
    assert texts[0] == "none"
    assert texts[1] == "random for L1H7,<br>L2H2, L0H1 at once<br>(2 draws)"
    assert texts[2] == "a&amp;b &lt;br&gt;", "what a name holds stays text"
    assert list(broken.layout.yaxis.tickvals) == list(drawn.layout.yaxis.categoryarray)
    assert broken.layout.height == drawn.layout.height + 3 * 15
    assert drawn.layout.yaxis.ticktext is None


def test_effects_of_another_kind(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.save_table("units", pd.DataFrame({"unit": ["L0H0"], "effect": [1.0]}))
    with pytest.raises(UsageError, match="have no low"):
        effects_of(run)
    with pytest.raises(UsageError, match="damaged"):
        effects_of(fake("words", {"L0H0": 1.0}, tmp_path, low="much"))


def test_what_a_sweep_holds(swept):
    assert {card.name for card in sweeps(run_cards(swept))} == {"heads", "layers"}
    run = open_run(swept, "heads")
    found = together_of(run)
    assert found is not None
    families, beyond = found
    assert {"none", "treatment", "control"} == set(families["kind"])
    assert list(beyond["draws"]) == [2]
    assert together_of(open_run(swept, "layers")) is None
    assert metric_of(run) == "loss"


def test_conditions_that_are_damaged(tmp_path):
    run = fake("run", {"L0H0": 1.0}, tmp_path)
    run.save_table("together", pd.DataFrame({"condition": ["a"], "kind": ["none"]}))
    with pytest.raises(UsageError, match=r"'together' in .* is damaged"):
        together_of(run)


@pytest.mark.slow
def test_the_command_makes_the_same_sweep(swept, tmp_path, monkeypatch):
    before = open_run(swept, "heads")
    words = shlex.split(sweep_recipe(before.path, before.facts).command)
    monkeypatch.chdir(tmp_path)
    assert command([*words[1:], "--json"]) == 0
    made = Run.open("runs/again")
    assert made.facts["config"] == before.facts["config"]
    pd.testing.assert_frame_equal(made.table("units"), before.table("units"))


def test_the_python_gives_the_effects(swept, capsys):
    run = open_run(swept, "heads")
    exec(compile(sweep_recipe(run.path, run.facts).python, "recipe", "exec"), {})
    assert "L1H7" in capsys.readouterr().out


def test_a_sweep_of_heads_is_shown(opened: Open, swept):
    page = sound(opened("ablations", swept, run="heads"))
    assert [one.value for one in page.error] == []
    assert any("effect on loss" in said for said in charts(page))
    bars = charts(page, "plotly_chart")
    assert any("The largest effects on loss" in said for said in bars)
    assert any("random for" in said for said in bars)
    assert "q" in page.dataframe[0].value.columns
    assert all(one.proto.alt for one in page.dataframe)
    assert page.expander[-1].label == "Reproduce this"


def test_a_sweep_of_layers_has_no_map(opened: Open, swept):
    page = sound(opened("ablations", swept, run="layers"))
    assert charts(page) == []
    assert any("Nothing was removed at once" in one.value for one in page.info)


def test_other_runs_name_those_that_hold_a_sweep(opened: Open, swept):
    page = sound(opened("ablations", swept, run="other"))
    assert set(page.dataframe[0].value["run"]) == {"heads", "layers"}


def test_without_runs_there_is_a_command_and_a_form(opened: Open, empty):
    page = sound(opened("ablations", empty))
    assert page.code[0].value.startswith("headscope ablate sweep")
    form = page.code[1].value
    assert form.startswith("headscope ablate sweep --model=zoo:needle --task=needle")
    assert f"--out={empty / 'sweep-1'}" in form
    assert page.button(key="sweep: start").label == "Start"
    assert not (empty / ".dashboard").exists(), "nothing is started unasked"


def test_the_form_stands_in_the_address(opened: Open, empty):
    page = sound(opened("ablations", empty, **{"sweep-task": "ioi", "sweep-metric": "kl", "sweep-prompts": "7"}))
    form = page.code[1].value
    assert "--task=ioi --of=heads --mode=zero --metric=kl" in form
    assert "--prompts=7" in form


@pytest.mark.parametrize(
    "address",
    [
        {"sweep-name": "../../etc/out"},
        {"sweep-name": "--trust"},
        {"sweep-lengths": "64 --out=/etc"},
    ],
)
def test_what_an_address_cannot_start(opened: Open, empty, address):
    page = sound(opened("ablations", empty, **address))
    if page.button:
        page.button(key="sweep: start").click().run()
    assert sound(page).error[0].value == "Not started."
    assert all_started(empty) == ()


@pytest.mark.parametrize("name", ["sweep-task", "sweep-model", "sweep-metric", "sweep"])
def test_an_address_that_asks_for_what_is_not_there(opened: Open, empty, name):
    record(empty, "one")
    page = sound(opened("ablations", empty, **{name: f"/etc/{MARKUP}"}))
    assert "is not here" in page.warning[0].value
    assert markup(page) == ""


def test_a_process_that_died(opened: Open, empty):
    record(empty, "gone")
    page = sound(opened("ablations", empty))
    assert "ended before it was done" in page.error[0].value
    assert any(MARKUP in one.value for one in page.code), "its last lines, as they are"
    assert markup(page) == ""
    assert page.button(key="sweep: resume").label == "Resume"


def test_a_recycled_number_is_not_ended(opened: Open, empty):
    mine = psutil.Process()
    record(empty, "recycled", pid=mine.pid, born=mine.create_time())
    page = sound(opened("ablations", empty))
    assert "ended before it was done" in page.error[0].value
    assert "sweep: stop" not in [one.key for one in page.button]


def test_a_record_cannot_choose_the_model(opened: Open, empty):
    record(empty, "elsewhere", asked=asdict(AskedSweep("/etc")))
    page = sound(opened("ablations", empty))
    page.button(key="sweep: resume").click().run()
    assert any("may load" in one.value for one in sound(page).text)
    assert read_started(empty, "elsewhere").pid == 2**22 + 1, "nothing was started"


def test_markup_in_a_sweep_is_shown_as_text(opened: Open, tmp_path):
    folder = tmp_path / "runs"
    fake("<b onclick=alert(1)>", {MARKUP: 2.0, "L0H0": 1.0}, folder)
    page = sound(opened("ablations", folder))
    assert markup(page) == ""
    assert any("largest effects" in said for said in charts(page, "plotly_chart"))


def test_a_damaged_sweep(opened: Open, tmp_path):
    run = fake("run", {"L0H0": 1.0}, tmp_path / "runs")
    (run.path / "units.parquet").write_bytes(b"PAR1")
    page = sound(opened("ablations", tmp_path / "runs"))
    assert "cannot be shown" in page.error[0].value


def test_a_sweep_is_started_and_stopped_on_the_page(opened: Open, empty):
    page = opened("ablations", empty, **{"sweep-lengths": "512", "sweep-depths": "20", "sweep-repeats": "20"})
    page.button(key="sweep: start").click().run()
    assert page.query_params["sweep"] == "sweep-1"
    begun = read_started(empty, "sweep-1")
    try:
        assert any("It is running" in one.value for one in sound(page).info)
        again = sound(opened("ablations", empty, sweep="sweep-1"))
        assert any("It is running" in one.value for one in again.info), "a reload finds it"
        again.button(key="sweep: stop").click().run()
        assert process_of(empty, begun) is None
        assert "It was stopped" in sound(again).warning[0].value
        assert again.button(key="sweep: resume").label == "Resume"
    finally:
        if process_of(empty, begun) is not None:
            stop(empty, "sweep-1")
    until = time.monotonic() + 20
    while psutil.pid_exists(begun.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert started.all_started(empty)[0].stopped
