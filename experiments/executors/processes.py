"""Cells done by several processes of this machine, which share the run's folder by its claims.

Each worker is a fresh process (no fork: torch has threads by now) that loads the model once and goes through the cells of
the folder as any process on the run does. This one starts them, looks what the folder holds, and starts another worker
where one died. Orders are lines of JSON on a worker's standard input, whose end is a worker's end, however this one went.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pandas as pd
import torch

from experiments.executors.child import Child, Inbox
from experiments.executors.failures import Failures
from experiments.executors.order import Order
from experiments.executors.stopping import stopping_on_sigterm
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run
from headscope.sharing import Executor, Update, Work

_PAUSE = 0.2
"""Seconds between two looks at the folder."""


@contextmanager
def processes(order: Order, *, workers: int | None = None) -> Iterator[Executor]:
    """An executor of so many processes (by default one a GPU, or 2), which all end with the block.

    They divide this process' threads among them. Without `device`, or with cuda, worker i takes GPU i, round and round.
    The executor raises what a worker refuses, and HeadscopeError with a worker's last words where workers die of one cell
    three times.
    """
    crew = _Crew(order, workers or torch.cuda.device_count() or 2)
    with stopping_on_sigterm():
        try:
            yield partial(_do, crew)
        finally:
            crew.stop()


class _Crew:
    """Worker processes, and what they say."""

    def __init__(self, order: Order, count: int) -> None:
        self._order, self._count = order, count
        self._inbox: Inbox = Inbox()
        self._failures = Failures()
        self._stage = ""
        self.children: dict[int, Child] = {}

    def begin(self, run: Run, work: Work) -> None:
        """Gives all workers the next piece of work; starts those that are not there, no more than there are cells."""
        self._stage = Child.stage(run.path, work.told)
        for number in range(min(self._count, len(work.keys))):
            if number in self.children:
                self.children[number].tell(self._stage)
            else:
                self._start(number)

    def listen(self, seconds: float) -> None:
        """What workers have said since; one that died is replaced, and one that is done too early is sent again."""
        until = time.monotonic() + seconds
        while (heard := self._inbox.next(until - time.monotonic())) is not None:
            child, message = heard
            if message is None:
                self._replace(child)
            elif "refused" in message:
                raise (UsageError if message["refused"] == "UsageError" else HeadscopeError)(message["message"])
            else:
                child.note(message)
                if child.ready:
                    self._failures.started()

    def again(self) -> None:
        """Workers that found nothing more to do look once more: a cell that they had seen may have been refused."""
        for child in self.children.values():
            if child.ended:
                child.tell(self._stage)

    def settle(self) -> None:
        """Waits until no worker is in the folder any more; those that still load their model, or died, are not missed."""
        self._stop([child for child in self.children.values() if not child.ready])
        while at := [child for child in self.children.values() if not child.ended]:
            heard = self._inbox.next(_PAUSE)
            if heard is not None and heard[1] is not None:
                heard[0].note(heard[1])
            self._stop([child for child in at if child.process.poll() is not None])

    def stop(self) -> None:
        """Ends all workers."""
        self._stop(list(self.children.values()))

    def _stop(self, some: Sequence[Child]) -> None:
        for child in some:
            child.end()
        for child in some:
            child.wait()
            del self.children[child.number]

    def _start(self, number: int) -> None:
        device = _device(self._order.model.get("device"), number)
        threads = max(1, torch.get_num_threads() // self._count)
        child = Child.start(self._order, number, device, threads, self._inbox)
        child.tell(self._stage)
        self.children[number] = child

    def _replace(self, child: Child) -> None:
        if self.children.get(child.number) is not child:
            return
        self._failures.note(child.at, child.last_words())
        self._start(child.number)


def _do(crew: _Crew, run: Run | None, work: Work, update: Update) -> dict[str, pd.DataFrame]:
    if run is None:
        raise UsageError("workers meet in the folder of a run, and none was given; give one, or use the local executor")
    found: dict[str, pd.DataFrame] = {}

    def look() -> bool:
        there = set(run.cell_keys())
        for key in work.keys:
            if key not in found and key in there and (table := work.kept(run, key)) is not None:
                found[key] = table
                update(key, table)
        return len(found) == len(work.keys)

    if not look():
        crew.begin(run, work)
        while not look():
            crew.again()
            crew.listen(_PAUSE)
        crew.settle()
    return {key: found[key] for key in work.keys}


def _device(asked: str | None, number: int) -> str | None:
    """The device of one worker: its share of the GPUs, where no single device was asked for."""
    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count and asked in (None, "cuda") else asked
