"""Runs of one command that did different cells, on different machines say, put together in one folder."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from headscope.cells import Cells
from headscope.differences import differences
from headscope.errors import UsageError
from headscope.files import write_new
from headscope.runs import Run, asked_config

_KEPT = ("model", "self_check", "commit", "versions")


def merge_runs(paths: Sequence[str | Path], out: str | Path) -> Run:
    """A new run with the cells of all these; what is still missing, `missing_cells()` of it says.

    The runs stay as they are. UsageError if they differ in command, settings (but for `shard`), seeds, model, commit or
    plan of cells, if two hold different tables for one cell, or if there is no cell at all. A cell that cannot be read is
    left out with a warning. What is made of the cells is not merged: the command with --resume makes it anew.
    """
    runs = [Run.open(path) for path in paths]
    if not runs:
        raise UsageError("no run is given to merge; give the folders of its parts")
    first, *others = runs
    for other in others:
        if found := differences(_told(first), _told(other), said="{key!r} is {old} there and {new} here"):
            raise UsageError(f"{first.path} and {other.path} are not parts of one run: {found}; run them alike")
    plans, cells = _plans(runs), _union(runs)
    if not cells:
        raise UsageError(f"none of {', '.join(str(run.path) for run in runs)} holds a finished cell to merge")
    facts = first.facts
    parts = [{"run": run.path.name, **{key: run.facts.get(key) for key in ("created", "versions")}} for run in runs]
    merged = Run.create(
        out,
        command=facts["command"],
        config=asked_config(facts["config"]),
        seeds=facts.get("seeds", []),
        merged=parts,
        **{key: facts[key] for key in _KEPT if key in facts},
    )
    for name, plan in plans.items():
        merged.plan(name, plan["cells"], {key: value for key, value in plan.items() if key != "cells"})
    for key, run in cells.items():
        _copy(_cells(run).path(key), _cells(merged).path(key))
    merged.finish("partial" if merged.missing_cells() else "merged")
    return merged


def _told(run: Run) -> dict[str, Any]:
    """What must be the same in all parts."""
    facts = run.facts
    told: Mapping[str, Any] = {key: facts.get(key) for key in ("command", "seeds", "model", "commit")}
    return {**told, **asked_config(facts["config"])}


def _plans(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """What was planned in any of the runs; UsageError if two planned differently."""
    found: dict[str, tuple[Run, dict[str, Any]]] = {}
    for run in runs:
        for name, plan in run.plans().items():
            other, there = found.setdefault(name, (run, plan))
            if apart := differences(there, plan, said="{key!r} is {old} there and {new} here"):
                raise UsageError(
                    f"{other.path} and {run.path} hold different cells under {name!r}: {apart}; run them alike"
                )
    return {name: plan for name, (_, plan) in found.items()}


def _union(runs: Sequence[Run]) -> dict[str, Run]:
    """Every cell's key, sorted, and a run that holds it whole."""
    found: dict[str, Run] = {}
    for key in sorted({key for run in runs for key in run.cell_keys()}):
        tables = [(run, table) for run in runs if (table := _whole(run, key)) is not None]
        for run, table in tables[1:]:
            if not table.equals(tables[0][1]):
                raise UsageError(
                    f"{tables[0][0].path} and {run.path} hold different tables for the cell {key!r}; find out which is "
                    "right, and remove the other one's file"
                )
        if tables:
            found[key] = tables[0][0]
    return found


def _whole(run: Run, key: str) -> pd.DataFrame | None:
    if not run.has_cell(key):
        return None
    try:
        return run.cell(key)
    except UsageError as error:
        logging.getLogger(__name__).warning("warning: left out: %s", " ".join(str(error).split()))
        return None


def _copy(source: Path, target: Path) -> None:
    def write(path: Path) -> None:
        shutil.copyfile(source, path)

    write_new(target, write)


def _cells(run: Run) -> Cells:
    return Cells(run.path / "cells")
