"""A small sweep that tests of executors have done by others, and what they do to workers meanwhile."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch

from experiments.commands.asking import Asking, ask
from experiments.commands.sweep_order import SweepSettings
from experiments.executors.order import Order, model_order
from experiments.sweeps.units import units
from experiments.sweeps.work import sweep_work
from headscope import HookedModel
from headscope.runs import Run
from headscope.sharing import Executor, Work, do_work

MODEL = "zoo:needle"
BATCH_TOKENS = 256
SETTINGS = SweepSettings(Asking("needle", "256", depths=1, repeats=8), "zero", "loss", BATCH_TOKENS, None)

SWEEP = (
    "ablate",
    "sweep",
    "--lengths",
    "256",
    "--depths",
    "1",
    "--repeats",
    "8",
    "--batch-tokens",
    "256",
    "--draws",
    "1",
)
"""The sweep of SETTINGS as a command."""


@dataclass(frozen=True)
class Asked:
    order: Order
    work: Work
    serial: dict[str, pd.DataFrame]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of one thread and of two differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def asked_sweep() -> Asked:
    """32 cells of a batch of one prompt each, and their tables as one process finds them."""
    model = HookedModel.load(MODEL, device="cpu")
    asked = ask(model, SETTINGS.asking)
    ablation = SETTINGS.ablation(model, asked)
    work = sweep_work(
        model, asked.samples, units(model.heads()), metric="loss", ablation=ablation, batch_tokens=BATCH_TOKENS
    ).work
    order = Order("sweep", model_order(MODEL, device="cpu", dtype="auto"), SETTINGS.facts())
    return Asked(order, work, do_work(None, work, ignored))


def ignored(key: str, table: pd.DataFrame) -> None:
    """Nobody watches."""


def new_run(folder: Path) -> Run:
    return Run.create(folder, command="test", config={})


def assert_same(found: dict[str, pd.DataFrame], asked: Asked, run: Run) -> None:
    """What an executor returned, and what the folder holds, is what one process finds, bit for bit."""
    assert list(found) == list(asked.serial)
    for key, table in asked.serial.items():
        pd.testing.assert_frame_equal(found[key], table, check_exact=True)
        pd.testing.assert_frame_equal(run.cell(key), table, check_exact=True)
    run.finish()
    assert not [path for path in run.path.rglob("*") if path.suffix in (".part", ".lock")]


def done_with(
    executor: Executor,
    run: Run,
    asked: Asked,
    strike: Callable[[], object],
    *,
    once: Callable[[], object] = lambda: True,
) -> dict[str, pd.DataFrame]:
    """All cells, with a blow struck in the middle: after it, cells must have come that were not there before.

    Cells are taken in only while `once` is true.
    """
    struck: list[int] = []
    seen: list[str] = []

    def blow() -> None:
        while len(run.cell_keys()) < 4:
            time.sleep(0.01)
        strike()
        struck.append(len(run.cell_keys()))

    def note(key: str, table: pd.DataFrame) -> None:
        seen.append(key)
        while not once():
            time.sleep(0.01)

    thread = threading.Thread(target=blow, daemon=True)
    thread.start()
    found = executor(run, asked.work, note)
    thread.join(30)
    assert 4 <= struck[0] < len(asked.work.keys), "the blow was not struck in the middle"
    assert sorted(seen) == sorted(asked.work.keys), "each cell is told of once"
    return found


def kill_one(find: Callable[[], Sequence[psutil.Process]]) -> None:
    """Kills the first process that is found, as a machine without memory would."""
    while not (there := find()):
        time.sleep(0.01)
    os.kill(there[0].pid, signal.SIGKILL)


def below(process: psutil.Process, words: str) -> list[psutil.Process]:
    """Processes that this one has started, and they in turn, whose command line holds these words."""
    return [child for child in process.children(recursive=True) if words in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""
