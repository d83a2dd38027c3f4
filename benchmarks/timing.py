"""Times several ways of doing one thing in turn, so that a machine that drifts disturbs all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

Way = Callable[[], Any]


def least_seconds(ways: Mapping[str, Way], rounds: int) -> dict[str, float]:
    """CPU seconds of this process for each way, the least of all rounds: other programs disturb them little.

    Nothing is run to warm up, so one round also times allocations and lazy imports.
    """
    best = dict.fromkeys(ways, float("inf"))
    for _ in tqdm(range(rounds), desc="rounds", leave=False, disable=None):
        for name, run in ways.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return best
