"""Metrics of sums under a bootstrap of clusters: by hand, against the normal interval, and what must not happen."""

import numpy as np
import pandas as pd
import pytest

from headscope import UsageError
from headscope.clusters import ClusterBootstrap, Metric, cluster_sums, harmonic_mean, ratio
from headscope.evidence import paired_difference, proportion_interval

RATE = Metric("rate", ("right", "items"), ratio)
LENGTH = Metric("length", ("words", "items"), ratio, proportion=False)


def sums(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({name: np.asarray(values, float) for name, values in columns.items()})


def test_a_metric_is_a_function_of_sums_and_not_a_mean_of_ratios():
    table = sums(right=[1, 0, 8], items=[1, 1, 10])
    found = ClusterBootstrap.draw(3).estimate(RATE, table)
    assert found.value == 0.75  # 9 of 12; the mean of the three ratios is 0.6
    assert found.low < 0.75 < found.high


def test_ratio_and_harmonic_mean_by_hand():
    np.testing.assert_array_equal(ratio(np.array([1.0, 0, 3]), np.array([2.0, 0, 3])), [0.5, np.nan, 1])
    np.testing.assert_allclose(harmonic_mean(np.array([0.5, 0, 1]), np.array([1.0, 0, 1])), [2 / 3, 0, 1])
    assert np.isnan(harmonic_mean(np.array([np.nan]), np.array([1.0])))[0]


def test_sums_over_clusters():
    items = pd.DataFrame({"image": ["b", "a", "b"], "right": [1, 1, 0], "items": [1, 1, 1]})
    found = cluster_sums(items, "image")
    assert found.to_dict("index") == {"a": {"right": 1, "items": 1}, "b": {"right": 1, "items": 2}}
    with pytest.raises(UsageError, match="column 'right' has items without a number"):
        cluster_sums(items.assign(right=[1, np.nan, 0]), "image")


def test_large_samples_have_the_normal_interval():
    rng = np.random.default_rng(0)
    right = rng.binomial(1, 0.3, 3000)
    found = ClusterBootstrap.draw(3000, resamples=4000).estimate(RATE, sums(right=right, items=np.ones(3000)))
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 3000)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=half / 15)


