"""Overlap of two circuits: counted by hand, and its chance level where it can be worked out."""

import pytest
import torch

from head_analysis.overlap import circuit_overlap, jaccard
from headscope import Head, UsageError
from headscope.scores import HeadScores


def of(values: torch.Tensor) -> HeadScores:
    return HeadScores(values[None].float(), "effect")


def random_scores(seed: int, layers: int = 10, heads: int = 20) -> HeadScores:
    return of(torch.randn(layers, heads, generator=torch.Generator().manual_seed(seed)))


def test_the_same_circuit_overlaps_wholly_and_not_by_chance():
    scores = random_scores(0)
    table = circuit_overlap(scores, scores)
    assert table["share"].tolist() == [0.01, 0.02, 0.05, 0.10]
    assert table["k"].tolist() == table["shared"].tolist() == [2, 4, 10, 20]
    assert table["jaccard"].eq(1).all()
    assert table["expected"].max() < 0.15
    assert table["p"].max() < 0.02


def test_shared_heads_are_counted_by_size_whatever_the_sign():
    a, b = torch.zeros(2, 5), torch.zeros(2, 5)
    a[0, :4] = torch.tensor([5.0, -4.0, 3.0, 0.1])
    b[0, :4] = torch.tensor([-4.0, 5.0, 0.1, 3.0])
    (row,) = circuit_overlap(of(a), of(b), shares=(0.3,)).to_dict("records")
    assert (row["k"], row["shared"], row["jaccard"]) == (3, 2, 2 / 4)


def test_chance_over_all_heads_is_the_hypergeometric_mean():
    table = circuit_overlap(random_scores(0), random_scores(1), shares=(0.1,), match="free", permutations=4000)
    k, n = 20, 200
    from scipy.stats import hypergeom

    shared = range(k + 1)
    expected = sum(hypergeom.pmf(s, n, k, k) * s / (2 * k - s) for s in shared)
    assert table["expected"].item() == pytest.approx(expected, abs=0.003)
    assert table["p"].item() > 0.01


def test_circuits_in_one_layer_overlap_by_chance_within_it():
    """Ten heads of one layer each: a free shuffle calls an accident of layers a finding, one within layers does not."""
    a, b = torch.zeros(10, 20), torch.zeros(10, 20)
    a[3, :10], b[3, 5:15] = 1.0, 1.0
    free = circuit_overlap(of(a), of(b), shares=(0.05,), match="free").to_dict("records")[0]
    within = circuit_overlap(of(a), of(b), shares=(0.05,)).to_dict("records")[0]
    assert free["jaccard"] == within["jaccard"] == 5 / 15
    assert free["p"] < 0.01
    assert within["p"] > 0.3
    assert within["expected"] == pytest.approx(1 / 3, abs=0.02)


def test_heads_without_effect_are_in_no_circuit():
    a, b = torch.zeros(4, 5), torch.zeros(4, 5)
    a[0, 0], b[1, 1] = 1.0, 1.0
    (row,) = circuit_overlap(of(a), of(b), shares=(0.5,)).to_dict("records")
    assert (row["k"], row["in_a"], row["in_b"], row["shared"], row["jaccard"]) == (10, 1, 1, 0, 0)
    (none,) = circuit_overlap(of(torch.zeros(4, 5)), of(torch.zeros(4, 5)), shares=(0.5,)).to_dict("records")
    assert (none["jaccard"], none["expected"], none["p"]) == (0, 0, 1)


def test_jaccard_by_hand():
    a, b = [Head(0, 0), Head(0, 1), Head(1, 0)], [Head(0, 1), Head(2, 2)]
    assert jaccard(a, b) == 1 / 4
    assert jaccard(a, a) == 1
    with pytest.raises(UsageError, match="two empty circuits"):
        jaccard([], [])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="of 200 and of 100 heads"):
        circuit_overlap(random_scores(0), random_scores(0, layers=5))
    with pytest.raises(UsageError, match=r"share 0\.0 is no share"):
        circuit_overlap(random_scores(0), random_scores(1), shares=(0.0,))
