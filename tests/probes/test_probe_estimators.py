"""Probes as scikit-learn estimators, and what they find in data whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from headscope import UsageError
from probes import LinearProbe, MassMeanProbe, RidgeProbe

LINEAR = [LinearProbe(), RidgeProbe(), *(MassMeanProbe(covariance=kind) for kind in ("none", "pooled", "shrunk"))]


TYPED = {"check_do_not_raise_errors_in_init_or_set_params": "the tests check types, and the check passes wrong ones"}


@parametrize_with_checks(LINEAR, expected_failed_checks=lambda _: TYPED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")  # checks feed estimators odd input on purpose
def test_scikit_learn_takes_it_for_one_of_its_own(estimator, check):
    check(estimator)


def blobs(n: int = 200, d: int = 6, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes apart along entry 0, whose spread is a hundred times that of the others."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = rng.normal(size=(n, d))
    X[:, 0] = 100 * (X[:, 0] + 4 * y)
    return X, y


def test_logistic_regression_on_standardised_entries_is_what_it_is():
    X, y = blobs()
    probe, scaler = LinearProbe(C=0.5).fit(X, y), StandardScaler().fit(X)
    plain = LogisticRegression(C=0.5, max_iter=1000).fit(scaler.transform(X), y)
    assert np.allclose(probe.predict_proba(X), plain.predict_proba(scaler.transform(X)))
    assert np.allclose(X @ probe.coef_[0] + probe.intercept_, probe.decision_function(X))
    assert probe.score(X, y) > 0.95


def test_cross_validation_pipelines_and_searches_take_it():
    X, y = blobs()
    assert cross_val_score(make_pipeline(StandardScaler(), LinearProbe()), X, y).mean() > 0.95
    assert GridSearchCV(MassMeanProbe(), {"covariance": ["none", "pooled"]}).fit(X, y).best_score_ > 0.95
    assert clone(LinearProbe(C=3.0)).get_params() == {"C": 3.0, "max_iter": 1000}


@pytest.mark.parametrize("probe", [LinearProbe(), MassMeanProbe()])
def test_a_direction_points_to_the_second_class_and_is_as_long_as_the_spread(probe):
    X, y = blobs()
    direction = probe.fit(X, y).direction()
    unit = direction / direction.norm()
    assert unit[0] > 0.99 or isinstance(probe, LinearProbe)  # weights are per unit of each entry
    assert torch.isclose(direction.norm(), torch.tensor((X @ unit.double().numpy()).std()).float(), rtol=1e-4)
    moved = probe.predict_proba(X + 3 * direction.numpy())[:, 1]
    assert (moved >= probe.predict_proba(X)[:, 1]).all()
    assert torch.equal(probe.direction(0), -direction)
    assert torch.equal(probe.direction(1), direction)


def test_the_direction_of_numbers_is_where_they_grow():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) * [1, 10, 1, 1]
    probe = RidgeProbe(alpha=1e-6).fit(X, 2 * X[:, 0] + 0.5 * X[:, 1] + 1)
    assert np.allclose(probe.coef_, [2, 0.5, 0, 0], atol=1e-6)
    assert np.isclose(probe.intercept_, 1, atol=1e-6)
    expected = torch.tensor([2, 0.5, 0, 0]) / 4.25**0.5 * (X @ np.array([2, 0.5, 0, 0]) / 4.25**0.5).std()
    assert torch.allclose(probe.direction(), expected.float(), atol=1e-4)


def test_mass_means_by_hand():
    X, y = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]]), np.array(["no", "no", "yes", "yes"])
    probe = MassMeanProbe().fit(X, y)
    # means (1, 0) and (1, 4): theta = (0, 4), the middle at height 2, so the logit is 4 (x_1 - 2)
    expected = 1 / (1 + np.exp(-4 * (np.array([1.5, 2.0, 3.0]) - 2)))
    assert np.allclose(probe.predict_proba([[7.0, 1.5], [7.0, 2.0], [7.0, 3.0]])[:, 1], expected)
    assert torch.allclose(probe.direction(), torch.tensor([0.0, 2.0]))  # heights 0, 0, 4, 4 have a spread of 2


@pytest.mark.parametrize("classes", [2, 3])
def test_divided_by_the_covariance_it_is_discriminant_analysis(classes):
    rng = np.random.default_rng(classes)
    y = np.repeat(np.arange(classes), 60)
    mixing = rng.normal(size=(5, 5))
    X = rng.normal(size=(len(y), 5)) @ mixing + 2 * rng.normal(size=(classes, 5))[y]
    even = [1 / classes] * classes
    known = LinearDiscriminantAnalysis(solver="lsqr", priors=even).fit(X, y)
    probe = MassMeanProbe(covariance="pooled").fit(X, y)
    assert np.allclose(probe.predict_proba(X), known.predict_proba(X), atol=1e-6)
    assert probe.score(X, y) > MassMeanProbe().fit(X, y).score(X, y) - 0.02


def test_a_shrunk_covariance_stands_more_dimensions_than_samples():
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 100)
    X = rng.normal(size=(200, 60)) @ np.diag(np.linspace(0.1, 3, 60))
    X[:, 0] += 0.6 * y
    scores = {
        kind: cross_val_score(MassMeanProbe(covariance=kind), X[:70], y[:70]).mean() for kind in ("pooled", "shrunk")
    }
    assert scores["shrunk"] > scores["pooled"]


def test_of_several_classes_one_has_to_be_named():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 30)
    X = rng.normal(size=(90, 3)) + 6 * np.repeat(np.eye(3), 30, axis=0)
    for probe in (LinearProbe(), MassMeanProbe()):
        assert probe.fit(X, y).direction("b").argmax() == 1
        with pytest.raises(UsageError, match="the probe has 3 classes; name the one to point to"):
            probe.direction()
        with pytest.raises(UsageError, match="'d' is no class of this probe; its classes are a, b, c"):
            probe.direction("d")


def test_what_cannot_be_fitted_is_refused():
    X, y = blobs()
    with pytest.raises(UsageError, match="covariance 'full' is not known; use one of none, pooled, shrunk"):
        MassMeanProbe().set_params(covariance="full").fit(X, y)
    with pytest.raises(UsageError, match="all samples are of one class, 1; a probe needs at least two classes"):
        MassMeanProbe().fit(X, np.ones(200, int))
