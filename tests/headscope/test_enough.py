"""How many samples are enough: estimates against simulated truths, beyond the samples they are made from."""

import jaxtyping
import numpy as np
import pytest
import torch

from headscope import UsageError
from headscope.enough import expected_overlap, samples_for_width
from headscope.evidence import mean_interval
from headscope.scores import HeadScores
from headscope.stability import samples_needed

LAYERS, HEADS, N = 6, 10, 40
SIZES = (5, 10, 20, 40, 160)


def scores(strength: np.ndarray, n: int = N, *, shared: float = 0.0, seed: int = 0) -> HeadScores:
    """Noise of 1 on every sample and head, and what all heads of a sample share."""
    rng = np.random.default_rng(seed)
    values = strength + rng.standard_normal((n, strength.size)) + shared * rng.standard_normal((n, 1))
    return HeadScores(torch.tensor(values.reshape(n, -1, HEADS)), "score")


def true_overlap(strength: np.ndarray, n: int, k: int, draws: int = 400) -> float:
    rng = np.random.default_rng(1)
    inside = np.zeros((2, draws, strength.size), bool)
    noise = rng.standard_normal(inside.shape) / n**0.5
    np.put_along_axis(inside, np.argsort(-(strength + noise), -1)[..., :k], True, -1)
    return float(inside.all(0).sum(-1).mean() / k)


