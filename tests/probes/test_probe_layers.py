"""Probes find what was planted and nothing else, and their controls show what they are there for."""

import pickle
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression

from headscope import Head, UsageError
from probes import Features, LinearProbe, ProbeResult, RidgeProbe, probe_features, probe_heads, probe_layers
from probes.controls import control_labels
from probes.judging import _judged_alone
from probes.measures import Judge
from probes.places import Places
from probes.questions import Question
from tests.headscope.test_hooks import sentence, words_model

N, D, LAYERS, HEADS = 120, 8, 4, 3


def made(values: Mapping[int, Any], site: str = "resid_post") -> Features:
    """Features of made-up activations."""
    tensors = {layer: torch.as_tensor(value).float() for layer, value in values.items()}
    n = len(next(iter(tensors.values())))
    return Features(tensors, site, Places(), tuple((i,) for i in range(n)), (LAYERS, HEADS))  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def by_layer() -> ProbeResult:
    """The label is the sign of one direction in layer 2."""
    values = {layer: noise(N, D, seed=layer) for layer in range(LAYERS)}
    return probe_features(made(values), (values[2] @ noise(D, seed=9) > 0).astype(int), folds=3)


def test_the_planted_layer_is_found_and_no_other(by_layer):
    table = by_layer.table.set_index("layer")
    assert by_layer.found == (2,)
    assert table.loc[2, "accuracy"] > 0.85
    assert table.loc[2, "low"] > table.loc[2, "control_high"]
    assert table.loc[2, "selectivity"] > 0.3
    for layer in (0, 1, 3):  # chance is inside the interval, and inside the control's band
        assert table.loc[layer, "low"] < 0.5 < table.loc[layer, "high"]
        assert table.loc[layer, "fdr"] > 0.2
        assert abs(table.loc[layer, "selectivity"]) < 0.15
    assert (abs(table["control"] - 0.5) < 0.08).all()
    assert "layer 2" in repr(by_layer)


def test_the_planted_head_is_found_and_no_other():
    values = {layer: noise(N, HEADS, D, seed=layer) for layer in (0, 1)}
    labels = values[1][:, 2] @ noise(D, seed=9) > 0
    result = probe_features(made(values, "z"), labels, by="head", folds=3, probe=LinearProbe(C=0.1))
    assert result.found == (Head(1, 2),)
    scores = result.scores()
    assert scores.top(1) == (Head(1, 2),)
    assert scores.samples.shape == (N, LAYERS, HEADS)
    assert torch.allclose(scores.values[1, 2], torch.tensor(result.table["accuracy"].max()))
    assert result.plot().data[0].z.shape == (LAYERS, HEADS)


def test_random_labels_are_at_chance():
    values = {layer: noise(N, D, seed=layer) for layer in range(2)}
    labels = np.random.default_rng(7).integers(0, 2, N)
    result = probe_features(made(values), labels)
    assert result.found == ()
    assert (result.table["low"] < 0.5).all()
    assert (result.table["high"] > 0.5).all()


def test_groups_keep_templates_from_leaking():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 8)
    labels = rng.permutation(np.tile([0, 1], 12))[groups]  # one label a template, drawn at random: nothing to know
    read = made({0: noise(24, 40)[groups] + 0.2 * noise(192, 40, seed=1)})
    leaky = probe_features(read, labels, draws=5).table.loc[0]
    honest = probe_features(read, labels, groups=groups, draws=20).table.loc[0]
    assert leaky["accuracy"] > 0.95
    assert leaky["found"] or leaky["p"] < 0.2  # nothing in the ungrouped control gives it away
    assert honest["accuracy"] < 0.7
    assert not honest["found"]
    assert honest["high"] - honest["low"] > 2 * (leaky["high"] - leaky["low"])
    assert (leaky["clusters"], honest["clusters"]) == (192, 24)


