"""Cells done by workers on a Ray cluster, which need no folder in common with this process.

Each worker is an actor that loads the model under its name once. This process claims cells in the run's folder, hands
them out, a portion to a worker, and writes the tables that come back. A worker or node that dies costs its portion: the
cells are handed out again, and another actor is started wherever the cluster has room. No actor is restarted by Ray
itself, so that there is one account of what failed.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import pandas as pd

from experiments.executors.cluster import connected
from experiments.executors.crew import Crew
from experiments.executors.order import Order
from experiments.executors.stopping import stopping_on_sigterm
from headscope.errors import UsageError
from headscope.runs import Run
from headscope.sharing import Executor, Update, Work, take

_PAUSE = 1.0
"""Seconds between two looks at the folder while workers are busy."""


@contextmanager
def on_ray(
    order: Order, *, workers: int | None = None, num_gpus: float | None = None, address: str | None = None
) -> Iterator[Executor]:
    """An executor of so many actors with `num_gpus` each, on the cluster at `address`, or one of its own on this machine.

    By default a worker a GPU where the cluster has some, else one a node, or 2 on a cluster of its own. Actors, and a
    cluster of its own, end with the block. UsageError without Ray, or for a cluster that does not answer within 15
    seconds or has no room for a single worker.
    """
    with ExitStack() as stack:
        ray, room = stack.enter_context(connected(address=address, workers=workers, num_gpus=num_gpus))
        stack.enter_context(stopping_on_sigterm())  # after Ray, which sets a handler of its own
        crew = Crew(ray, order, room)
        stack.callback(crew.stop)
        yield partial(_do, crew)


def _do(crew: Crew, run: Run | None, work: Work, update: Update) -> dict[str, pd.DataFrame]:
    if run is None:
        raise UsageError("results are kept in a run, and none was given; give one, or use the local executor")
    found: dict[str, pd.DataFrame] = {}
    told = json.dumps(dict(work.told))

    def note(key: str, table: pd.DataFrame | None) -> None:
        if table is not None:
            found[key] = table
            update(key, table)

    def look() -> None:
        there = set(run.cell_keys())
        for key in work.keys:
            if key not in found and key not in crew.out and key in there:
                note(key, work.kept(run, key))

    def keep(tables: Sequence[tuple[str, pd.DataFrame]]) -> None:
        for key, table in tables:
            note(key, table if run.save_cell(key, table) else work.kept(run, key))

    looked = -_PAUSE
    try:
        while len(found) < len(work.keys):
            if time.monotonic() - looked >= _PAUSE:  # no more often, however many workers answer meanwhile
                look()
                looked = time.monotonic()
            _hand_out(crew, run, work, told, found)
            if crew.busy:
                crew.collect(_PAUSE, keep)
            elif len(found) < len(work.keys):
                time.sleep(_PAUSE)
    finally:
        crew.let_go()
    return {key: found[key] for key in work.keys}


def _hand_out(crew: Crew, run: Run, work: Work, told: str, found: Collection[str]) -> None:
    """A portion of what is left to every worker that has none, as far as no other process on this run is at it."""
    out = crew.out
    left = [key for key in work.keys if key not in found and key not in out]
    crew.employ(len(left))
    for worker in crew.idle:
        with ExitStack() as claims:
            keys = take(run, left, work.together, claims)
            if not keys:
                return
            worker.give(told, keys, claims.pop_all())
        left = [key for key in left if key not in keys]
