"""The attentive probe looks where the answer stands, and pools by hand as it pools by itself."""

import math

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from headscope import UsageError
from probes import AttentiveProbe, LinearProbe
from probes.pooling import AttentivePooling

SMALL = AttentiveProbe(queries=4, epochs=80)


TYPED = {"check_do_not_raise_errors_in_init_or_set_params": "the tests check types, and the check passes wrong ones"}


@parametrize_with_checks([AttentiveProbe(queries=4, epochs=40)], expected_failed_checks=lambda _: TYPED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_scikit_learn_takes_it_for_one_of_its_own(estimator, check):
    check(estimator)


def haystacks(n: int, *, tokens: int = 12, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise, and in it one marked token whose entry 1 is the answer; samples have 6 tokens or more, the rest is NaN."""
    rng = np.random.default_rng(seed)
    X, y, place = rng.normal(0, 2, (n, tokens, d)), rng.integers(0, 2, n), rng.integers(0, 6, n)
    X[..., 0] = 0.1 * X[..., 0]
    X[np.arange(n), place, 0] = 5
    X[np.arange(n), place, 1] = 2 * (2 * y - 1)
    for row, length in zip(X, rng.integers(6, tokens + 1, n), strict=True):
        row[length:] = np.nan
    return X, y, place


def test_it_finds_the_one_token_that_knows_where_a_mean_drowns():
    X, y, place = haystacks(360)
    mean = cross_val_score(LinearProbe(), np.nanmean(X, 1), y).mean()
    probe = SMALL.fit(X[:260], y[:260])
    assert mean < 0.7
    assert probe.score(X[260:], y[260:]) > 0.9
    attention = probe.attention(X[260:])
    assert (attention.max(1).values.argmax(1).numpy() == place[260:]).mean() > 0.9
    assert torch.allclose(attention.sum(-1), torch.ones(100, 4))


def test_random_labels_are_not_found():
    X, y, _ = haystacks(360)
    y = np.random.default_rng(1).permutation(y)
    assert 0.35 < SMALL.fit(X[:260], y[:260]).score(X[260:], y[260:]) < 0.65


def test_absent_tokens_count_for_nothing():
    X, y, _ = haystacks(120)
    probe = SMALL.fit(X, y)
    more = np.concatenate([X, np.full((120, 4, 8), np.nan)], 1)
    assert np.allclose(probe.predict_proba(X), probe.predict_proba(more), atol=1e-6)
    assert (probe.attention(more)[:, :, -4:] == 0).all()
    alone = np.concatenate([probe.predict_proba(row[~np.isnan(row).any(1)][None]) for row in X])
    assert np.allclose(probe.predict_proba(X), alone, atol=1e-5)


def test_the_same_seed_makes_the_same_probe():
    X, y, _ = haystacks(80)
    first, second, other = (AttentiveProbe(epochs=5, seed=seed).fit(X, y).predict_proba(X) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def test_pooling_by_hand():
    pooling = AttentivePooling(2, 2, 2, torch.Generator().manual_seed(0)).eval()
    pooling.queries.data = torch.tensor([[2**0.5 * math.log(3), 0.0], [0.0, 0.0]])
    pooling.values.data = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])  # query 0 takes entry 0, query 1 entry 1
    tokens, present = torch.tensor([[[1.0, 4.0], [0.0, 2.0], [9.0, 9.0]]]), torch.tensor([[True, True, False]])
    # scores log 3 and 0: three quarters on the first token; the other query looks at both alike
    assert torch.allclose(pooling.attention(tokens, present)[0], torch.tensor([[0.75, 0.25, 0], [0.5, 0.5, 0]]))
    assert torch.allclose(pooling.pooled(tokens, present), torch.tensor([[0.75, 3.0]]))


def test_the_norm_knows_all_training_samples_at_the_end():
    X, y, _ = haystacks(150)
    probe = AttentiveProbe(queries=2, epochs=3, batch_size=40).fit(X, y)
    tokens, present = probe._given(X)
    pooled = probe.pooling_.pooled(tokens, present)
    assert torch.allclose(probe.pooling_.norm.running_mean, pooled.mean(0), atol=1e-5)
    assert torch.allclose(probe.pooling_.norm.running_var, pooled.var(0), rtol=1e-4)


def test_what_cannot_be_fitted_is_refused():
    X, y, _ = haystacks(20)
    torn = X.copy()
    torn[0, 0, 0] = np.nan
    with pytest.raises(UsageError, match=r"NaN in part of their entries; a token is absent \(all NaN\) or complete"):
        SMALL.fit(torn, y)
    empty = X.copy()
    empty[3] = np.nan
    with pytest.raises(UsageError, match="sample 3 has no token; leave it out"):
        SMALL.fit(empty, y)
    with pytest.raises(UsageError, match="20 samples of 1 class; a probe needs at least two"):
        SMALL.fit(X, np.zeros(20, int))
    with pytest.raises(UsageError, match="queries=0, epochs=150, batch_size=128: give at least 1 query"):
        AttentiveProbe(queries=0).fit(X, y)
