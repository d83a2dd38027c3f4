"""Words in another order: the same ones, punctuation in its place, and never what was to be avoided."""

import random
from collections import Counter

import pytest

from headscope import UsageError
from tasks.word_order import shuffled_words


def test_by_hand():
    assert shuffled_words("a b.", random.Random(0)) == "b a."
    assert shuffled_words("one, one two", random.Random(0), avoid={"one, two one"}) == "two, one one"


def test_all_orders_but_its_own_are_as_likely():
    rng = random.Random(0)
    drawn = Counter(shuffled_words("a b, c!", rng) for _ in range(500))
    assert set(drawn) == {"a c, b!", "b a, c!", "b c, a!", "c a, b!", "c b, a!"}
    assert min(drawn.values()) > 70


@pytest.mark.parametrize(("text", "avoid"), [("word", ()), ("so so so", ()), ("... !", ()), ("a b", ("b a",))])
def test_texts_without_another_order(text, avoid):
    with pytest.raises(UsageError, match="have no other order"):
        shuffled_words(text, random.Random(0), avoid=avoid)