def test_a_control_task_unmasks_what_is_learnt_by_heart():
    types = np.repeat(np.arange(30), 5)
    words = noise(30, 40)[types]  # a word is all there is to read
    labels = np.random.default_rng(1).integers(0, 2, 30)[types]
    read = made({0: words + 0.1 * noise(150, 40, seed=2)})
    shuffled = probe_features(read, labels, draws=20).table.loc[0]
    by_word = probe_features(read, labels, control="types", types=types, draws=5).table.loc[0]
    assert shuffled["accuracy"] == by_word["accuracy"] > 0.95
    assert shuffled["selectivity"] > 0.4
    assert abs(by_word["selectivity"]) < 0.05
    assert not by_word["found"]


def test_control_labels_by_hand():
    labels, groups = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 3])
    whole = Question.of(labels, groups=groups, folds=2, seed=0)
    for drawn in control_labels(whole, None, draws=20, seed=(0,)):
        assert drawn[0] == drawn[1]
        assert drawn[2] == drawn[3]
    assert {tuple(drawn) for drawn in control_labels(whole, None, draws=20, seed=(0,))} > {(0, 0, 1, 1, 1, 0)}
    mixed = Question.of(np.array([0, 1, 1, 0, 1, 0]), groups=groups, folds=2, seed=0)
    assert any(drawn[0] == drawn[1] for drawn in control_labels(mixed, None, draws=20, seed=(0,)))
    assert all(sorted(drawn) == [0, 0, 0, 1, 1, 1] for drawn in control_labels(mixed, None, draws=20, seed=(0,)))
    types = np.array([0, 1, 0, 1, 2, 2])
    for drawn in control_labels(mixed, types, draws=20, seed=(0,)):
        assert all(len(set(drawn[types == kind])) == 1 for kind in range(3))
        assert len(set(drawn)) == 2


def test_scores_by_hand():
    question = Question.of(["a", "a", "a", "b"] * 10, groups=None, folds=5, seed=0)
    judge = Judge.of(question, level=0.95, seed=0)
    always_a = np.zeros(40, int)
    assert judge.score(always_a).value == 0.75
    assert judge.balanced(always_a).value == 0.5
    numbers = Question.of(np.array([1.0, 2.0, 3.0, 4.0] * 5), groups=None, folds=5, seed=0)
    judge = Judge.of(numbers, level=0.95, seed=0)
    half = numbers.labels / 2 + 1.25  # errors are half the distance to the mean
    assert np.isclose(judge.score(half).value, 0.75)
    assert judge.score(half).low <= 0.75 <= judge.score(half).high


def test_numbers_are_predicted_too():
    values = {layer: noise(N, D, seed=layer) for layer in range(3)}
    result = probe_features(made(values), values[1][:, 0] + 0.3 * noise(N, seed=5))
    table = result.table
    assert result.found == (1,)
    assert table.loc[1, "r2"] > 0.8
    assert table.loc[[0, 2], "r2"].max() < 0.1
    assert np.isclose(result.samples.mean(0), table["r2"]).all()
    assert table["mean"].iloc[0] < 0.01
    assert "RidgeProbe" in result.meta["probe"]


def test_results_as_table_figure_and_html(by_layer):
    frame = by_layer.to_dataframe()
    assert list(frame.columns[:5]) == ["model", "revision", "site", "layer", "accuracy"]
    assert (frame["majority"] > 0.4).all()
    figure = by_layer.plot()
    drawn = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert drawn["accuracy"] == frame["accuracy"].tolist()
    assert set(drawn) == {"accuracy", "control", "majority"}
    assert "top 4 of 4 layers, 1 found, n = 120" in by_layer._repr_html_()
    with pytest.raises(UsageError, match="these are scores of layers; probe heads with probe_heads"):
        by_layer.scores()


def test_the_same_seed_gives_the_same():
    read, labels = made({0: noise(60, D), 1: noise(60, D, seed=1)}), np.tile([0, 1], 30)
    first, again, other = (probe_features(read, labels, draws=2, seed=seed) for seed in (0, 0, 1))
    assert first.table.equals(again.table)
    assert not np.array_equal(first.controls, other.controls)
    assert not np.array_equal(first.controls[0], first.controls[1])  # every layer has draws of its own


