"""What bounds many workers: how a sweep scales from one to two, and what cells cost besides being done.

    python -m benchmarks.scaling [--rounds 3] [--prompts 12] [--executor processes]

Workers of one thread each take turns, one and two of them, at the same cells in new folders, their models loaded before.
Time here is wall time, which other programs on the machine disturb; CPU seconds of all workers together hardly are.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pandas as pd
import psutil
import torch

from experiments.commands.asking import Asking, ask
from experiments.commands.sweep_order import SweepSettings
from experiments.executors.labour import Labour, Name
from experiments.executors.order import Order, model_order
from experiments.sweeps.units import units
from experiments.sweeps.work import sweep_work
from headscope import HookedModel
from headscope.runs import Run
from headscope.sharing import Executor, Work

MODEL = "zoo:needle"
BATCH_TOKENS = 256


@dataclass(frozen=True)
class Taken:
    """Seconds of one sweep: on the clock, and of the processors of all workers."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Costs:
    """Seconds for a cell besides doing it."""

    write: float
    read: float
    claim: float


def work_of(prompts: int) -> tuple[Order, Work]:
    """A sweep of all heads over so many prompts of 256 tokens: four cells a prompt."""
    settings = SweepSettings(Asking("needle", "256", depths=1, repeats=prompts), "zero", "loss", BATCH_TOKENS, None)
    model = HookedModel.load(MODEL, device="cpu")
    asked = ask(model, settings.asking)
    ablation = settings.ablation(model, asked)
    work = sweep_work(
        model, asked.samples, units(model.heads()), metric="loss", ablation=ablation, batch_tokens=BATCH_TOKENS
    ).work
    return Order("sweep", model_order(MODEL, device="cpu", dtype="auto"), settings.facts()), work


def scaling(name: Name, prompts: int, rounds: int) -> dict[int, list[Taken]]:
    """What one worker and two take, in turn; each crew is new, and has done the whole once before it is timed."""
    order, work = work_of(prompts)
    found: dict[int, list[Taken]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, taken in found.items():
            with Labour(name, count).executor(order) as executor:
                _timed(executor, work)
                taken.append(_timed(executor, work))
    return found


def costs(cells: int = 300, rows: int = 32) -> Costs:
    """What a cell costs to write, to read and to claim on the disk of temporary files."""
    table = pd.DataFrame({"unit": ["L0H0"] * rows, "sample": range(rows), "clean": [0.5] * rows, "value": [0.5] * rows})
    keys = [f"batch {i}, from layer 0" for i in range(cells)]
    with _new_run() as run:
        write = _each(keys, lambda key: run.save_cell(key, table))
        read = _each(keys, lambda key: run.finished_cell(key))
        claim = _each([f"{key}, again" for key in keys], lambda key: _claimed(run, key))
    return Costs(write, read, claim)


def main(argv: list[str] | None = None) -> None:
    """Prints what was found, with the load of the machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--executor", choices=["processes", "ray"], default="processes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    found = costs()
    print(
        f"a cell: {1e3 * found.write:.1f} ms to write, {1e3 * found.read:.1f} to read, {1e3 * found.claim:.2f} to claim"
    )
    taken = scaling(args.executor, args.prompts, args.rounds)
    for one, two in zip(taken[1], taken[2], strict=True):
        print(
            f"{4 * args.prompts} cells: 1 worker {one.wall:.1f} s, 2 workers {two.wall:.1f} s, {one.wall / two.wall:.2f} "
            f"times as fast, for {two.cpu / one.cpu:.2f} times the CPU seconds"
        )
    ratios = [one.wall / two.wall for one, two in zip(taken[1], taken[2], strict=True)]
    print(f"median {median(ratios):.2f} times as fast; load {os.getloadavg()[0]:.1f} after")


def _timed(executor: Executor, work: Work) -> Taken:
    with _new_run() as run:
        began, before = time.perf_counter(), _cpu()
        executor(run, work, lambda key, table: None)
        return Taken(time.perf_counter() - began, _cpu() - before)


def _each(keys: Sequence[str], do: Callable[[str], object]) -> float:
    began = time.perf_counter()
    for key in keys:
        do(key)
    return (time.perf_counter() - began) / len(keys)


def _claimed(run: Run, key: str) -> bool:
    with run.claim(key) as mine:
        return mine


@contextmanager
def _new_run() -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        yield Run.create(Path(folder) / "run", command="benchmark", config={})


def _cpu() -> float:
    """CPU seconds of this process and all that it has started."""
    every = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in every)


if __name__ == "__main__":
    main()