def strengths(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return 0.3 * rng.standard_normal(LAYERS * HEADS)
    if kind == "exponential":
        return rng.exponential(0.2, LAYERS * HEADS)
    if kind == "long tail":
        return 0.05 * np.abs(rng.standard_cauchy(LAYERS * HEADS))
    return np.where(np.arange(LAYERS * HEADS) < 3, 1.0, 0.0)


def truth_and_estimate(kind: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over 8 sets of strengths, at each of SIZES."""
    truth, found = np.zeros(len(SIZES)), np.zeros(len(SIZES))
    for seed in range(8):
        strength = strengths(kind, seed)
        truth += [true_overlap(strength, n, k) / 8 for n in SIZES]
        values = scores(strength, shared=2.0, seed=seed)
        found += expected_overlap(values, k, sizes=SIZES, draws=100).table["overlap"].to_numpy() / 8
    return truth, found


@pytest.mark.parametrize(("kind", "k"), [("normal", 8), ("exponential", 5), ("few", 3), ("few", 8)])
def test_the_estimate_is_the_truth_four_times_beyond_the_samples(kind, k):
    truth, found = truth_and_estimate(kind, k)
    assert np.abs(found - truth).max() < 0.12


def test_with_a_long_tail_it_promises_too_little():
    truth, found = truth_and_estimate("long tail", 8)
    assert (found < truth + 0.03).all()
    assert np.abs(found - truth)[:4].max() < 0.12
    assert found[4] < truth[4] - 0.1


def test_taking_means_for_truths_would_promise_an_order_where_there_is_none():
    nothing = np.zeros(LAYERS * HEADS)
    for seed in range(3):
        values = scores(nothing, seed=seed)
        found = expected_overlap(values, 8, draws=200)
        assert found.enough is None
        assert found.table["overlap"].iloc[-1] < 0.4
        naive = values.values.flatten().numpy()
        assert true_overlap(naive, 32 * N, 8) > 0.7


def test_within_the_samples_it_agrees_with_what_is_counted():
    values = scores(strengths("normal", 0), 80)
    sizes = (5, 10, 20, 40)
    counted = samples_needed(values, 8, sizes=sizes, draws=200).table["overlap"].to_numpy()
    found = expected_overlap(values, 8, sizes=sizes).table
    assert np.abs(found["overlap"].to_numpy() - counted).max() < 0.12
    assert found["beyond"].tolist() == [False] * 4
    assert ((found["low"] <= found["overlap"]) & (found["overlap"] <= found["high"])).all()


def test_stronger_heads_need_fewer_samples_and_certain_ones_the_fewest():
    needed = [
        expected_overlap(scores(scale * strengths("normal", 0)), 8, level=0.7, draws=200).enough for scale in (1, 2, 50)
    ]
    assert all(n is not None for n in needed)
    assert needed[0] > needed[1] > needed[2]
    assert needed[2] <= 4


def test_heads_that_never_vary_are_taken_as_they_are():
    flat = HeadScores(torch.arange(20.0).reshape(1, 2, 10).expand(6, 2, 10).clone(), "score")
    found = expected_overlap(flat, 5, level=1.0, draws=20)
    assert (found.table["overlap"] == 1).all()
    assert found.enough == 2
    silent = scores(strengths("few", 0)).samples.clone()
    silent[:, 5] = 0  # ten heads that are off, as most heads of a retrieval score are
    assert expected_overlap(HeadScores(silent, "score"), 3, draws=50).table["overlap"].iloc[-1] > 0.95


def test_the_same_seed_gives_the_same_table():
    values = scores(strengths("normal", 0))
    first, again, other = (expected_overlap(values, 8, sizes=(10, 20), draws=50, seed=seed).table for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_sizes_grow_to_32_times_the_samples():
    sizes = expected_overlap(scores(strengths("few", 0), 10), 3, draws=10).table["n"].tolist()
    assert sizes[:6] == [2, 3, 4, 6, 8, 11]
    assert sizes[-1] == 320


# -- widths ----------------------------------------------------------------------------------------------------------


def test_widths_by_hand():
    """Spread 1 and width 0.5: (2 x 1.96 / 0.5)^2. Half of all samples 1, Wilson's width at n: 1.96 / sqrt(n + 1.96^2)."""
    values = torch.tensor([[-1.0, 0.0, 0.0, 3.0], [1.0, 1.0, 0.0, 3.0]]).repeat(50, 1)
    values[:, 0] *= (99 / 100) ** 0.5  # an unbiased spread of 1
    table = samples_for_width(HeadScores(values[:, None], "score"), 0.5)
    z = 1.959964
    assert table["n"].iloc[0] == np.ceil((4 * z) ** 2)
    assert table["n"].iloc[1] == np.ceil((z / 0.5) ** 2 - z**2)
    assert table["n"].iloc[2] == np.ceil(z**2 * (1 / 0.5 - 1))  # never seen: 0 of n has the width z^2 / (n + z^2)
    assert np.isnan(table["n"].iloc[3])
    assert table["name"].tolist() == ["L0H0", "L0H1", "L0H2", "L0H3"]


@pytest.mark.parametrize("kind", ["numbers", "yes or no"])
def test_with_that_many_samples_the_interval_has_that_width(kind):
    rng = np.random.default_rng(0)

    def draw(n: int) -> torch.Tensor:
        drawn = rng.exponential(1.0, (n, 1, 4)) if kind == "numbers" else (rng.random((n, 1, 4)) < 0.2).astype(float)
        return torch.tensor(drawn)

    table = samples_for_width(HeadScores(draw(400), "score"), 0.1)
    n = int(table["n"].mean())
    low, high = mean_interval(draw(n), resamples=500)
    assert (high - low).mean() == pytest.approx(0.1, rel=0.1)


def test_bad_input_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    values = scores(strengths("few", 0))
    with pytest.raises(UsageError, match="3 samples say too little"):
        expected_overlap(scores(strengths("few", 0), 3), 3)
    with pytest.raises(UsageError, match="k is 61, but there are 60 heads"):
        expected_overlap(values, 61)
    with pytest.raises(UsageError, match="level is 0; ask for an overlap above 0"):
        expected_overlap(values, 3, level=0)
    with pytest.raises(UsageError, match="400 draws of rankings by 0 samples"):
        expected_overlap(values, 3, sizes=(0, 5))
    with pytest.raises(UsageError, match="width is 0; give how wide"):
        samples_for_width(values, 0)
    with pytest.raises(UsageError, match="1 sample has no spread"):
        samples_for_width(scores(strengths("few", 0), 1), 0.1)
