"""Sweeps that this dashboard has started: processes of their own, which go on when the dashboard ends.

What is needed to find one again stands in RUNS/.dashboard/NAME: its settings, its process by number and time of birth,
and what it said. A process is only ever ended if both, and the folder that it writes to, are those of the sweep.
"""

import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from dashboards.asked_sweep import AskedSweep, read_asked
from dashboards.confined import folder_in
from dashboards.sweep_progress import cells_done
from headscope.errors import HeadscopeError, UsageError
from headscope.files import json_text, write_over
from headscope.locks import locked
from headscope.runs import Run

_ROOT = ".dashboard"
_JOB, _LOG = "sweep.json", "log.txt"
_NAME = re.compile(r"[A-Za-z0-9][\w.@=+-]{0,79}", re.ASCII)
_LAUNCH = "from experiments.cli import main; main()"
_PATIENCE = 10.0
"""Seconds that a process is given to end."""
_APART = 1.0
"""Seconds by which the time of birth of one process may be told differently, when the clock is set."""


@dataclass(frozen=True)
class Started:
    """A sweep and its process.

    `pid` and `born` are the process's number and time of birth, `before` the cells that were there before it began,
    `stopped` whether it was told to stop.
    """

    name: str
    asked: AskedSweep
    pid: int
    born: float
    before: int = 0
    stopped: bool = False


def start(runs: Path, name: str, asked: AskedSweep, source: str, *, resume: bool = False) -> Started:
    """Starts a sweep whose run will be called `name`; its model is loaded from `source`.

    UsageError for a name that is taken or would leave the folder, and while another sweep that was started here runs.
    """
    folder = _folder(runs, name)
    with locked(_root(runs) / ".start.lock"):
        running = [one.name for one in all_started(runs) if process_of(runs, one) is not None]
        if running:
            raise UsageError(f"the sweep {running[0]!r} is still running; wait for it, or stop it first")
        if not resume and folder.exists():
            raise UsageError(f"there is a folder {name!r} in {runs} already; choose another name, or resume it")
        aside = folder_in(_root(runs), name)
        aside.mkdir(exist_ok=True)
        before = cells_done(folder)
        words = [sys.executable, "-P", "-c", _LAUNCH, *asked.words(source, folder, resume=resume)]
        with (aside / _LOG).open("a" if resume else "w", encoding="utf-8") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
                start_new_session=True,
            )
        threading.Thread(target=process.wait, daemon=True).start()  # or what has ended would stay in the system's table
        begun = Started(name, asked, process.pid, _born(process.pid), before)
        try:
            _keep(runs, begun)
        except BaseException:  # without a record nobody could find it again, or stop it
            process.terminate()
            raise
    return begun


def stop(runs: Path, name: str) -> None:
    """Ends the process of a sweep that was started here; finished cells stay. UsageError where there is none to end."""
    begun = read_started(runs, name)
    process = process_of(runs, begun)
    if process is None:
        raise UsageError(f"the sweep {name!r} is not running any more, so there is nothing to stop")
    _keep(runs, replace(begun, stopped=True))
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        pass
    except psutil.Error as error:
        raise HeadscopeError(f"process {begun.pid} cannot be ended ({error}); end it by hand") from error
    until = time.monotonic() + _PATIENCE
    while _alive(process):  # psutil's wait would go on until a parent has noticed
        if time.monotonic() > until:
            raise HeadscopeError(f"process {begun.pid} has not ended yet; try again, or end it by hand")
        time.sleep(0.02)
    with suppress(HeadscopeError, OSError, KeyError, TypeError, ValueError):  # it may not have begun to write its run
        run = Run.open(_folder(runs, name))
        if run.facts.get("status") == "running":  # it may have come to its end first
            run.finish("stopped")


def process_of(runs: Path, begun: Started) -> psutil.Process | None:
    """The live process of a sweep; None if it has ended, though another may have its number by now."""
    try:
        process = psutil.Process(begun.pid)
        if abs(process.create_time() - begun.born) > _APART or process.status() == psutil.STATUS_ZOMBIE:
            return None
        words = process.cmdline()
    except (psutil.Error, ValueError, OverflowError):
        return None
    return process if f"--out={_folder(runs, begun.name)}" in words and "sweep" in words else None


def _alive(process: psutil.Process) -> bool:
    """Whether it has not ended; one that is about to has no words any more."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def all_started(runs: Path) -> tuple[Started, ...]:
    """Sweeps that were started here, the newest first; records that cannot be read are left out."""
    found = []
    with suppress(HeadscopeError):
        for path in sorted(_existing(runs).glob(f"*/{_JOB}")):
            with suppress(HeadscopeError):
                found.append(read_started(runs, path.parent.name))
    return tuple(sorted(found, key=lambda one: -one.born))


def read_started(runs: Path, name: str) -> Started:
    """The record of a sweep; UsageError if there is none, or it cannot be read."""
    path = folder_in(_existing(runs), name) / _JOB
    _folder(runs, name)
    try:
        facts = json.loads(path.read_text("utf-8"))
        return _read(name, facts)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UsageError(
            f"{path} is no record of a sweep ({type(error).__name__}: {error}); start the sweep again under another name"
        ) from error


def last_lines(runs: Path, name: str, *, lines: int = 12) -> str:
    """The end of what a sweep has said."""
    path = folder_in(_existing(runs), name) / _LOG
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 400 * lines))
        said = file.read().decode("utf-8", "replace")
        return "\n".join([line for line in re.split(r"[\r\n]+", said) if line.strip()][-lines:])
    return ""


def _read(name: str, facts: Mapping[str, Any]) -> Started:
    pid, born, before = int(facts["pid"]), float(facts["born"]), int(facts["before"])
    if pid < 1:
        raise ValueError(f"pid is {pid}")
    if not math.isfinite(born):
        raise ValueError(f"born is {born}")
    return Started(name, read_asked(facts["asked"]), pid, born, before, facts["stopped"] is True)


def _keep(runs: Path, begun: Started) -> None:
    text = json_text(asdict(begun), "sweep")
    path = folder_in(_root(runs), begun.name) / _JOB
    write_over(path, lambda file: _write(file, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")


def _folder(runs: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a sweep; use up to 80 letters, digits and . _ - = + @, a letter first")
    return folder_in(runs.resolve(), name)


def _root(runs: Path) -> Path:
    root = _existing(runs)
    root.mkdir(parents=True, exist_ok=True)
    return root


def _existing(runs: Path) -> Path:
    root = runs.resolve() / _ROOT
    if root.is_symlink():
        raise UsageError(f"{root} is a link; remove it, it must be a folder of its own")
    return root


def _born(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # it has ended at once; its log says why
        return 0.0
