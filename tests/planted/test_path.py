"""Patching finds the one path of the going-on trade, PREVIOUS into the keys of INDUCTION into the answer, and no other.

Clean and corrupted prompt differ in one word, the earlier occurrence of the last one. What follows it carries that word
through PREVIOUS to INDUCTION; the right answer and the wrong one stand once each, so without the path the gap is 0.
"""

import pytest
import torch
from torch import Tensor

from experiments.patching.activations import activation_patching, position_patching
from experiments.patching.paths import path_patching
from headscope import Head, HookedModel, UsageError
from interventions import KnockOut
from tests.planted.whole import FIRST_SINK, INDUCTION, LATER_SINK, PLANTED, PREVIOUS, going_on, whole_model

N = 3


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return whole_model()


def expect(values: Tensor, known: dict[Head, float]) -> None:
    """These values, and 0 for every other head."""
    expected = torch.zeros(values.shape)
    for head, value in known.items():
        expected[head] = value
    torch.testing.assert_close(values, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_both_heads_of_the_path_are_worth_all_of_the_gap(model, direction, seed):
    scores = activation_patching(model, *going_on(N, seed=seed), direction=direction)
    expect(scores.values, {PREVIOUS: 1, INDUCTION: 1})


@pytest.mark.parametrize(
    ("site", "known"),
    [
        ("pattern", {INDUCTION: 1}),  # PREVIOUS looks to the same places, whatever stands there
        ("q", {}),
        ("k", {INDUCTION: 1}),
        ("v", {PREVIOUS: 1}),
    ],
)
def test_what_carries_it_is_known_at_every_site(model, site, known):
    expect(activation_patching(model, *going_on(2), site=site).values, known)


def test_it_travels_from_the_word_to_its_follower_to_the_end(model):
    places = ("first", "right", "END")
    found = position_patching(model, *going_on(N), positions=places)
    torch.testing.assert_close(found.values, torch.eye(3), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("receivers", "through", "known"),
    [
        ((), "logits", {INDUCTION: 1}),
        ((INDUCTION,), "k", {PREVIOUS: 1}),
        ((INDUCTION,), "q", {}),
        ((INDUCTION,), "v", {}),
        ((LATER_SINK,), "k", {}),
    ],
)
def test_the_planted_path_is_found_and_no_other(model, receivers, through, known):
    expect(path_patching(model, *going_on(2), receivers=receivers, through=through).values, known)


def test_the_path_starts_at_the_word_that_follows(model):
    both = going_on(2)
    options = {"receivers": [INDUCTION], "through": "k", "senders": [PREVIOUS]}
    for places, effect in (("right", 1), ("first", 0), ("END", 0)):
        found = path_patching(model, *both, positions=places, **options)
        assert found.values[PREVIOUS] == pytest.approx(effect, abs=5e-3)


@pytest.mark.parametrize("head", [PREVIOUS, INDUCTION], ids=str)
def test_where_one_head_is_missing_there_is_no_gap_to_explain(head):
    with pytest.raises(UsageError, match="there is no gap to measure effects by"):
        activation_patching(whole_model(without=[head]), *going_on(2), heads=[PREVIOUS, INDUCTION], normalise="mean")


def test_a_prompt_patched_into_itself_carries_no_path(model):
    """The control: the corrupted prompt of a sample is the clean prompt itself."""
    clean, _ = going_on(2)
    scores = activation_patching(model, clean, clean, normalise=None)
    assert scores.samples.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("heads", "lost"),
    [([INDUCTION], True), ([PREVIOUS], False), ([FIRST_SINK], False), ([h for h in PLANTED if h != INDUCTION], False)],
)
def test_the_answer_is_lost_where_induction_cannot_see_it(model, heads, lost):
    """PREVIOUS sees its word from the follower alone, so what it cannot see from the end does not matter."""
    sample = going_on(1)[0][0]
    place = model.tokens(sample).marks["right"][0]
    wanted = model.tokenizer.convert_tokens_to_ids(sample.target.strip())
    plain = model.forward([sample], last=1).logits[0, -1, wanted]
    with model.hooks(KnockOut(keys=(place,), queries=(-1,), heads=heads)):
        hidden = model.forward([sample], last=1).logits[0, -1, wanted]
    assert (plain - hidden).item() == pytest.approx(10 if lost else 0, abs=0.02)
