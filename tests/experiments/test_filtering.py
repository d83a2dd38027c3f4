"""Heads are kept by what calibrating them alone does, and how sure that is."""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest

from experiments.filtering.choosing import choice_scores
from experiments.filtering.filters import HeadFilter, filter_heads
from headscope import Head, HookedModel, UsageError
from headscope.draws import draw_heads
from headscope.runs import Run
from interventions.act import ACT
from tasks.choices import Classification, Question
from tests.interventions.sinking import MISLEADING, RIGHT, USEFUL, WRONG, misled

FILLER = "f1 f2 {} f3 f4 f5 f6 f7 f8 f9"
HELPED = Classification(
    tuple(Question(FILLER.format(word), (WRONG, RIGHT), 1) for word in [MISLEADING] * 4 + ["f0"] * 4)
)
HARMED = Classification(tuple(Question(FILLER.format(word), (WRONG, RIGHT), 0) for word in [USEFUL] * 4))
TASKS = {"helped": HELPED, "harmed": HARMED}
GOOD, BAD = Head(2, 0), Head(2, 1)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return misled()


@pytest.fixture(scope="module")
def found(model) -> HeadFilter:
    return filter_heads(model, TASKS)


def accuracy(model: HookedModel, *edits: ACT) -> tuple[float, ...]:
    with model.hooks(*edits):
        return tuple(choice_scores(model, task)["score"].mean() for task in TASKS.values())


def test_each_head_is_judged_alone(found):
    assert found.heads == tuple(Head(layer, head) for layer in (2, 3) for head in range(4))
    table = found.table.set_index("name")
    assert table.loc["L2H0", ["gain", "gain, helped", "gain, harmed"]].tolist() == [0.25, 0.5, 0]
    assert table.loc["L2H1", ["gain", "gain, helped", "gain, harmed"]].tolist() == [-0.5, 0, -1]
    assert table.drop(["L2H0", "L2H1"])["gain"].eq(0).all()
    # Half the samples of one set gain 1: a standard error of .5 / sqrt(8), halved by the mean over the sets.
    assert table.loc["L2H0", "se"] == pytest.approx(0.5 / 8**0.5 / 2, rel=0.1)
    assert table.loc["L2H1", "se"] == 0


def test_harmless_heads_are_kept_and_helpful_ones_are_fewer(found):
    assert set(found.heads) - set(found.kept) == {BAD}
    assert found.table["kept"].tolist() == [head != BAD for head in found.heads]
    assert replace(found, rule="helpful").kept == (GOOD,)


def test_what_is_kept_serves_better_than_all_heads_and_than_random_ones(model, found):
    assert accuracy(model) == (0.5, 1)
    assert accuracy(model, ACT()) == (1, 0)
    assert accuracy(model, ACT(heads=found.kept)) == (1, 1)
    helpful = replace(found, rule="helpful").kept
    assert accuracy(model, ACT(heads=helpful)) == (1, 1)
    for seed in range(3):
        drawn = draw_heads([head for head in model.heads() if head != BAD], 1, seed=seed, exclude=helpful)
        assert accuracy(model, ACT(heads=drawn)) == (0.5, 1)


def test_a_run_goes_on_where_it_stopped(model, found, tmp_path):
    with Run.create(tmp_path / "run", command="test", config={}) as run:
        filter_heads(model, TASKS, heads=[GOOD], run=run)
        assert run.cell_keys() == ("L2H0", "no head")
        again = filter_heads(model, TASKS, run=run)  # a cell written a second time would be refused
        assert again.table.equals(found.table)
        assert len(run.cell_keys()) == 9
        with pytest.raises(UsageError, match="for another model, operator or other samples"):
            filter_heads(model, {"harmed": HARMED}, run=run)
        with pytest.raises(UsageError, match="for another model, operator or other samples"):
            filter_heads(model, TASKS, act=ACT(beta=0.2), run=run)


def test_the_operator_says_which_heads_and_how(model):
    given = filter_heads(model, {"helped": HELPED}, act=ACT("L2H0, L3H1", beta=1.0))
    assert given.heads == (GOOD, Head(3, 1))
    assert given.table["gain"].tolist() == [0, 0]


def filtered(*gains: np.ndarray, rule: str = "harmless") -> HeadFilter:
    heads = tuple(Head(0, head) for head in range(len(gains[0])))
    return HeadFilter(heads, {str(i): one for i, one in enumerate(gains)}, rule)


def test_data_sets_weigh_the_same_whatever_their_size():
    one = filtered(np.full((1, 40), 1.0), np.full((1, 4), -0.5))
    assert one.table["gain"].tolist() == [0.25]


def test_clear_gains_are_stable_and_noise_is_not():
    clear = filtered(np.repeat([[1.0], [1.0], [-1.0], [-1.0]], 20, 1)).stability()
    assert (clear.resamples, clear.halves) == (1, 1)
    assert clear.chance < 0.6
    noise = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (60, 40))
    found = filtered(noise, rule="helpful").stability()
    assert found.halves < 0.25
    assert abs(found.halves - found.chance) < 0.1


def test_bad_input_is_refused(model, monkeypatch):
    with pytest.raises(UsageError, match="0 tasks and rule 'harmless' were given"):
        filter_heads(model, {})
    with pytest.raises(UsageError, match="no head is left to calibrate"):
        filter_heads(model, TASKS, heads=[])
    with pytest.raises(UsageError, match="L9H0 asked for"):
        filter_heads(model, TASKS, heads="L9H0")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=r"rule 'best' were given; .*harmless, helpful"):
        filter_heads(model, TASKS, rule="best")
