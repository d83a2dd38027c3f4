"""How far a sweep is, from the cells in its run's folder, whoever runs it."""

import time
from dataclasses import dataclass
from pathlib import Path

from headscope.errors import HeadscopeError
from headscope.runs import Run


@dataclass(frozen=True)
class Progress:
    """Cells done, cells planned so far (0 before the plan is made), and seconds left if that can be told."""

    done: int
    planned: int
    left: float | None = None


def cells_done(folder: Path) -> int:
    """Finished cells in a run's folder, which need not be there."""
    return sum(1 for _ in (folder / "cells").glob("*.parquet"))


def read_progress(folder: Path, *, before: int = 0) -> Progress:
    """How far a run is; `before` cells were there when the process at work began, and say nothing of its speed.

    The time left is that of the cells planned at the rate of those done; the costliest together, and their controls, are
    planned at the end.
    """
    try:
        planned = sum(len(plan["cells"]) for plan in Run(folder).plans().values())
    except HeadscopeError:
        planned = 0
    times = sorted(path.stat().st_mtime for path in (folder / "cells").glob("*.parquet"))
    new = times[before:]
    if not planned or len(new) < 2:
        return Progress(len(times), planned)
    each = (new[-1] - new[0]) / (len(new) - 1)
    return Progress(len(times), planned, max(0.0, each * (planned - len(times)) - (time.time() - new[-1])))
