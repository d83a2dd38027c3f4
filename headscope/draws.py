"""Random heads for a control: as many as the treatment, from the same layers, and none of its heads."""

from collections import Counter
from collections.abc import Collection
from typing import Literal

import numpy as np

from headscope.errors import UsageError
from headscope.heads import Head

Match = Literal["layer", "free"]


def draw_heads(
    heads: Collection[Head], k: int, *, seed: int, exclude: Collection[Head] = (), match: Match = "layer"
) -> tuple[Head, ...]:
    """Draw k of `heads` outside `exclude`, in order of layer and head; the same seed draws the same heads.

    `layer` draws from each layer as many heads as `exclude` has there, so `exclude` must hold k heads; `free` draws
    over all layers. UsageError where a layer, or the model, has too few heads left.
    """
    rng = np.random.default_rng(seed)
    if match == "free":
        return _draw("the model", heads, k, exclude, rng, "use fewer heads")
    if len(exclude) != k:
        raise UsageError(
            f"match='layer' draws as many heads from each layer as exclude has there, but exclude has {len(exclude)} "
            f"heads and k is {k}; give the {k} heads that the draw is a control for, or match='free'"
        )
    drawn: list[Head] = []
    for layer, count in sorted(Counter(head.layer for head in exclude).items()):
        inside = [head for head in heads if head.layer == layer]
        drawn += _draw(f"layer {layer}", inside, count, exclude, rng, "use fewer heads or match='free'")
    return tuple(drawn)


def _draw(
    where: str, heads: Collection[Head], k: int, exclude: Collection[Head], rng: np.random.Generator, cure: str
) -> tuple[Head, ...]:
    left = sorted(set(heads) - set(exclude))
    if not 0 <= k <= len(left):
        raise UsageError(
            f"{where} has {len(heads)} heads of which {len(heads) - len(left)} are excluded; {k} cannot be drawn from "
            f"the {len(left)} left; {cure}"
        )
    return tuple(left[i] for i in sorted(rng.choice(len(left), size=k, replace=False).tolist()))
