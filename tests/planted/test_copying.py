"""Every analysis finds the planted heads and no other, and every removal costs what the construction says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from head_analysis import retrieval_scores
from head_analysis.classes import mark_attention, previous_token_scores
from headscope import Head, HookedModel, Sample
from headscope.scores import HeadScores
from interventions import Ablate, Scale
from tests.head_analysis.planted import Copying
from tests.planted.copying import BEFORE, COPIER, FIRST_SINK, LATER_SINK, PLANTED, copying_model

TASK = Copying()


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return copying_model()


@pytest.fixture(scope="module")
def samples(model) -> list[Sample]:
    """The task's prompts, with the key, its first occurrence and the full stop marked."""
    marked = []
    for sample in TASK.samples(model.tokenizer):
        key = sample.prompt.split()[-1]
        first, stop = sample.prompt.index(f"{key} "), sample.prompt.index(" . ") + 1
        marks = {
            **sample.marks,
            "END": (len(sample.prompt) - len(key), len(sample.prompt)),
            "S1": (first, first + len(key)),
            "S1+1": (first + len(key) + 1, first + len(key) + 2),
            "stop": (stop, stop + 1),
        }
        marked.append(replace(sample, marks=marks))
    return marked


def accuracy(model: HookedModel, *hooks: object) -> float:
    samples = TASK.samples(model.tokenizer)
    with model.hooks(*hooks):
        answers = model.generate(samples, max_new_tokens=6, stop=TASK.stop)
    return sum(TASK.score(answer.sample, answer.text) for answer in answers) / len(answers)


def last(model: HookedModel, samples: list[Sample], *hooks: object) -> Tensor:
    with model.hooks(*hooks):
        return model.forward(samples, last=1).logits[:, -1]


def mass(model: HookedModel, samples: list[Sample], group: str, after: str | None = None) -> HeadScores:
    """Mean attention on a group of tokens, over all queries or those behind a mark."""
    groups = {"first": (0,), "stop": "stop"}
    rows = []
    for sample, found in zip(samples, model.attention_mass(samples, {group: groups[group]}), strict=True):
        start = 1 if after is None else model.tokens(sample).marks[after][1]
        rows.append(found[:, :, start:, 0].mean(-1))
    return HeadScores(torch.stack(rows), f"mass on {group}")


# -- what is found ---------------------------------------------------------------------------------------------------


def test_the_copier_is_the_one_retrieval_head(model):
    scores = retrieval_scores(model, TASK)
    assert scores.above(0.05) == (COPIER,)
    assert scores.samples[:, COPIER.layer, COPIER.head].min() == 1


def test_each_kind_of_attention_names_its_head_alone(model, samples):
    assert previous_token_scores(model, samples).above(0.5) == (BEFORE,)
    assert mass(model, samples, "first").above(0.5) == (FIRST_SINK,)
    assert mass(model, samples, "stop", after="stop").above(0.5) == (LATER_SINK,)
    assert mark_attention(model, samples, "END", "S1+1").above(0.5) == (COPIER,)
    for scores, head in (
        (previous_token_scores(model, samples), BEFORE),
        (mass(model, samples, "first"), FIRST_SINK),
        (mass(model, samples, "stop", after="stop"), LATER_SINK),
        (mark_attention(model, samples, "END", "S1+1"), COPIER),
    ):
        assert scores.values[head] > 0.999


def test_a_sink_at_the_first_token_is_none_at_the_stop_and_the_reverse(model, samples):
    assert mass(model, samples, "first").values[LATER_SINK] < 0.5  # it waits at all tokens until the stop comes
    assert mass(model, samples, "stop", after="stop").values[FIRST_SINK] < 1e-6


# -- what removal costs ----------------------------------------------------------------------------------------------


def test_the_model_solves_its_task(model):
    assert accuracy(model) == 1


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_without_the_copier_nothing_is_copied(model, mode):
    assert accuracy(model, Ablate([COPIER], mode)) == 0
    assert accuracy(model, Ablate([COPIER], mode, phase="prefill")) == 1  # it works while the answer is written
    assert accuracy(model, Ablate([COPIER], mode, phase="decode")) == 0


def test_the_copier_needs_the_head_below_it_while_the_prompt_is_read(model):
    assert accuracy(model, Ablate([BEFORE])) == 0
    assert accuracy(model, Ablate([BEFORE], phase="prefill")) == 0
    assert accuracy(model, Ablate([BEFORE], phase="decode")) == 1


def test_heads_that_look_striking_are_worth_nothing(model, samples):
    rest = [head for head in model.heads() if head not in (COPIER, BEFORE)]
    assert len(rest) == 6
    plain = last(model, samples)
    for head in rest:
        assert accuracy(model, Ablate([head])) == 1
    assert accuracy(model, Ablate(rest)) == 1
    sinks = last(model, samples, Ablate([FIRST_SINK, LATER_SINK]))
    assert (sinks - plain).abs().max() < 1e-4  # they write nothing at all
    noise = last(model, samples, Ablate(rest))
    assert 1e-3 < (noise - plain).abs().max() < 1


def test_the_copier_brings_all_of_the_logit_and_half_of_it_half(model, samples):
    rows = torch.arange(len(samples))
    wanted = torch.tensor([model.tokens(s).ids[model.tokens(s).marks["needle"][0]] for s in samples])
    plain, halved, removed = (
        last(model, samples, *hooks)[rows, wanted] for hooks in ((), (Scale([COPIER], 0.5),), (Ablate([COPIER]),))
    )
    assert (plain - removed).sub(10).abs().max() < 0.05
    assert (plain - halved).sub(5).abs().max() < 0.05


def test_the_planted_heads_are_where_they_are_said_to_be():
    assert (Head(0, 1), Head(0, 2), Head(1, 0), Head(1, 2)) == PLANTED
