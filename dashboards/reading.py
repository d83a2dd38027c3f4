"""Run folders as the dashboard lists them; a damaged one is listed with what is wrong, and the others stay."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
from pyarrow.parquet import read_schema

from dashboards.confined import folder_in
from dashboards.plain import sendable
from headscope.errors import HeadscopeError, UsageError
from headscope.files import file_name
from headscope.runs import Run
from headscope.scores import HeadScores


@dataclass(frozen=True)
class RunCard:
    """A run in a list; `problem` says why it cannot be shown, and what to do, where it cannot."""

    name: str
    command: str = ""
    model: str = ""
    created: str = ""
    status: str = ""
    seconds: float | None = None
    scores: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    problem: str = ""

    def shares_model(self, other: "RunCard") -> bool:
        """Whether both are known to be of one model; a run that names none shares it with itself alone."""
        return self.name == other.name or (self.model != "" and self.model == other.model)


def run_cards(runs: Path) -> tuple[RunCard, ...]:
    """All runs in a folder, the newest first and damaged ones last; UsageError if there is no such folder."""
    if not runs.is_dir():
        raise UsageError(f"there is no folder {runs}; `headscope demo --out runs/demo` makes a first run in runs")
    names = sorted(path.parent.name for path in runs.glob("*/run.json") if not path.parent.name.startswith("."))
    cards = [run_card(runs, name) for name in names]
    whole = sorted((card for card in cards if not card.problem), key=lambda card: card.created, reverse=True)
    return (*whole, *(card for card in cards if card.problem))


def run_card(runs: Path, name: str) -> RunCard:
    """One run; never raises for what is wrong inside the folder."""
    if name != sendable(name):
        return RunCard(
            sendable(name),
            status="cannot be read",
            problem=f"the name {sendable(name)} is not UTF-8; rename the folder",
        )
    try:
        run = open_run(runs, name)
        facts = run.facts
        return RunCard(
            name,
            _text(facts, "command"),
            model_name(facts),
            _text(facts, "created"),
            _text(facts, "status"),
            _number(facts.get("wall_s")),
            run.score_names(),
            run.table_names(),
        )
    except (HeadscopeError, OSError) as error:
        return RunCard(name, status="cannot be read", problem=sendable(error))
    except RecursionError:
        why = f"{runs / name / 'run.json'} is nested too deeply; restore it, or start a run in another folder"
        return RunCard(name, status="cannot be read", problem=why)


def open_run(runs: Path, name: str) -> Run:
    """The run of this name, which lies in the folder and nowhere else; UsageError otherwise."""
    return Run.open(folder_in(runs, name))


def stamp(path: Path) -> int:
    """A number that changes when a run does: the newest time of change in its folder."""
    newest = path.stat().st_mtime_ns
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a process at work has put it into its place since
                newest = max(newest, entry.stat(follow_symlinks=False).st_mtime_ns)
    return newest


def model_name(facts: Mapping[str, Any]) -> str:
    """Name of the model that a run was made on; empty where it names none."""
    model = facts.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return sendable(name) if isinstance(name, str) else ""


def run_scores(run: Run, name: str) -> HeadScores:
    """Head scores of a run; UsageError for a file that is damaged, whatever is wrong with it."""
    try:
        return run.scores(name)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise damaged(run, name, error) from error


def run_table(run: Run, name: str) -> pd.DataFrame:
    """A table of a run; UsageError for a file that is damaged."""
    try:
        return run.table(name)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise damaged(run, name, error) from error


def table_columns(run: Run, name: str) -> tuple[str, ...]:
    """Names of a table's columns, from the end of its file alone; UsageError for a file that is damaged."""
    try:
        return tuple(read_schema(run.path / file_name(name, ".parquet")).names)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        raise damaged(run, name, error) from error


def damaged(run: Run, name: str, error: Exception) -> UsageError:
    """What to say of a file that cannot be read."""
    if isinstance(error, UsageError):
        return error
    return UsageError(
        f"{name!r} in {run.path} is damaged ({type(error).__name__}: {error}); remove the file and make it again: the "
        "command that made the run, with --resume"
    )


def _text(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key)
    return "" if value is None else sendable(value)


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None
