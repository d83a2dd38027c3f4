"""What a sweep has to do, as cells: how this process does them, and what another one must be told to do the same."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from experiments.executors.weights import weights_digest
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.cells import WORTH, Cell, cells_of, share_of, together
from experiments.sweeps.units import Unit
from experiments.sweeps.values import Asked, LogitValues, Metric, Runner, TaskScores, Values, asked_all, runner_for
from headscope.answers import asked_of
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.samples import Sample, Task
from headscope.sharing import Work
from tasks.manifest import item_rows

COLUMNS = ("unit", "sample", "clean", "value")
"""Of the table of a cell."""


@dataclass(frozen=True)
class SweepWork:
    """The cells of one share of a sweep, and the sweep that they are of."""

    work: Work
    every: tuple[str, ...]
    """Keys of the cells of all shares."""
    rows: Mapping[str, int]
    about: Mapping[str, Any]
    """What tells this sweep from any other."""


def sweep_work(
    model: HookedModel,
    samples: Sequence[Sample],
    units: Sequence[Unit],
    *,
    metric: Metric = "probability",
    ablation: Ablation | None = None,
    batch_tokens: int = 2048,
    part: str = "",
    shard: tuple[int, int] = (0, 1),
    task: Task | None = None,
    max_new_tokens: int | None = None,
    runner: Runner | None = None,
    worth: float = WORTH,
) -> SweepWork:
    """The work of `run_sweep`, whose arguments these are; nothing is run yet but the proof that passes may be shared.

    Cells of one batch are taken together until they are `worth` so many passes. UsageError for samples without the
    answers that the metric needs, or longer than the model's context.
    """
    _check(samples, units, metric, task)
    ablation = ablation or Ablation()
    room = asked_of(model, task, max_new_tokens)[1] if task is not None and metric == "score" else 0
    asked = asked_all(model, samples, metric, room)
    sizes = [len(one.ids) for one in asked]
    cells = cells_of(sizes, units, batch_tokens=batch_tokens, n_layers=model.n_layers, part=part)
    about = {
        "model": model.name,
        "revision": model.revision,
        "mode": ablation.mode,
        "seed": ablation.seed,
        "metric": metric,
        "dtype": str(model.hf.dtype),
        "batch_tokens": batch_tokens,
        "max_new_tokens": room,
        **_identified(samples, asked, units),
    }
    if task is not None and metric == "score":
        values = TaskScores(model, ablation, samples, task, room).of
    else:
        values = LogitValues(model, runner or runner_for(model, ablation, samples), samples, asked, metric).of
    mine = {cell.key: cell for cell in share_of(cells, shard)}
    rows = {key: cell.rows for key, cell in mine.items()}
    work = Work(
        tuple(mine),
        partial(_measured, values, mine),
        together=together(list(mine.values()), worth=worth),
        columns=COLUMNS,
        rows=rows,
        told={
            **{key: about[key] for key in about if key != "model"},
            "weights": weights_digest(model),
            "part": part,
            "shard": list(shard),
        },
    )
    return SweepWork(work, tuple(cell.key for cell in cells), rows, about)


def _check(samples: Sequence[Sample], units: Sequence[Unit], metric: Metric, task: Task | None) -> None:
    if metric not in get_args(Metric):
        raise UsageError(f"metric {metric!r} is not known; use one of {', '.join(get_args(Metric))}")
    if metric == "score" and task is None:
        raise UsageError("metric 'score' is the task's own score of an answer; give the task, or use another metric")
    if not samples or not units:
        raise UsageError(
            f"{len(samples)} samples and {len(units)} units were given; a sweep needs at least one of each"
        )
    names = [unit.name for unit in units]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"unit {twice[0]!r} is given twice; names must differ")


def _identified(samples: Sequence[Sample], asked: Sequence[Asked], units: Sequence[Unit]) -> dict[str, Any]:
    """What tells this sweep's cells from those of another, as far as it is not in its settings."""
    told = [
        [list(one.ids), sample.target, str(sample.meta.get("foil", "")), *row["images"]]
        for sample, one, row in zip(samples, asked, item_rows(samples), strict=True)
    ]
    return {
        "samples": len(samples),
        "sha256": hashlib.sha256(json.dumps(told).encode()).hexdigest(),
        "units": {unit.name: [str(head) for head in unit.heads] for unit in units},
    }


def _measured(
    values: Callable[[Sequence[int], Sequence[Unit]], Values], named: Mapping[str, Cell], keys: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cells of one batch, each with its table as soon as its units are done."""
    cells = [named[key] for key in keys]
    places = cells[0].places
    found = values(places, [unit for cell in cells for unit in cell.units])
    _, clean = next(found)
    done: dict[str, dict[str, Tensor]] = {}
    cell_of = {unit.name: cell for cell in cells for unit in cell.units}
    for unit, value in found:
        assert unit is not None  # the whole model comes first, and once
        cell = cell_of[unit.name]
        done.setdefault(cell.key, {})[unit.name] = value
        if len(done[cell.key]) == len(cell.units):
            yield cell.key, _table(places, clean, done.pop(cell.key))


def _table(places: Sequence[int], clean: Tensor, values: Mapping[str, Tensor]) -> pd.DataFrame:
    columns = {
        "unit": [unit for unit in values for _ in places],
        "sample": list(places) * len(values),
        "clean": clean.double().repeat(len(values)).numpy(),
        "value": torch.cat([value.double() for value in values.values()]).numpy(),
    }
    return pd.DataFrame(columns)
