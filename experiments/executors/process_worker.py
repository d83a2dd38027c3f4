"""A worker process: `python -m experiments.executors.process_worker THREADS`, told what to do on standard input.

The first line is the order, each further one a piece of work in a run's folder. It answers with lines of JSON: that it
has its model, which cells it begins and ends, that it has ended a piece of work, or what it refuses. When its input ends
so does it, in the middle of whatever it does.
"""

import json
import os
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Thread
from typing import TextIO

import pandas as pd
from transformers.utils import logging

from experiments.executors.working import Worker
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run
from headscope.sharing import do_work

_REFUSED = 3


def main(threads: int) -> None:
    """Works until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one ends us
    answers = _only_answers()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    Thread(target=_read, args=(sys.stdin, lines), daemon=True).start()
    worker = Worker(lines.get(), threads=threads)

    def say(**message: object) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        worker.load()
        say(ready=True)
        while True:
            stage = json.loads(lines.get())
            _work(worker, Run.open(stage["folder"]), json.dumps(stage["told"]), say)
            say(ended=True)
    except HeadscopeError as error:
        say(refused="UsageError" if isinstance(error, UsageError) else "HeadscopeError", message=str(error))
        sys.exit(_REFUSED)


def _work(worker: Worker, run: Run, told: str, say: Callable[..., None]) -> None:
    """All cells that nobody else does, each announced before it is begun."""
    work = worker.work(told)

    def announced(keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        say(at=list(keys))
        yield from work.do(keys)

    do_work(run, replace(work, do=announced), lambda key, _: say(done=[key]))


def _only_answers() -> TextIO:
    """What was standard output, for answers alone: whatever else writes there goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _read(lines: TextIO, into: "queue.SimpleQueue[str]") -> None:
    for line in lines:
        into.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
