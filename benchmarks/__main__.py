"""Everything in turn, as one table of ratios, written down with what the machine is.

    python -m benchmarks [--threads 1] [--out benchmarks/results] [--small]

Takes about ten minutes, and some GB of memory for the peers. Run it on a machine that does nothing else: CPU seconds do
not count other programs, but those share caches and memory with it. `--small` only shows that everything runs.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import engine, statistics, sweep, vision
from benchmarks.machine import described
from benchmarks.report import written
from benchmarks.rows import Row, table

SMALL = (sweep.Work("tiny", 2, 32, 2, prompts=2, tokens=8), sweep.Work("tiny", 2, 32, 2, 4, 8, shared=6, bar=7.0))


def all_rows(*, small: bool = False) -> list[Row]:
    """Rows of engine, statistics, sweep and vision; `small` takes short prompts and a round each."""
    if small:
        return [
            *engine.rows(128, rounds=1, new_tokens=2),
            *statistics.rows(128, rounds=1),
            *sweep.rows(SMALL, rounds=1),
            *vision.rows(rounds=1, new_tokens=2),
        ]
    return [*engine.rows(), *statistics.rows(), *sweep.rows(), *vision.rows()]


def main(argv: list[str] | None = None) -> None:
    """Prints the table, and writes it as Markdown and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--small", action="store_true", help="short prompts and one round: the numbers mean nothing")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    machine: dict[str, Any] = described()
    rows = all_rows(small=args.small)
    print(table(rows))
    for path in written(args.out, rows, machine, small=args.small):
        print(path)


if __name__ == "__main__":
    main()
