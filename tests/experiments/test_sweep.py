"""Sweeps: equal to whole hooked passes, kept cell by cell, and refused where nothing could be measured."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments import compare, run_sweep, units
from experiments.cli import run
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.cells import cells_of, share_of
from experiments.sweeps.sweep import HookedRunner, sweep_of
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


def test_cells_are_the_same_whoever_does_them(model, samples):
    every = units(model.heads())
    sizes = [len(model.tokens(sample).ids) for sample in samples]
    cells = cells_of(sizes, every, batch_tokens=100, n_layers=model.n_layers)
    assert [cell.key for cell in cells[:5]] == [
        *(f"batch 0, from layer {i}" for i in range(4)),
        "batch 1, from layer 0",
    ]
    assert sum(cell.rows for cell in cells) == len(every) * len(samples)
    batches = {cell.batch for cell in cells}
    assert len(batches) == len(samples) == 4
    for n in (1, 2, 3, 4, 5, 16):
        shares = [share_of(cells, (i, n)) for i in range(n)]
        assert sorted(cell.key for share in shares for cell in share) == sorted(cell.key for cell in cells)
        assert all(shares)
        if n <= 4:  # whole batches together
            assert sum(len({cell.batch for cell in share}) for share in shares) == 4


@pytest.mark.parametrize("kept", [False, True])
def test_shards_say_what_is_missing_and_make_the_whole(model, samples, tmp_path, kept):
    asked = units(HEADS)
    settings = {"metric": "loss", "batch_tokens": 100}
    whole = run_sweep(model, samples, asked, **settings)
    assert (whole.cells, whole.missing, whole.note) == (16, (), "")
    run = Run.create(tmp_path / "run", command="sweep", config={}) if kept else None
    first, last = (run_sweep(model, samples, asked, run=run, shard=(i, 3), **settings) for i in (2, 0))
    assert first.note == "12 of 16 cells are still missing: run the other shards, or --resume"
    assert len(first.table) == 4
    for use in (first.summary, first.scores):
        with pytest.raises(UsageError, match="12 of 16 cells are still missing"):
            use()
    assert len(last.missing) == (4 if kept else 8)
    if run is not None:
        found = run_sweep(model, samples, asked, run=run, shard=(1, 3), **settings)
        pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
        pd.testing.assert_frame_equal(sweep_of(run).summary(), whole.summary(), check_exact=True)
        assert sweep_of(run).meta == whole.meta
        assert sweep_of(run).units == asked
        assert torch.equal(sweep_of(run).scores().samples.nan_to_num(), whole.scores().samples.nan_to_num())


@pytest.mark.parametrize(
    ("shard", "says"),
    [((3, 3), "not one of 3"), ((-1, 2), "not one of 2"), ((0, 0), "not one of 0"), ((0, 5), "of 4 cells leave some")],
)
def test_shards_that_there_are_not(model, samples, shard, says):
    with pytest.raises(UsageError, match=says):
        run_sweep(model, samples, units(HEADS), metric="loss", shard=shard)


def test_a_run_keeps_one_sweep_under_one_name(model, samples, tmp_path):
    run = Run.create(tmp_path / "run", command="sweep", config={})
    first = run_sweep(model, samples[:2], units(HEADS[:2]), metric="loss", run=run)
    for other in ({"metric": "kl"}, {"ablation": Ablation("uniform")}, {"batch_tokens": 70}):
        with pytest.raises(UsageError, match="holds cells of other work"):
            run_sweep(model, samples[:2], units(HEADS[:2]), **({"metric": "loss", "run": run} | other))
    with pytest.raises(UsageError, match=r"other work \(sha256 differ"):
        run_sweep(model, samples[2:], units(HEADS[:2]), metric="loss", run=run)
    with pytest.raises(UsageError, match=r"other work \(cells, units differ"):
        run_sweep(model, samples[:2], units(HEADS[2:]), metric="loss", run=run)
    second = run_sweep(model, samples[:2], units(HEADS[2:]), metric="loss", run=run, part="others, ")
    assert set(second.table["unit"]) == {"L2H2", "L3H5"}
    pd.testing.assert_frame_equal(sweep_of(run).table, first.table)
    pd.testing.assert_frame_equal(sweep_of(run, part="others, ").table, second.table)
    with pytest.raises(UsageError, match="no sweep named 'sweep third'; it holds sweep, sweep others,"):
        sweep_of(run, part="third")


def test_the_tasks_own_score(model, tmp_path):
    task = Needle((64, 96), 2, 1, seed=7)
    samples = task.samples(model.tokenizer)
    run = Run.create(tmp_path / "run", command="sweep", config={})
    found = run_sweep(model, samples, units(HEADS), metric="score", task=task, run=run, batch_tokens=100)
    assert set(found.table["value"]) <= {0.0, 1.0}
    conditions = {"none": [], **{unit.name: [Ablation().of(unit.heads)] for unit in units(HEADS)}}
    compared = compare(model, task, conditions).table.set_index(["condition", "sample"])["score"]
    for row in found.table.itertuples():
        assert (row.clean, row.value) == (compared["none", row.sample], compared[row.unit, row.sample])
    effects = found.summary().set_index("unit")["effect"]
    assert effects["L2H2"] < -0.5  # the head that copies
    assert effects["L3H5"] == 0
    again = run_sweep(model, samples, units(HEADS), metric="score", task=task, batch_tokens=100)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_what_cannot_be_measured_is_refused(model, samples):
    with pytest.raises(UsageError, match="begin with the same token"):
        run_sweep(model, samples, units(HEADS), metric="logit_difference")
    with pytest.raises(UsageError, match="at least one of each"):
        run_sweep(model, [], units(HEADS))
    with pytest.raises(UsageError, match="no target"):
        run_sweep(model, [Sample("The baker sold the kettle.")], units(HEADS), metric="loss")
    with pytest.raises(UsageError, match="metric 'score' is the task's own score of an answer; give the task"):
        run_sweep(model, samples, units(HEADS), metric="score")
    with pytest.raises(UsageError, match="unit 'L0H3' is given twice"):
        run_sweep(model, samples, units((*HEADS, HEADS[0])))


def test_prompts_that_cannot_be_run_are_refused_by_number(model, samples):
    with pytest.raises(UsageError, match="sample 1 has an empty prompt"):
        run_sweep(model, [samples[0], Sample("", "kettle")], units(HEADS))
    long = Sample(samples[0].prompt * 200, samples[0].target)
    length, limit = len(model.tokens(long).ids), model.context_length
    with pytest.raises(UsageError, match=f"sample 0 takes {length} tokens .* the context of .* is {limit} tokens"):
        run_sweep(model, [long], units(HEADS))


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
    assert set(kept.table_names()) >= {"effects", "units"}
    assert "What each is worth" in (Path(out) / "report.html").read_text()
    assert run([*argv[:3], str(tmp_path / "x"), *argv[4:], "--heads", "L2H2", "--shard", "2/2"]) == 2
