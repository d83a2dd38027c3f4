"""Multi-query associative recall: pairs of a key and a value stand at the start, and each key is asked for once later.

The generator of Zoology (Arora et al. 2023, arXiv 2312.04927): keys come from the first half of the vocabulary and
values from the second, both without replacement; of the (N - 2D) / 2 even places behind the D pairs each key gets one of
its own, the g-th (from 1) with a probability in proportion to g^(a-1), so a = 0.01 asks soon after the pairs and a = 1
anywhere. What stands in no place of a key is filler.

Departures: the vocabulary is a list of words that are one token each, so that any language model can be asked in text; a
filler is drawn from words that are no key or value of its text, where the code draws from all of them
(`filler="released"`), and may so ask for a key twice; every question is a sample of its own, cut off behind its key,
where the code reads all answers in one pass.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import words as words_of
from tasks.filling import one_token_words
from tasks.labelled import Labelled
from tasks.prose import CONTENT_WORDS

Filler = Literal["distinct", "released"]


@dataclass(frozen=True)
class MQAR:
    """`n` texts with `pairs` questions each.

    Args:
        n: Texts.
        length: Words of a whole text (N), an even number of at least 4 times `pairs`.
        pairs: Keys with their values (D).
        a: How questions lie: near 0 soon after the pairs, 1 anywhere alike.
        values: Draw values from so many words only, which makes them classes for a probe; None is all of the half.
        words: The vocabulary; those the tokenizer does not keep whole are left out.
        filler: Words between questions, see above.
        seed: Another seed gives other texts.
    """

    n: int = 32
    length: int = 64
    pairs: int = 4
    a: float = 0.01
    values: int | None = None
    words: tuple[str, ...] = CONTENT_WORDS
    filler: Filler = "distinct"
    seed: int = 0

    sees_images: ClassVar[bool] = False
    stop: ClassVar[tuple[str, ...]] = ("\n",)
    answer_tokens: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.n < 1 or self.pairs < 1:
            raise UsageError(f"n is {self.n} and pairs is {self.pairs}; ask for at least 1 of each")
        if self.length % 2 or self.length < 4 * self.pairs:
            raise UsageError(
                f"length is {self.length}, but {self.pairs} pairs need an even one of at least {4 * self.pairs}, 4 times "
                "as many words as pairs"
            )
        if not self.a > 0:
            raise UsageError(f"a is {self.a}; give a number above 0, such as 0.01, or 1 for places alike")
        if self.values is not None and self.values < max(2, self.pairs):
            raise UsageError(
                f"values is {self.values}, too few for {self.pairs} pairs with a value each; give at least "
                f"{max(2, self.pairs)}, or None"
            )
        if self.filler not in get_args(Filler):
            raise UsageError(f"filler {self.filler!r} is not known; use one of {', '.join(get_args(Filler))}")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a question, text by text, in the order of the questions.

        Marks: `needle` is the value that is right, `key` the key before it. `meta` holds `text`, `gap` (place of the
        question among the even ones behind the pairs, from 1) and `pairs`. UsageError where the tokenizer keeps too few
        of the words whole.
        """
        keys, values = self._halves(tokenizer)
        return [sample for i in range(self.n) for sample in self._asked(i, keys, values)]

    def labelled(self, tokenizer: Any) -> Labelled:
        """The same, to be read at the last token: the label is the value, the group the text."""
        samples = self.samples(tokenizer)
        return Labelled(
            tuple(samples), tuple(one.target for one in samples), tuple(f"text {one.meta['text']}" for one in samples)
        )

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer begins with the value, else 0.0."""
        return float(words_of(answer)[:1] == words_of(sample.target))

    def _halves(self, tokenizer: Any) -> tuple[Sequence[str], Sequence[str]]:
        kept = one_token_words(self.words, tokenizer)
        half = len(kept) // 2
        # Filler needs words that are neither keys nor values of the text.
        if half < self.pairs + 1 or half < (self.values or 0):
            raise UsageError(
                f"the tokenizer keeps {len(kept)} of {len(self.words)} words whole, and {self.pairs} pairs need at least "
                f"{2 * max(self.pairs + 1, self.values or 0)}; give words= that are tokens of this model"
            )
        return kept[:half], kept[half:]

    def _asked(self, i: int, keys: Sequence[str], values: Sequence[str]) -> list[Sample]:
        rng = random.Random(f"mqar/{self.seed}/{i}")
        chosen = dict(zip(rng.sample(keys, self.pairs), rng.sample(values[: self.values], self.pairs), strict=True))
        places = _drawn_places(gap_shares(self.length, self.pairs, self.a), self.pairs, rng)
        known = [*keys, *values]
        able = known if self.filler == "released" else [one for one in known if one not in {*chosen, *chosen.values()}]
        behind = [rng.choice(able) for _ in range(self.length - 2 * self.pairs)]
        for key, place in zip(chosen, places, strict=True):
            behind[2 * place] = key
        text = [word for pair in chosen.items() for word in pair] + behind
        asked = sorted(zip(places, chosen.items(), strict=True))
        return [self._sample(i, text[: 2 * (self.pairs + place) + 1], pair, place) for place, pair in asked]

    def _sample(self, i: int, text: Sequence[str], pair: tuple[str, str], place: int) -> Sample:
        key, value = pair
        at = len(" ".join(text[: text.index(key)]))
        start = at + 1 if at else 0
        end = start + len(key)
        marks = {"key": (start, end), "needle": (end + 1, end + 1 + len(value))}
        meta = {"text": i, "gap": place + 1, "pairs": self.pairs, "seed": self.seed}
        return Sample(" ".join(text), value, marks, meta=meta)


def gap_shares(length: int, pairs: int, a: float) -> Float[np.ndarray, " place"]:
    """Probability of each even place behind the pairs, g^(a-1) over their sum, g from 1."""
    weights = np.arange(1, (length - 2 * pairs) // 2 + 1, dtype=float) ** (a - 1)
    return weights / weights.sum()


def _drawn_places(shares: Float[np.ndarray, " place"], count: int, rng: random.Random) -> list[int]:
    """Different places, one after another, each with the shares of those that are left."""
    left = dict(enumerate(shares.tolist()))
    drawn = []
    for _ in range(count):
        (place,) = rng.choices(list(left), weights=list(left.values()))
        del left[place]
        drawn.append(place)
    return drawn
