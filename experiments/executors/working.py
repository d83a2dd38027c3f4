"""What a worker process holds: one model, loaded once, and the work that it makes of what it is told."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from experiments.commands.judging_order import judging_from
from experiments.commands.sweep_order import sweep_from
from experiments.executors.order import Kind, Order
from experiments.options import load_model
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.sharing import Work

Told = Mapping[str, Any]

_MAKERS: Mapping[Kind, Callable[[HookedModel, Told], Callable[[Told], Work]]] = {
    "sweep": sweep_from,
    "eval": judging_from,
}


class Worker:
    """Has one model and does cells with it; starts empty, so that what cannot be loaded is an answer, not a death."""

    def __init__(self, order: str, *, place: str = "", threads: int | None = None) -> None:
        """`place` names the machine in errors; `threads` are those of torch."""
        self._order, self._place, self._threads = Order.read(order), place, threads
        self._make: Callable[[Told], Work] | None = None
        self._told, self._work = "", Work((), lambda keys: iter(()))

    def load(self) -> None:
        """Loads the model; UsageError, naming the machine, if it is not there."""
        if self._make is not None:
            return
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            model = load_model(**self._order.model)
            self._make = _MAKERS[self._order.kind](model, self._order.settings)
        except UsageError as error:
            raise UsageError(f"{self._place}{error}") from error

    def work(self, told: str) -> Work:
        """The work that a text describes; UsageError if this worker would do other work, and what differs."""
        if told != self._told:
            self.load()
            assert self._make is not None
            asked = json.loads(told)
            work = self._make(asked)
            mine = json.loads(json.dumps(work.told))
            differing = [key for key in asked | mine if asked.get(key) != mine.get(key)]
            if differing:
                raise UsageError(
                    f"{self._place}the work made here is not the one asked for ({', '.join(differing)} differ); every "
                    "worker needs the same model, the same files and the same versions of headscope"
                )
            self._told, self._work = told, work
        return self._work

    def do(self, told: str, keys: list[str]) -> list[tuple[str, pd.DataFrame]]:
        """The tables of these cells."""
        return list(self.work(told).do(keys))
