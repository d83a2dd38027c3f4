"""How far a long piece of work is: a bar in a terminal or a notebook, now and then a line where there is neither.

Both go to standard error, so that standard output holds nothing but results.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

_STEP = 0.1
_SOONEST, _LATEST = 5.0, 30.0
"""Seconds between two lines: every tenth of the work, but no more often and no more seldom than this."""


@contextmanager
def progress_bar(total: int, what: str, *, shown: bool, done: int = 0) -> Iterator[Callable[[int], object]]:
    """A function to call with the number of things just done; `done` were done before. Silent unless `shown`."""
    if not shown:
        yield _ignored
    elif sys.stderr.isatty() or _in_notebook():
        with tqdm(total=total, initial=done, desc=what) as bar:
            yield bar.update
    else:
        yield _Lines(total, what, done).update


def with_progress(items: Iterable[T], what: str, *, shown: bool) -> Iterator[T]:
    """The items one by one, each counted as done when the next is asked for."""
    items = list(items)
    with progress_bar(len(items), what, shown=shown) as update:
        for item in items:
            yield item
            update(1)


class _Lines:
    def __init__(self, total: int, what: str, done: int) -> None:
        self._total, self._what, self._done, self._before = total, what, done, done
        self._begin = self._last = time.monotonic()
        self._said = done

    def update(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        waited, moved = now - self._last, (self._done - self._said) / max(1, self._total)
        if waited >= _LATEST or (waited >= _SOONEST and (moved >= _STEP or self._done >= self._total)):
            self._last, self._said = now, self._done
            sys.stderr.write(self._line(now - self._begin) + "\n")
            sys.stderr.flush()

    def _line(self, passed: float) -> str:
        text = f"{self._what}: {self._done} of {self._total} ({self._done / max(1, self._total):.0%}), {passed:.0f} s"
        new, left = self._done - self._before, self._total - self._done
        return f"{text}, about {passed * left / new:.0f} s left" if new > 0 and left > 0 else text


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this, which shows bars although it has no terminal."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def _ignored(_: int) -> None:
    """Nobody watches."""
