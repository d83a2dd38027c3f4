"""Workers on a Ray cluster: what each is at, and what becomes of it when one is gone."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pandas as pd

from experiments.executors.cluster import Room
from experiments.executors.failures import Failures
from experiments.executors.order import Order
from headscope.errors import HeadscopeError

Tables = Sequence[tuple[str, pd.DataFrame]]

_WORDS = 600
"""Characters of what Ray says that an error repeats."""
_LONG = 60.0
"""Seconds without a single worker after which that is said."""


class Hand:
    """One worker: its actor, the answer that is awaited, and the cells that it has."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.keys: list[str] = []
        self.answer: Any = actor.load.remote()
        self._claims = ExitStack()

    def give(self, told: str, keys: list[str], claims: ExitStack) -> None:
        """Hands it cells, which stay claimed until they are let go."""
        self.keys, self._claims = keys, claims
        self.answer = self.actor.do.remote(told, keys)

    def let_go(self) -> None:
        """Its cells are free again, done or not."""
        self._claims.close()
        self.keys, self.answer = [], None


class Crew:
    """All workers of one order."""

    def __init__(self, ray: Any, order: Order, room: Room) -> None:
        self._ray, self._order, self._room = ray, order, room
        self._failures = Failures()
        self._hands: list[Hand] = []
        self._sign = time.monotonic()

    @property
    def out(self) -> set[str]:
        """The cells that are handed out."""
        return {key for hand in self._hands for key in hand.keys}

    @property
    def idle(self) -> list[Hand]:
        """Workers that have their model and no cells."""
        return [hand for hand in self._hands if hand.answer is None]

    @property
    def busy(self) -> bool:
        """Whether any answer is awaited."""
        return any(hand.answer is not None for hand in self._hands)

    def employ(self, cells: int) -> None:
        """Starts workers, as many as there are cells for and as were asked for."""
        busy = sum(bool(hand.keys) for hand in self._hands)
        for _ in range(len(self._hands), min(self._room.workers, busy + cells)):
            self._start()

    def collect(self, seconds: float, keep: Callable[[Tables], None]) -> None:
        """Waits so long for answers and has their tables kept; workers that are gone are replaced.

        Raises what a worker refused, and HeadscopeError where workers die of one cell three times.
        """
        awaited = {hand.answer: hand for hand in self._hands if hand.answer is not None}
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=seconds)
        more, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        for answer in dict.fromkeys([*ready, *more]):
            self._collect(awaited[answer], keep)
        self._warn_of_silence()

    def let_go(self) -> None:
        """Forgets what was handed out; workers in the middle of it are ended."""
        for hand in [hand for hand in self._hands if hand.keys]:
            self._end(hand)

    def stop(self) -> None:
        """Ends all workers."""
        for hand in list(self._hands):
            self._end(hand)

    def _collect(self, hand: Hand, keep: Callable[[Tables], None]) -> None:
        errors = self._ray.exceptions
        try:
            tables = self._ray.get(hand.answer)
        except errors.RayTaskError as error:
            if isinstance(error.cause, HeadscopeError):
                raise type(error.cause)(str(error.cause)) from None
            return self._replace(hand, f"{type(error.cause).__name__}: {error.cause}")
        except errors.RayError as error:  # the worker or its node is gone, or the tables with it
            return self._replace(hand, str(error))
        self._failures.started()
        self._sign = time.monotonic()
        if tables is not None:  # None is the answer that the model is there
            keep(tables)
        return hand.let_go()

    def _replace(self, hand: Hand, message: str) -> None:
        keys = list(hand.keys)
        self._end(hand)
        self._failures.note(keys, " ".join(message.split())[:_WORDS])
        self._start()

    def _start(self) -> None:
        from experiments.executors.ray_worker import RayWorker

        options = {"num_cpus": 1, "num_gpus": self._room.num_gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(RayWorker).options(**options)
        self._hands.append(Hand(actor.remote(self._order.text(), self._room.threads)))

    def _end(self, hand: Hand) -> None:
        hand.let_go()
        self._hands.remove(hand)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(hand.actor)

    def _warn_of_silence(self) -> None:
        if any(hand.keys or hand.answer is None for hand in self._hands):
            self._sign = time.monotonic()
        elif time.monotonic() - self._sign > _LONG:
            self._sign = time.monotonic()
            logging.getLogger(__name__).warning(
                "warning: for %.0f s no worker has had its model: the cluster may have no room for 1 CPU and %g GPUs, or "
                "loading takes long; `ray status` shows what waits",
                _LONG,
                self._room.num_gpus,
            )
