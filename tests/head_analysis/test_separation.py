"""AUC: known by hand, equal to scikit-learn's, and gone when labels are shuffled."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from head_analysis.separation import _resampled, measure_separation
from headscope import UsageError


def table(values, kinds, samples) -> pd.DataFrame:
    return pd.DataFrame({"token_vhd": values, "kind": kinds, "sample": samples})


def drawn(apart: float, samples: int = 30, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(rng.normal(apart * good), "correct" if good else "wrong", s) for s in range(samples) for good in (0, 1, 1)]
    return table(*zip(*rows, strict=True))


def test_ties_count_half():
    found = measure_separation(
        table([1.0, 2.0, 2.0, 3.0], ["wrong", "wrong", "right", "right"], [0, 0, 1, 1]), "right", "wrong"
    )
    assert found.auc == 0.875
    assert (found.positives, found.negatives, found.samples) == (2, 2, 2)


def test_kinds_that_were_not_asked_for_are_left_out():
    found = measure_separation(table([1.0, 9.0, 2.0, 0.5], ["a", "x", "b", "c"], [0, 0, 0, 1]), ("b", "c"), "a")
    assert (found.auc, found.positives) == (0.5, 2)


def test_a_difference_is_found_and_no_difference_is_not():
    apart, same = measure_separation(drawn(2.0), "correct", "wrong"), measure_separation(drawn(0.0), "correct", "wrong")
    assert 0.8 < apart.low < apart.auc < apart.high
    assert apart.p < 0.001
    assert same.low < 0.5 < same.high
    assert same.p > 0.05
    assert apart.shuffled == pytest.approx(0.5, abs=0.02)


def test_differences_between_samples_alone_survive_the_shuffle():
    """One sample's values are all high and its words all correct but one: the AUC is high, and says nothing of words."""
    values = [10.0, 10.1, 10.2, 10.3, 0.0, 0.1, 0.2, 0.3]
    kinds = ["right", "right", "right", "wrong", "right", "wrong", "wrong", "wrong"]
    found = measure_separation(table(values, kinds, [0] * 4 + [1] * 4), "right", "wrong")
    assert found.shuffled > 0.7
    assert found.p > 0.1


def test_resamples_weigh_whole_samples():
    rows = drawn(1.0, samples=6)
    labels, values, sample = (
        (rows["kind"] == "correct").to_numpy(),
        rows["token_vhd"].to_numpy(),
        rows["sample"].to_numpy(),
    )
    found = _resampled(labels, values, sample, np.random.default_rng(3), 20)
    counts = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=20)
    expected = [roc_auc_score(labels, values, sample_weight=count[sample]) for count in counts]
    np.testing.assert_allclose(found, expected)


def test_one_kind_alone_is_refused():
    with pytest.raises(UsageError, match=r"both right and wrong are needed .* holds \{'right': 2\}"):
        measure_separation(table([1.0, 2.0], ["right", "right"], [0, 1]), "right", "wrong")