def test_clusters_of_like_items_widen_the_interval():
    # 400 items in 40 clusters whose ten items agree carry as much as 40 items: sqrt(10) times the width.
    right = np.random.default_rng(1).binomial(1, 0.5, 40)
    together = ClusterBootstrap.draw(40).estimate(RATE, sums(right=10 * right, items=np.full(40, 10)))
    alone = ClusterBootstrap.draw(400).estimate(RATE, sums(right=np.repeat(right, 10), items=np.ones(400)))
    assert together.value == alone.value
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(np.sqrt(10), rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        chance = rng.beta(2, 3, 60)  # clusters differ; the truth is 0.4
        table = sums(right=rng.binomial(5, chance), items=np.full(60, 5))
        found = ClusterBootstrap.draw(60, resamples=400, seed=seed).estimate(RATE, table)
        covered += found.low <= 0.4 <= found.high
    assert 178 <= covered <= 198


def test_a_condition_equal_to_the_baseline_differs_by_exactly_nothing():
    table = sums(right=[1, 2, 0, 3], items=[3, 3, 1, 7])
    found = ClusterBootstrap.draw(4).difference(RATE, table, table.copy())
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_differences_are_paired():
    # The conditions differ in every cluster by one of ten: unpaired intervals would overlap by far.
    right = np.random.default_rng(3).integers(1, 10, 50)
    plain, less = (sums(right=right - down, items=np.full(50, 10)) for down in (0, 1))
    boot = ClusterBootstrap.draw(50)
    found = boot.difference(RATE, less, plain)
    assert (found.mean, found.low, found.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert found.p < 0.002
    assert boot.estimate(RATE, less).high > boot.estimate(RATE, plain).low


def test_clusters_of_one_item_have_the_p_value_of_sign_flips():
    a, b = np.array([1.0, 1, 1, 0, 1, 1]), np.array([0.0, 0, 1, 0, 0, 0])
    found = ClusterBootstrap.draw(6).difference(RATE, sums(right=a, items=np.ones(6)), sums(right=b, items=np.ones(6)))
    assert found.p == pytest.approx(2 / 2**4)  # four differences of +1, whose signs agree in 2 of 16 ways
    assert found.p == pytest.approx(paired_difference(a, b).p)


def test_p_values_are_even_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(4)
    items = np.full(30, 4)
    found = []
    for seed in range(150):
        a, b = (sums(right=rng.binomial(4, 0.5, 30), items=items) for _ in range(2))
        found.append(ClusterBootstrap.draw(30, resamples=300, seed=seed).difference(RATE, a, b).p)
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.11
    high, low = (sums(right=rng.binomial(4, chance, 30), items=items) for chance in (0.8, 0.4))
    assert ClusterBootstrap.draw(30).difference(RATE, high, low).p < 0.002


def test_nothing_by_nothing_is_left_out_of_the_interval():
    table = sums(right=[1, 0, 2], items=[2, 0, 2])
    boot = ClusterBootstrap.draw(3)
    assert np.isnan(boot.draws(RATE, table)).any()  # all three draws were the empty cluster
    found = boot.estimate(RATE, table)
    assert found.value == 0.75
    assert 0.5 <= found.low < found.high <= 1
    empty = sums(right=[0, 0, 0], items=[0, 0, 0])
    assert np.isnan(list(boot.estimate(RATE, empty))).all()
    nothing = boot.difference(RATE, table, empty)
    assert np.isnan([nothing.mean, nothing.low, nothing.high, nothing.p]).all()


def test_none_of_many_is_no_certainty():
    boot = ClusterBootstrap.draw(20)
    for right, expected in ((0, proportion_interval(0, 19)), (2, proportion_interval(19, 19))):
        table = sums(right=[0] + [right] * 19, items=[0] + [2] * 19, words=[0] + [2] * 19)
        assert boot.estimate(RATE, table)[1:] == pytest.approx(expected)  # the cluster without items does not count
    assert boot.estimate(LENGTH, table) == (1, 1, 1)  # a length is no proportion


def test_over_draws_counts_draws_and_clusters():
    # Clusters agree, draws do not: over clusters alone the mean of the family would be certain.
    boot = ClusterBootstrap.draw(40)
    ones, noughts = sums(right=np.ones(40), items=np.ones(40)), sums(right=np.zeros(40), items=np.ones(40))
    found = boot.over_draws(RATE, [ones, ones, ones, noughts, noughts])
    assert found.value == pytest.approx(0.6)
    assert found.low <= 0.2 + 1e-9
    assert found.high == pytest.approx(1)
    less = boot.over_draws(RATE, [ones, ones, ones, noughts, noughts], ones)
    assert less.value == pytest.approx(-0.4)
    # Draws agree, clusters do not: no narrower than over clusters.
    mixed = sums(right=[0, 1] * 20, items=np.ones(40))
    one, three = boot.estimate(RATE, mixed), boot.over_draws(RATE, [mixed] * 3)
    assert three == pytest.approx(one)


def test_the_seed_decides_the_draws():
    first, again, other = (ClusterBootstrap.draw(5, resamples=50, seed=seed).weights for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first.sum(1) == 5).all()


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="2000 resamples of 0 clusters"):
        ClusterBootstrap.draw(0)
    table = sums(right=[0.0, 1], items=[1, 1])
    with pytest.raises(UsageError, match="2 clusters were given, but 3 are resampled"):
        ClusterBootstrap.draw(3).estimate(RATE, table)
    with pytest.raises(UsageError, match="level is 95"):
        ClusterBootstrap.draw(2).estimate(RATE, table, level=95.0)