def test_who_works_does_not_matter():
    read, labels = made({0: noise(60, D), 1: noise(60, D, seed=1)}), np.tile([0, 1], 30)
    alone = probe_features(read, labels, draws=2)
    with parallel_config(backend="threading"):  # new processes would import everything anew
        together = probe_features(read, labels, draws=2, jobs=2)
    assert alone.table.equals(together.table)


def test_the_work_can_be_sent_to_another_process():
    question = Question.of(np.tile([0, 1], 30), groups=None, folds=3, seed=0)
    work = partial(_judged_alone, noise(60, D), question, LinearProbe(), None, draws=2, seed=(0, 1))
    for here, there in zip(work(), pickle.loads(pickle.dumps(work))(), strict=True):
        assert np.array_equal(here, there)


def test_a_model_is_probed_with_its_baselines():
    model = words_model("llama")
    samples = [f"{sentence(5, seed=i)} w{20 + i % 3}" for i in range(60)]
    result = probe_layers(model, samples, [i % 3 for i in range(60)], draws=3, folds=3)
    table = result.table
    assert (table["accuracy"] > 0.8).all()  # the last word is what is asked for,
    assert (table["random"] == 1).all()  # and it is enough by itself
    assert (table["untrained"] > 0.8).all()
    assert result.meta["model"] == "llama"
    heads = probe_heads(
        model, samples, [i % 3 for i in range(60)], draws=1, folds=3, layers=(1,), baselines=("random",)
    )
    assert heads.places == tuple(Head(1, head) for head in range(4))
    assert "untrained" not in heads.table
    assert heads.scores().samples.shape == (60, 2, 4)
    assert heads.scores().heads == heads.places


def test_any_estimator_will_do():
    values = {0: noise(60, D)}
    result = probe_features(made(values), values[0][:, 0] > 0, probe=LogisticRegression(C=0.5), draws=1)
    assert result.table.loc[0, "accuracy"] > 0.8
    assert "LogisticRegression" in result.meta["probe"]


def test_what_cannot_be_asked_is_refused():
    read, labels = made({0: noise(20, D)}), np.tile([0, 1], 10)
    model = words_model("llama")
    with pytest.raises(UsageError, match="all 20 labels are the same"):
        probe_features(read, np.zeros(20, int))
    with pytest.raises(UsageError, match="19 labels were given for 20 samples"):
        probe_features(read, labels[1:])
    with pytest.raises(UsageError, match="class 1 stands in 2 samples, too few for 5 folds"):
        probe_features(read, [1, 1, *[0] * 18])
    with pytest.raises(UsageError, match="class 0 stands in 2 groups, too few for 5 folds"):
        probe_features(read, labels, groups=[0] * 10 + [1] * 10)
    with pytest.raises(UsageError, match="folds is 1"):
        probe_features(read, labels, folds=1)
    with pytest.raises(UsageError, match="5 groups were given for 20 samples"):
        probe_features(read, labels, groups=[1] * 5)
    with pytest.raises(UsageError, match=r"the labels are classes, which RidgeProbe does not predict"):
        probe_features(read, labels, probe=RidgeProbe())
    with pytest.raises(UsageError, match="all samples are of one type"):
        probe_features(read, labels, control="types", types=["a"] * 20)
    with pytest.raises(UsageError, match="types are given, but control='shuffled' has none"):
        probe_features(read, labels, types=["a"] * 20)
    with pytest.raises(UsageError, match="draws is 0"):
        probe_features(read, labels, draws=0)
    with pytest.raises(UsageError, match=r"labels have shape \[20, 1\]"):
        probe_features(read, labels[:, None])
    with pytest.raises(UsageError, match="features at 'resid_post' are not split by head"):
        probe_features(read, labels, by="head")
    with pytest.raises(UsageError, match="some labels are not finite"):
        probe_features(read, np.where(labels == 0, np.nan, 1.0))
    with pytest.raises(UsageError, match="position asks for mark 'end'; the sample has none"):
        probe_layers(model, ["w20 w21"] * 20, labels, mark="end")
