"""How far a treatment goes beyond its random controls, on the same samples."""

import numpy as np
import pandas as pd

from experiments.compare import Comparison
from headscope.evidence import paired_difference


def over_controls(found: Comparison) -> pd.DataFrame:
    """A row for each treatment that has controls: the mean paired difference from them, its interval over samples and p.

    None for a single sample. Controls of a treatment are those whose family is "random for" and its name, averaged over
    draws. `as_far` counts the draws, of `draws`, whose mean lies at least as far from the baseline (or from 0, without
    one) as the treatment's.
    """
    table = found.table
    baseline = table.loc[table["kind"] == "none", "score"]
    start = 0.0 if baseline.empty else baseline.mean()
    rows = []
    for name in table.loc[table["kind"] == "treatment", "condition"].unique():
        drawn = _scores(table[table["family"] == f"random for {name}"])
        if drawn.shape[1] < 2:  # no controls, or one sample, from which no difference can be judged
            continue
        treated = _scores(table[table["condition"] == name]).loc[name]
        apart = paired_difference(treated.to_numpy(float), drawn.mean(axis=0).to_numpy(float))
        distance = (drawn.mean(axis=1) - start).abs().to_numpy(float)
        numbers = {"difference": apart.mean, "low": apart.low, "high": apart.high, "p": apart.p}
        as_far = int(np.count_nonzero(distance >= abs(treated.mean() - start)))
        rows.append({"treatment": name, **numbers, "as_far": as_far, "draws": len(drawn)})
    return pd.DataFrame(rows)


def _scores(part: pd.DataFrame) -> pd.DataFrame:
    return part.pivot(index="condition", columns="sample", values="score")
