"""Bits counted by hand, and what regular and meaningless labels cost."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from headscope import UsageError
from probes import description_length


def test_a_coin_by_hand():
    y, X = np.array([0, 1, 0, 0, 1, 1, 1, 1]), np.zeros((8, 1))
    counts = DummyClassifier(strategy="prior")  # says how often each class was so far
    found = description_length(X, y, probe=counts, fractions=(0.25, 0.5, 1.0), draws=1, seed=None)
    # 2 labels at 1 bit. After 0 1: both 1/2, mixed (2 * 1/2 + 1/2) / 3 = 1/2, 2 bits for 0 0.
    # After 0 1 0 0: p(1) = 1/4, mixed (4 * 1/4 + 1/2) / 5 = 0.3, four times.
    assert found.blocks["end"].tolist() == [2, 4, 8]
    assert np.allclose(found.blocks["bits"], [2, 2, -4 * np.log2(0.3)])
    assert np.isclose(found.bits, 4 - 4 * np.log2(0.3))
    assert found.uniform == 8
    assert np.isclose(found.compression, 8 / found.bits)


def test_a_class_not_seen_yet_costs_bits_but_not_infinitely_many():
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    found = description_length(np.zeros((8, 1)), y, fractions=(0.375, 0.5, 1.0), draws=1, seed=None)
    assert np.isclose(found.blocks["bits"][1], 3)  # three samples of class 0 leave (3 * 0 + 1/2) / 4 = 1/8 for class 1


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 8))
    return X, (X[:, 2] > 0).astype(int)


def test_what_can_be_read_is_compressed_and_shuffled_labels_are_not(planted):
    found = description_length(*planted)
    assert found.compression > 3
    assert found.control_compression < 1.05
    assert len(found.control) == 5
    assert (found.control > 2 * found.bits).all()
    assert found.blocks["end"].iloc[-1] == 400
    assert "description length" in found._repr_html_()


def test_more_noise_takes_more_bits(planted):
    X, y = planted
    noisy = X + 2 * np.random.default_rng(1).normal(size=X.shape)
    assert description_length(noisy, y, draws=1).bits > 1.5 * description_length(X, y, draws=1).bits


def test_groups_are_sent_whole():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    label = rng.permutation(np.tile([0, 1], 10))
    X = rng.normal(size=(20, 12))[groups] + 0.1 * rng.normal(size=(200, 12))  # each group is known by its place
    y = label[groups]
    found = description_length(X, y, groups=groups, draws=1)
    assert (found.blocks["end"] % 10 == 0).all()
    assert found.compression < 1
    assert description_length(X, y, draws=1).compression > 2  # where groups are torn apart, they give the label away


def test_what_cannot_be_coded_is_refused(planted):
    X, y = planted
    with pytest.raises(UsageError, match="the labels are floats; description length is of classes"):
        description_length(X, y.astype(float))
    with pytest.raises(UsageError, match="must rise from above 0 to 1"):
        description_length(X, y, fractions=(0.5, 0.25, 1.0))
    with pytest.raises(UsageError, match="399 samples, 400 labels"):
        description_length(X[1:], y)
