"""Times several ways of doing one thing in turn, so that a machine that drifts disturbs all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

from tqdm import tqdm


def measure(ways: Mapping[str, Callable[[], object]], *, rounds: int = 7) -> dict[str, tuple[float, float]]:
    """Median seconds of each way, and the median over rounds of its ratio to the first way of the same round."""
    for run in ways.values():
        run()  # warm-up: allocations, lazy imports
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    base = seconds[next(iter(ways))]
    return {
        name: (statistics.median(taken), statistics.median(a / b for a, b in zip(taken, base, strict=True)))
        for name, taken in seconds.items()
    }
