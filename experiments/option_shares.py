"""How often each kind of option is chosen, not only the right one: what a model mistakes for what."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from headscope.evidence import proportion_interval
from headscope.samples import Sample


def option_shares(samples: Sequence[Sample], chosen: Sequence[str], *, level: float = 0.95) -> pd.DataFrame:
    """A row for each kind of option, as they first come: kind, offered, right, chosen (counts), share, low, high.

    `right` is how often this kind was the true one. `meta["kinds"]` of a sample names the kinds of its options; without
    it, each option is its own kind. The share is of the samples that offer it, with Wilson's interval.
    """
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for sample, answer in zip(samples, chosen, strict=True):
        options = sample.meta["options"]
        kinds = sample.meta.get("kinds", options)
        offered.update(kinds)
        right[kinds[sample.meta["answer"]]] += 1
        taken[kinds[options.index(answer)]] += 1
    rows = []
    for kind, count in sorted(offered.items()):
        low, high = proportion_interval(taken[kind], count, level)
        row = {"kind": kind, "offered": count, "right": right[kind], "chosen": taken[kind]}
        rows.append(row | {"share": taken[kind] / count, "low": low, "high": high})
    return pd.DataFrame(rows)
