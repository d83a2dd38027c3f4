"""A polite end on SIGTERM, as schedulers send it: the same as Ctrl-C, so that what was started is stopped."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises KeyboardInterrupt; only in the main thread, where signals can be caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
