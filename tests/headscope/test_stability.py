"""Stability of rankings: certain ones never move, random ones agree as chance has it, and more samples help."""

import jaxtyping
import numpy as np
import pytest
import torch

from headscope import UsageError
from headscope.scores import HeadScores
from headscope.stability import bootstrap_agreement, samples_needed, significant_heads, split_half_agreement

LAYERS, HEADS = 5, 8


def scores(n: int, *, signal: float, seed: int = 0) -> HeadScores:
    """Heads at evenly spaced strengths, `signal` apart in units of the noise of one sample."""
    generator = torch.Generator().manual_seed(seed)
    strength = signal * torch.arange(LAYERS * HEADS).flip(0).reshape(LAYERS, HEADS)
    return HeadScores(strength + torch.randn(n, LAYERS, HEADS, generator=generator), "score")


MEASURES = pytest.mark.parametrize("measure", [bootstrap_agreement, split_half_agreement])


@MEASURES
def test_a_ranking_without_noise_never_moves(measure):
    found = measure(scores(20, signal=100.0), 5, draws=30)
    assert (found.overlap, found.tau) == (1, pytest.approx(1))
    assert found.overlap_interval == (1, 1)


def test_halves_of_pure_noise_agree_as_chance_has_it():
    found = [split_half_agreement(scores(40, signal=0.0, seed=seed), 8, draws=10) for seed in range(40)]
    assert np.mean([one.overlap for one in found]) == pytest.approx(8 / 40, abs=0.04)
    assert np.mean([one.tau for one in found]) == pytest.approx(0, abs=0.04)


def test_a_bootstrap_is_kinder_than_halves():
    values = scores(30, signal=0.05)
    assert bootstrap_agreement(values, 8).overlap > split_half_agreement(values, 8).overlap + 0.05


def test_halves_by_hand():
    """Two samples, one head each on top: halves never agree."""
    values = torch.zeros(2, 1, 3)
    values[0, 0], values[1, 0] = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    found = split_half_agreement(HeadScores(values, "score"), 1, draws=10)
    assert (found.overlap, found.tau) == (0, pytest.approx(-1))
    two = split_half_agreement(HeadScores(values, "score"), 2, draws=10)
    assert two.overlap == 0.5  # the middle head is in both


@MEASURES
def test_the_same_seed_gives_the_same_numbers(measure):
    values = scores(20, signal=0.1)
    assert measure(values, 5, draws=20) == measure(values, 5, draws=20)
    assert measure(values, 5, draws=20) != measure(values, 5, draws=20, seed=1)


def test_heads_that_do_not_exist_take_no_part():
    values = scores(20, signal=0.2).samples
    missing = torch.cat([values, torch.full((20, 1, HEADS), torch.nan)], 1)
    assert split_half_agreement(HeadScores(missing, "score"), 5) == split_half_agreement(HeadScores(values, "score"), 5)


def test_heads_that_are_all_alike_have_no_order():
    flat = HeadScores(torch.ones(10, LAYERS, HEADS), "score")
    assert split_half_agreement(flat, 5, draws=5).tau == 0


# -- how many samples ------------------------------------------------------------------------------------------------


def test_more_samples_agree_better_and_the_first_size_that_is_enough_is_told():
    found = samples_needed(scores(256, signal=0.15), 8, level=0.8)
    assert found.table["n"].tolist() == [2, 4, 8, 16, 32, 64, 128]
    overlaps = found.table["overlap"].to_numpy()
    assert (np.diff(overlaps) > 0).all()
    assert found.enough == found.table["n"][int(np.flatnonzero(overlaps >= 0.8)[0])]
    assert 2 < found.enough < 128
    noisier = samples_needed(scores(256, signal=0.075), 8, level=0.8)
    assert noisier.enough is not None
    assert noisier.enough > found.enough


def test_noise_is_never_enough_and_certainty_always():
    assert samples_needed(scores(64, signal=0.0), 8, level=0.8).enough is None
    assert samples_needed(scores(64, signal=100.0), 8, level=1.0).enough == 2


def test_sizes_are_bounded_by_disjoint_halves():
    assert samples_needed(scores(21, signal=0.1), 8).table["n"].tolist() == [2, 4, 8, 10]
    assert samples_needed(scores(3, signal=0.1), 8).table["n"].tolist() == [1]
    with pytest.raises(UsageError, match=r"sizes \[4, 20\] asked for, but 20 samples give .* 1 to 10"):
        samples_needed(scores(20, signal=0.1), 8, sizes=(20, 4))


# -- which heads at all ----------------------------------------------------------------------------------------------


def with_heads_above_zero(seed: int, strength: float = 1.0) -> HeadScores:
    values = torch.randn(30, 10, 10, generator=torch.Generator().manual_seed(seed))
    values[:, 2, :5] += strength
    return HeadScores(values, "score")


def test_planted_heads_are_found_and_false_ones_are_rare():
    planted, found, false = 0, 0, 0
    for seed in range(10):
        table = significant_heads(with_heads_above_zero(seed))
        named = table[table["found"]]
        true = (named["layer"] == 2) & (named["head"] < 5)
        planted, found, false = planted + 5, found + int(true.sum()), false + int((~true).sum())
    assert found >= 0.95 * planted
    assert false / (found + false) < 0.15


def test_without_correction_noise_would_be_found():
    table = significant_heads(with_heads_above_zero(0, strength=0.0))
    assert (table["p"] < 0.05).sum() > 0
    assert not table["found"].any()
    assert (table["fdr"] >= table["p"]).all()
    assert table["p"].is_monotonic_increasing


def test_scores_can_be_compared_with_others_of_the_same_samples():
    base = with_heads_above_zero(0, strength=0.0)
    more = HeadScores(base.samples.clone(), "score")
    more.samples[:, 4, 4] += 0.3 + 0.01 * torch.arange(30)
    table = significant_heads(more, null=base)
    assert table[table["found"]]["name"].tolist() == ["L4H4"]
    assert table["p"].tolist()[1:] == [1.0] * 99  # no difference at all
    assert not significant_heads(more, null=base, against="less")["found"].any()


def test_the_p_value_is_that_of_the_signed_ranks():
    values = torch.arange(1.0, 9.0).reshape(8, 1, 1)  # eight differences, all above 0
    assert significant_heads(HeadScores(values, "score"))["p"].item() == pytest.approx(2**-8)
    assert significant_heads(HeadScores(values, "score"), against="two-sided")["p"].item() == pytest.approx(2**-7)
    assert significant_heads(HeadScores(values, "score"), null=100.0)["p"].item() == 1


def test_equal_scores_are_tested_too():
    ones = HeadScores(torch.ones(20, 1, 2), "score")
    assert significant_heads(ones)["found"].all()
    assert not significant_heads(ones, null=1.0)["found"].any()


# -- errors ----------------------------------------------------------------------------------------------------------


def test_impossible_requests_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    values = scores(20, signal=0.1)
    for measure in (bootstrap_agreement, split_half_agreement, samples_needed):
        with pytest.raises(UsageError, match="k is 41, but there are 40 heads"):
            measure(values, 41)
    with pytest.raises(UsageError, match="1 sample cannot be split"):
        split_half_agreement(scores(1, signal=0.1), 5)
    with pytest.raises(UsageError, match="level is 0; ask for an overlap"):
        samples_needed(values, 5, level=0)
    with pytest.raises(UsageError, match="0 draws at level"):
        bootstrap_agreement(values, 5, draws=0)
    with pytest.raises(UsageError, match="20 samples of 40 heads cannot be paired with 10 samples of 40 heads"):
        significant_heads(values, null=scores(10, signal=0.1))
