"""A worker process as the process that started it sees it."""

import json
import os
import queue
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals
from threading import Thread
from typing import IO, Any

from experiments.executors.order import Order

_COMMAND = (sys.executable, "-X", "faulthandler", "-m", "experiments.executors.process_worker")
_WORDS = 600
"""Characters of a worker's last words that an error repeats."""
_PATIENCE = 5.0
"""Seconds that a worker has to end."""


class Inbox:
    """Messages of all workers in the order in which they came; None for a worker that is gone."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Child, dict[str, Any] | None]] = queue.SimpleQueue()

    def put(self, child: "Child", message: dict[str, Any] | None) -> None:
        """Called by the thread that listens to a worker."""
        self._queue.put((child, message))

    def next(self, seconds: float) -> "tuple[Child, dict[str, Any] | None] | None":
        """The next message, waited for so long; None if there is none."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None


@dataclass(eq=False)
class Child:
    """A worker process, the cells that it is at, and what it has written to its standard error."""

    number: int
    process: subprocess.Popen[str]
    errors: IO[bytes]
    listener: Thread | None = None
    at: set[str] = field(default_factory=set)
    ready: bool = False
    """Whether it has its model."""
    stages: int = 0
    """Pieces of work that it was given and has not ended."""

    @classmethod
    def start(cls, order: Order, number: int, device: str | None, threads: int, inbox: Inbox) -> "Child":
        """A new process; what it says goes to the inbox."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (it is the worker's, and goes with it)
        process = subprocess.Popen(
            [*_COMMAND, str(threads)],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        child = cls(number, process, errors)
        child._write(replace(order, model={**order.model, "device": device}).text())
        child.listener = Thread(target=child._listen, args=(inbox,), daemon=True)
        child.listener.start()
        return child

    @staticmethod
    def stage(folder: Path, told: Mapping[str, Any]) -> str:
        """A piece of work as a line for `tell`."""
        return json.dumps({"folder": str(folder.resolve()), "told": dict(told)})

    @property
    def ended(self) -> bool:
        """Whether it has nothing to do."""
        return self.stages == 0

    def tell(self, stage: str) -> None:
        """Gives it a piece of work, after those that it has."""
        self.stages += 1
        self._write(stage)

    def note(self, message: Mapping[str, Any]) -> None:
        """Takes down that it has its model, and which cells it has begun or ended."""
        self.ready |= bool(message.get("ready"))
        self.at |= set(message.get("at", ()))
        self.at -= set(message.get("done", ()))
        if message.get("ended"):
            self.at.clear()
            self.stages -= 1

    def last_words(self) -> str:
        """How it ended, and the end of what it wrote to its standard error, in one line."""
        code = self.process.wait()
        how = f"killed by {Signals(-code).name}" if code < 0 else f"exit code {code}"
        size = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, size - _WORDS))
        words = " ".join(self.errors.read().decode("utf-8", "replace").split())
        self._close()
        return f"{words} ({how})" if words else how

    def end(self) -> None:
        """Asks it to end."""
        self.process.terminate()

    def wait(self) -> None:
        """Waits for its end, and makes it end if that takes long."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None  # it is a pipe
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # it is gone, which the inbox is about to say

    def _listen(self, inbox: Inbox) -> None:
        assert self.process.stdout is not None  # it is a pipe
        for line in self.process.stdout:
            inbox.put(self, json.loads(line))
        inbox.put(self, None)

    def _close(self) -> None:
        if self.listener is not None:
            self.listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what it was told last, it never read
        self.errors.close()
