"""Intervals and tests agree with cases worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from headscope.errors import UsageError
from headscope.evidence import (
    bootstrap_means,
    crossed_interval,
    false_discovery,
    mean_interval,
    paired_difference,
    proportion_interval,
)


def test_two_samples_have_the_binomial_bootstrap():
    # Means of 0 and 2 drawn twice are 0, 1, 2 with probability 1/4, 1/2, 1/4, so a half of them lies within 0.5..1.5.
    samples = np.array([0.0, 2.0])
    means = bootstrap_means(samples, resamples=20_000, seed=1)
    shares = [(means == value).mean() for value in (0, 1, 2)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.015)
    low, high = mean_interval(samples, level=0.4)
    assert (float(low), float(high)) == (1, 1)
    low, high = mean_interval(samples, level=0.95)
    assert (float(low), float(high)) == (0, 2)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(60, 400))  # 400 experiments of 60 samples, true mean 1
    low, high = mean_interval(samples, level=0.9, resamples=500)
    covered = ((low <= 1) & (high >= 1)).mean()
    assert 0.83 < covered < 0.93  # the percentile bootstrap runs a little short of 0.9 on skewed data


def test_every_element_is_on_its_own_and_tensors_equal_arrays():
    values = torch.rand(25, 3, 4, generator=torch.Generator().manual_seed(0))
    low, high = mean_interval(values, seed=3)
    assert low.shape == high.shape == (3, 4)
    alone, _ = mean_interval(values[:, 1, 2].double().numpy(), seed=3)
    np.testing.assert_allclose(low[1, 2], alone)
    assert (low < values.mean(0).numpy()).all()
    assert (values.mean(0).numpy() < high).all()
    np.testing.assert_array_equal(mean_interval(values, seed=3)[0], low)
    assert (mean_interval(values, seed=4)[0] != low).any()


def test_half_precision_is_read():
    low, high = mean_interval(torch.tensor([[0.5], [0.25], [1.5]], dtype=torch.bfloat16))
    assert low < 0.75 < high


def test_zeros_and_ones_have_wilsons_interval_and_width():
    samples = np.zeros((20, 3))
    samples[:, 1], samples[:5, 2] = 1, 1
    low, high = mean_interval(samples)
    expected = [binomtest(k, 20).proportion_ci(method="wilson") for k in (0, 20, 5)]
    np.testing.assert_allclose(low, [ci.low for ci in expected])
    np.testing.assert_allclose(high, [ci.high for ci in expected])
    assert high[0] == pytest.approx(0.161, abs=5e-4)  # z^2 / (n + z^2) with z = 1.96
    low, high = mean_interval(torch.tensor([True, True, False, True]))
    assert low.shape == ()
    assert (float(low), float(high)) == proportion_interval(3, 4)


def test_equal_samples_are_degenerate_to_the_last_digit():
    low, high = mean_interval(np.full((7, 2), 0.1))
    assert (low == 0.1).all()
    assert (high == 0.1).all()
    low, high = mean_interval(np.array([0.3]))
    assert low == high == 0.3


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 4), (0, 0)])
def test_impossible_proportions_are_refused(successes, n):
    with pytest.raises(UsageError, match=f"{successes} of {n} is not a proportion"):
        proportion_interval(successes, n)


def test_levels_and_samples_are_checked():
    with pytest.raises(UsageError, match="level is 95"):
        mean_interval(np.array([0.2, 0.4]), level=95.0)
    with pytest.raises(UsageError, match="no samples"):
        mean_interval(np.zeros((0, 3)))


def test_sign_flip_p_value_is_exact_for_few_samples():
    # All five differences are positive: of 32 sign patterns only two are as extreme, so p = 2 / 32.
    a, b = np.array([2.0, 3, 4, 5, 6]), np.array([1.0, 1, 1, 1, 1])
    found = paired_difference(a, b)
    assert found.mean == 3
    assert found.p == pytest.approx(2 / 32)
    assert 1 < found.low < 3 < found.high < 5
    back = paired_difference(b, a)
    assert (back.mean, back.p) == (-3, found.p)


def test_many_samples_have_a_drawn_p_value():
    rng = np.random.default_rng(0)
    noise, base = rng.normal(size=200), rng.normal(size=200)
    assert paired_difference(base + noise, base, seed=1).p > 0.05
    strong = paired_difference(base + noise + 1, base, seed=1)
    assert strong.p < 0.002
    assert 0.8 < strong.low < strong.high < 1.2


def test_one_pair_shows_nothing_but_its_difference():
    found = paired_difference(np.array([3.0]), np.array([1.0]))
    assert (found.mean, found.low, found.high, found.p) == (2.0, 2.0, 2.0, 1.0)


def test_equal_conditions_differ_by_nothing():
    same = np.array([0.0, 1, 1, 0])
    found = paired_difference(same, same)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_differences_of_zeros_and_ones_are_no_proportions():
    found = paired_difference(np.ones(10), np.array([0.0] * 5 + [1.0] * 5))
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.2, abs=0.11)


def test_pairs_must_match():
    with pytest.raises(UsageError, match="a has 3 samples and b has 2"):
        paired_difference(np.zeros(3), np.zeros(2))


def test_false_discovery_by_hand_leaves_out_what_was_not_tested():
    # Sorted p times n / rank: 0.01 * 4, 0.02 * 2, 0.03 * 4 / 3, 0.5, made monotone from the right.
    p = np.array([[0.02, 0.5, np.nan], [0.01, np.nan, 0.03]])
    adjusted = false_discovery(p)
    np.testing.assert_allclose(adjusted, [[0.04, 0.5, np.nan], [0.04, np.nan, 0.04]])
    assert np.isnan(false_discovery(np.array([np.nan]))).all()
    with pytest.raises(UsageError, match=r"from 0\.1 to 1\.5"):
        false_discovery(np.array([0.1, 1.5]))


def test_crossed_interval_counts_the_draws():
    scores = np.array([[1.0] * 40] * 3 + [[0.0] * 40] * 2)  # every prompt has the same mean over draws, 0.6
    low, high = crossed_interval(scores)
    assert low <= 0.2 + 1e-9
    assert high == pytest.approx(1)
    same_over_samples = mean_interval(scores.mean(0))
    assert same_over_samples[0] == same_over_samples[1] == pytest.approx(0.6)


def test_crossed_interval_over_one_draw_is_the_bootstrap_over_samples():
    scores = np.array([[0.1, 0.9, 0.4, 0.6, 0.2]])
    low, high = crossed_interval(scores, resamples=20_000)
    expected = mean_interval(scores[0], resamples=20_000)
    assert (low, high) == pytest.approx(tuple(map(float, expected)), abs=0.02)


def test_elements_of_zeros_and_ones_have_wilsons_interval_beside_others():
    samples = np.array([[1.0, 0.5, 0.0]] * 30 + [[1.0, 0.7, 0.0]] * 30)
    low, high = mean_interval(samples)
    assert low[0] == pytest.approx(proportion_interval(60, 60)[0])
    assert high[2] == pytest.approx(proportion_interval(0, 60)[1])
    assert 0.5 < low[1] < 0.6 < high[1] < 0.7


def test_one_number_a_head_is_no_share_among_fractions():
    low, high = mean_interval(np.array([[1.0, 0.4, 0.0]]))
    assert low.tolist() == high.tolist() == [1.0, 0.4, 0.0]
    low, high = mean_interval(np.array([[1.0, 0.0, 0.0]]))  # answers to one question, right or wrong
    assert (high - low).min() > 0.5
