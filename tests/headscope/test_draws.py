"""Controls have the layers of the treatment and none of its heads."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.draws import draw_heads
from headscope.errors import UsageError
from headscope.heads import Head

HEADS = [Head(layer, head) for layer in range(4) for head in range(8)]
TOP = [Head(2, 0), Head(2, 7), Head(0, 3)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(HEADS), unique=True, max_size=16), st.integers(0, 99))
def test_layer_matched_draw_has_the_layers_and_none_of_the_heads(exclude, seed):
    if any(count > 4 for count in Counter(head.layer for head in exclude).values()):
        return
    drawn = draw_heads(HEADS, len(exclude), seed=seed, exclude=exclude)
    assert Counter(head.layer for head in drawn) == Counter(head.layer for head in exclude)
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(exclude)


def test_free_draw_reaches_every_head_outside():
    seen = {head for seed in range(200) for head in draw_heads(HEADS, 3, seed=seed, exclude=TOP, match="free")}
    assert seen == set(HEADS) - set(TOP)


def test_draws_repeat_by_seed():
    draws = [draw_heads(HEADS, 3, seed=seed, exclude=TOP) for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1


def test_order_of_the_treatment_does_not_matter():
    assert draw_heads(HEADS, 3, seed=5, exclude=TOP) == draw_heads(HEADS[::-1], 3, seed=5, exclude=TOP[::-1])


def test_too_few_heads_left_names_the_layer():
    six = [Head(2, head) for head in range(6)]
    with pytest.raises(
        UsageError,
        match=r"layer 2 has 8 heads of which 6 are excluded; 6 cannot be drawn from the 2 left; use fewer heads or",
    ):
        draw_heads(HEADS, 6, seed=0, exclude=six)
    with pytest.raises(UsageError, match="the model has 32 heads of which 6 are excluded; 27 cannot be drawn"):
        draw_heads(HEADS, 27, seed=0, exclude=six, match="free")


def test_layer_match_needs_as_many_heads_as_are_drawn():
    with pytest.raises(UsageError, match=r"exclude has 3 heads and k is 5; .* or match='free'"):
        draw_heads(HEADS, 5, seed=0, exclude=TOP)
