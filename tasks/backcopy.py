"""A chain of words in which only a few words need attention: the Bigram-Backcopy text of Guo et al. 2024.

Each word is drawn from what follows the word before it in `tasks.prose`, so one token is enough to predict the next; but
behind a trigger stands, once more, the word before the trigger (arXiv 2410.13835, section 2; there characters of plays,
here words of the project's own prose). A head that copies has nothing to do at any other word. Where that idle attention
goes is what the text is for: in trained models it goes to the first token.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import accumulate, islice

from tasks.prose import OBJECTS, PLACES, ROLES, sentences

COPIES: Mapping[str, frozenset[str] | None] = {
    "again": None,
    "indeed": None,
    "yonder": frozenset(PLACES),
    "himself": frozenset(ROLES),
    "itself": frozenset(OBJECTS),
}
"""Triggers, no words of the prose, and what stands behind each: the last word of a class, or the word before (None)."""
_RATE = 0.2
_STOPS = (".", ",")
_SENTENCES = 4000


@cache
def followers() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Words of the prose, lower case, with the words and stops that follow each, and how often, summed up."""
    counts: dict[str, Counter[str]] = {}
    before = "."
    for sentence in islice(sentences("chain"), _SENTENCES):
        for word in sentence.lower().replace(".", " .").replace(",", " ,").split():
            counts.setdefault(before, Counter())[word] += 1
            before = word
    return {word: (tuple(seen), tuple(accumulate(seen.values()))) for word, seen in counts.items()}


def chain(rng: random.Random, count: int, *, exchange: Callable[[str], str] = str) -> list[str]:
    """`count` words and stops of one text, from the start of a sentence; `exchange` may put another word for any drawn.

    A word put in must be one of the prose.
    """
    table, words, following = followers(), list[str](), "."
    last: dict[str, str] = {}
    while len(words) < count:
        if words and words[-1] in COPIES:
            words.append(last[words[-1]])
            continue
        free = following not in _STOPS and not (len(words) > 1 and words[-2] in COPIES)
        if free and last and rng.random() < _RATE:
            words.append(rng.choice(tuple(last)))
            following = last[words[-1]]
            continue
        options, weights = table[following]
        following = exchange(rng.choices(options, cum_weights=weights)[0])
        words.append(following)
        last |= {trigger: following for trigger, class_ in COPIES.items() if class_ is None or following in class_}
    return words


def copied(words: list[str]) -> list[int]:
    """Places of the words that only a look at the word before the trigger can tell."""
    return [place + 1 for place in range(1, len(words) - 1) if words[place] in COPIES]


def written(words: list[str]) -> str:
    """The text of these words and stops."""
    return " ".join(words).replace(" .", ".").replace(" ,", ",")
