"""Independent cells, done one after another, by as many processes as work on the run."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from headscope.runs import Run
from headscope.samples import batches

Do = Callable[[Sequence[str]], Iterator[tuple[str, pd.DataFrame]]]
"""Does some cells and hands each over, with its key, as soon as it is done."""

_SOONEST, _LATEST = 0.05, 1.0
"""Seconds between two looks at what other processes are doing."""


Update = Callable[[str, pd.DataFrame], object]
"""Told of every cell that is there, finished ones first; may refuse it with an error."""


def _alone(taken: Sequence[str], key: str) -> bool:
    return False


@dataclass(frozen=True)
class Work:
    """Cells, how they are done in this process, and what another process must be told to do the same ones."""

    keys: tuple[str, ...]
    do: Do
    together: Callable[[Sequence[str], str], bool] = _alone
    columns: Collection[str] = ()
    rows: Mapping[str, int] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    """As JSON holds it; besides the model and the order that an executor was made for."""

    def kept(self, run: Run, key: str) -> pd.DataFrame | None:
        """The finished cell that a run holds; None, and moved aside, if it is not of this shape."""
        return run.finished_cell(key, columns=self.columns, rows=self.rows[key] if self.rows else None)


@runtime_checkable
class Executor(Protocol):
    """Has all cells of a piece of work done, here or in other processes."""

    def __call__(self, run: Run | None, work: Work, update: Update) -> dict[str, pd.DataFrame]:
        """The tables of all cells by key, in the order of the keys; with a `run`, all of them are kept there."""


def do_work(run: Run | None, work: Work, update: Update) -> dict[str, pd.DataFrame]:
    """Does all cells in this process, one after another."""
    return do_cells(
        run,
        work.keys,
        work.do,
        together=work.together,
        columns=work.columns,
        rows=work.rows,
        update=update,
    )


def do_cells(
    run: Run | None,
    keys: Sequence[str],
    do: Do,
    *,
    together: Callable[[Sequence[str], str], bool] = _alone,
    columns: Collection[str] = (),
    rows: Mapping[str, int] | None = None,
    update: Update,
) -> dict[str, pd.DataFrame]:
    """The tables of all cells by key, in the order of `keys`.

    With a `run`, finished cells are read there, others kept there as soon as they are done, and those at which another
    process is are left to it, and done only if it ends without them. `together(taken, key)` says whether a cell may be
    done in one call of `do` with those before it (by default each is done by itself). A kept cell without these columns,
    or with another number of rows, is done again. `update` is told of every cell that is there, finished ones first, and
    may refuse it with an error.
    """
    found: dict[str, pd.DataFrame] = {}

    def note(key: str, table: pd.DataFrame | None) -> None:
        if table is not None:
            found[key] = table
            update(key, table)

    def kept(run: Run, key: str) -> pd.DataFrame | None:
        return run.finished_cell(key, columns=columns, rows=rows[key] if rows else None)

    pause = _SOONEST
    while left := [key for key in keys if key not in found]:
        if run is not None:
            there = set(run.cell_keys())  # one look at the folder, however many cells there are
            for key in left:
                note(key, kept(run, key) if key in there else None)
            left = [key for key in left if key not in found]
        with ExitStack() as claims:
            taken = take(run, left, together, claims)
            for key, table in do(taken) if taken else ():
                mine = run is None or run.save_cell(key, table)
                note(key, table if mine or run is None else kept(run, key))
        pause = _SOONEST if taken else min(2 * pause, _LATEST)
        if left and not taken:
            time.sleep(pause)
    return {key: found[key] for key in keys}


def each_sample(
    run: Run | None,
    sizes: Sequence[int],
    measure: Callable[[Sequence[int]], pd.DataFrame],
    *,
    key: str,
    batch_tokens: int,
    update: Callable[[int], object],
) -> pd.DataFrame:
    """What is measured of samples of these sizes (tokens) in batches, a row each with its place as `sample`, in order.

    With a `run`, every finished batch is kept there as one cell, under `key` and the place of its first sample. Batches
    of another size than now are as good, so a run that ran out of memory can go on with smaller ones.
    """
    found: dict[int, pd.DataFrame] = {}
    pause = _SOONEST

    def note(table: pd.DataFrame) -> None:
        new = [(i, place) for i, place in enumerate(table["sample"]) if place not in found]
        found.update({place: table.iloc[[i]] for i, place in new})
        update(len(new))

    read: set[str] = set()
    while True:
        there = [] if run is None else [name for name in run.cell_keys() if name.startswith(key) and name not in read]
        for name in there:
            read.add(name)
            if run is not None and (table := run.finished_cell(name, columns=("sample",))) is not None:
                note(table)
        left = [place for place in range(len(sizes)) if place not in found]
        if not left:
            break
        busy = True
        for which, _ in batches(left, lambda place: sizes[place], batch_tokens):
            places = [left[i] for i in which]
            name = f"{key}{places[0]:05d}"
            with nullcontext(True) if run is None else run.claim(name) as mine:
                if not mine:
                    continue
                table = measure(places)
                if run is not None:
                    run.save_cell(name, table)
                note(table)
                busy = False
        if busy:
            time.sleep(pause)
            pause = min(2 * pause, _LATEST)
    return pd.concat([found[place] for place in range(len(sizes))], ignore_index=True)


def take(
    run: Run | None, left: Sequence[str], together: Callable[[Sequence[str], str], bool], claims: ExitStack
) -> list[str]:
    """The first cell that nobody is at, and those that may be done with it; claimed until `claims` ends."""
    taken: list[str] = []
    for key in left:
        if taken and not together(taken, key):
            break
        if run is None or claims.enter_context(run.claim(key)):
            taken.append(key)
    return taken
