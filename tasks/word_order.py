"""Texts with their words in another order: what is still known of such a text is known from its words alone.

Models of images and text often take a caption for a bag of words (Yuksekgonul et al. 2023, arXiv 2210.01936; SNARE, Wang
et al. 2023, arXiv 2308.12898, both with several ways to disturb the order). Here all words change places at random, and
punctuation stays where it is, so that a caption still ends in its full stop.
"""

import random
import re
from collections.abc import Collection
from typing import Literal

from headscope.errors import UsageError

Order = Literal["kept", "shuffled"]

_TRIES = 1000


def shuffled_words(text: str, rng: random.Random, *, avoid: Collection[str] = ()) -> str:
    """The same words in another order, drawn by `rng`: neither the text itself nor one of those to `avoid`.

    UsageError for a text whose words have no such order.
    """
    parts = re.split(r"(\w+)", text)
    words = parts[1::2]
    for _ in range(_TRIES if len(set(words)) > 1 else 0):
        rng.shuffle(words)
        parts[1::2] = words
        found = "".join(parts)
        if found != text and found not in avoid:
            return found
    raise UsageError(f"the words of {text!r} have no other order to be put in; give a text of more different words")
