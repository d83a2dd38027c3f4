"""Sweeps: equal to whole hooked passes, kept cell by cell, and refused where nothing could be measured."""

from pathlib import Path

import pytest
import torch

from experiments import run_sweep, units
from experiments.ablated import Ablation
from experiments.cli import run
from experiments.sweep import HookedRunner
from headscope import Head, HookedModel, Sample, UsageError
from headscope.errors import HeadscopeError
from headscope.runs import Run
from tasks import Needle
from tests.experiments.test_cli import printed


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.load("zoo:needle", device="cpu")


@pytest.fixture(scope="module")
def samples(model) -> list[Sample]:
    return Needle((64, 96), 2, 1, seed=7).samples(model.tokenizer)


HEADS = (Head(0, 3), Head(1, 7), Head(2, 2), Head(3, 5))


@pytest.mark.parametrize("metric", ["loss", "probability", "kl"])
def test_it_equals_whole_passes_under_hooks(model, samples, metric):
    asked = units(HEADS)
    fast = run_sweep(model, samples, asked, metric=metric)
    slow = run_sweep(model, samples, asked, metric=metric, runner=HookedRunner(model, Ablation()))
    both = fast.table.merge(slow.table, on=["unit", "sample"])
    assert len(both) == len(asked) * len(samples)
    for column in ("clean", "value"):
        assert (both[f"{column}_x"] - both[f"{column}_y"]).abs().max() < 1e-4
    assert both["effect_x"].abs().max() > 1e-3


def test_the_copying_head_is_worth_most_and_a_bystander_nothing(model, samples):
    found = run_sweep(model, samples, units(HEADS), metric="loss")
    table = found.summary().set_index("unit")
    assert table.loc["L2H2", "effect"] > 2
    assert abs(table.loc["L3H5", "effect"]) < 0.05
    scores = found.scores()
    assert scores.values[2, 2] == pytest.approx(table.loc["L2H2", "effect"], rel=1e-4)
    assert set(scores.heads) == set(HEADS)


def test_what_is_done_is_kept_and_not_done_again(model, samples, tmp_path):
    ran: list[str] = []

    class Counting(HookedRunner):
        def logits(self, inputs, asked, *, wanted):
            for unit, logits in super().logits(inputs, asked, wanted=wanted):
                ran.append(unit.name if unit else "whole")
                yield unit, logits
                if len(ran) == stop_after:
                    raise KeyboardInterrupt

    asked, stop_after = units(HEADS), 4
    runner = Counting(model, Ablation())
    first = Run.create(tmp_path / "run", command="sweep", config={})
    with pytest.raises(KeyboardInterrupt):
        run_sweep(model, samples, asked, run=first, runner=runner)
    kept = first.cell_keys()
    assert 1 <= len(kept) < 4
    stop_after = -1
    ran.clear()
    whole = run_sweep(model, samples, asked, run=first, runner=runner)
    assert len([name for name in ran if name != "whole"]) == len(asked) - len(kept)
    again = run_sweep(model, samples, asked, runner=HookedRunner(model, Ablation()))
    order = ["unit", "sample"]
    assert (
        whole.table.sort_values(order)["value"].to_numpy() == again.table.sort_values(order)["value"].to_numpy()
    ).all()


def test_what_cannot_be_measured_is_refused(model, samples):
    with pytest.raises(UsageError, match="begin with the same token"):
        run_sweep(model, samples, units(HEADS), metric="logit_difference")
    with pytest.raises(UsageError, match="at least one of each"):
        run_sweep(model, [], units(HEADS))
    with pytest.raises(UsageError, match="no target"):
        run_sweep(model, [Sample("The baker sold the kettle.")], units(HEADS), metric="loss")


def test_infinite_logits_name_the_layer(samples):
    broken = HookedModel.load("zoo:needle", device="cpu")
    with torch.no_grad():
        broken.hf.model.layers[2].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(HeadscopeError, match="after layer 2 is the first that is not finite"):
        run_sweep(broken, samples, units(HEADS), runner=HookedRunner(broken, Ablation()))


def test_the_command(tmp_path, capsys):
    out = str(tmp_path / "out")
    argv = ["ablate", "sweep", "--out", out, "--lengths", "64", "--depths", "1", "--repeats", "2", "--json"]
    assert run([*argv, "--heads", "L2H2,L3H5", "--mode", "uniform"]) == 0
    assert [row["unit"] for row in printed(capsys)["units"]] == ["L2H2", "L3H5"]
    kept = Run.open(out)
    assert set(kept.table_names()) == {"effects", "units"}
    assert "What each is worth" in (Path(out) / "report.html").read_text()
    assert run([*argv[:3], str(tmp_path / "x"), *argv[4:], "--heads", "L2H2", "--shard", "2/2"]) == 2
