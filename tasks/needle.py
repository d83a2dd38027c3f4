"""Needle in a haystack: a fact is hidden in a long text, and a question at the end asks for it.

Follows the detection protocol of Wu et al. 2024 (https://arxiv.org/abs/2404.15574, section 2) with these departures:
places are characters, found in tokens through offsets, where the released code compares sets of token ids; the needle
stands at the sentence end nearest to the wanted depth, where the code walks back to one whose token ids belong to one
tokenizer; the length counts the whole prompt, question and special tokens included; every sample has its own facts and
its own text, where the code puts a few needles into one text.

Everything random is drawn per (seed, length, depth, repeat), so samples count as independent. They are so given what
you bring: facts of your own come back in turn, and stretches of a short text of your own overlap. Where a length holds
fewer sentences than there are depths, several depths round to the same one; `depth_found` tells which.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from headscope.errors import UsageError
from headscope.samples import Sample, Tokens, tokenize
from headscope.scoring import exact_match, rouge1_recall, words
from tasks.facts import Fact, secret_facts
from tasks.haystack import Page, Piece, measured, most, read, refuse_unknown, stream, take
from tasks.prose import NAMES


@dataclass(frozen=True)
class Needle:
    """Questions about a fact hidden in a text, over lengths and depths.

    Args:
        lengths: Tokens of the whole prompt; no prompt is longer, and none shorter by more than about a sentence.
        depths: That many depths evenly from 0 to 1 (a single one is 0.5), or the depths themselves. Depth is the share
            of the text's tokens that stand before the needle: 0 is before the first sentence, 1 after the last.
        repeats: Samples for each length and depth.
        n_needles: Facts in the text. One is asked; the others stand at random depths.
        facts: Facts to draw from; consecutive samples ask different ones. By default `tasks.facts.secret_facts`.
        haystack: A text file, or a folder whose .txt files are read in order of their names. Each haystack starts at a
            random sentence and goes on at the beginning after the end. By default `tasks.prose`, which has no end.
        seed: Another seed gives other facts and other haystacks.
        metric: `exact` scores whether the answer's first sentence is the target; `rouge1` the share of its words.
    """

    lengths: tuple[int, ...] = (256, 512)
    depths: int | tuple[float, ...] = 10
    repeats: int = 1
    n_needles: int = 1
    facts: tuple[Fact, ...] = ()
    haystack: Path | str | None = None
    seed: int = 0
    metric: Literal["exact", "rouge1"] = "exact"

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError(f"lengths {self.lengths} must be positive numbers of tokens; give for example (256, 512)")
        if not self._fractions:
            raise UsageError(
                f"depths {self.depths} names no depth; give a positive count or fractions such as (0.0, 0.5)"
            )
        for depth in self._fractions:
            if not 0 <= depth <= 1:
                raise UsageError(f"depth {depth} is not a fraction of the text; give depths from 0 to 1")
        for name, values in (("lengths", self.lengths), ("depths", self._fractions)):
            if len(set(values)) < len(values):
                raise UsageError(f"{name} {values} would draw the same samples twice; give each once and more repeats")
        if self.repeats < 1:
            raise UsageError(f"repeats is {self.repeats}; ask for at least 1")
        available = len(self.facts) or len(NAMES)
        if not 1 <= self.n_needles <= available:
            source = "facts given" if self.facts else "names to make facts of"
            raise UsageError(
                f"n_needles is {self.n_needles}, but there are {available} {source}; ask for 1 to {available} needles"
            )
        if self.metric not in ("exact", "rouge1"):
            raise UsageError(f"metric {self.metric!r} is not known; choose 'exact' or 'rouge1'")
        self._check_facts()

    def _check_facts(self) -> None:
        for fact in self.facts:
            if (times := fact.statement.count(fact.answer)) != 1 or not words(fact.answer):
                raise UsageError(
                    f"the answer {fact.answer!r} stands {times} times in {fact.statement!r}; word the statement so "
                    "that its answer, one word or more, stands in it once"
                )
        if self.n_needles > 1 and len({fact.question for fact in self.facts}) < len(self.facts):
            raise UsageError("two facts have the same question, so its answer is not one; give each its own question")

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt: what the model's context must hold, apart from the answer."""
        return max(self.lengths)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings after which an answer is over; answers of `secret_facts` hold no full stop, others may."""
        return ("\n",) if self.facts else ("\n", ".")

    @property
    def _fractions(self) -> tuple[float, ...]:
        if isinstance(self.depths, tuple):
            return tuple(float(depth) for depth in self.depths)
        return (0.5,) if self.depths == 1 else tuple(i / (self.depths - 1) for i in range(self.depths))

    def samples(self, tokenizer: Any) -> list[Sample]:
        """One sample per length, repeat and depth, in this order, written for the tokenizer (a fast one).

        Each holds the most sentences with which it fits. Marks are `needle` (the answer inside the statement: what a
        retrieval head copies), `statement`, `text` (the haystack with the needles in it) and `question`. In `meta`,
        `depth_found` is the depth that the sentence end allowed, `tokens` the real length, and `unknown` the share of
        the haystack's tokens that the tokenizer does not know. A tokenizer with a chat template gets a chat. Raises
        UsageError where a needle does not fit, the text is too short or a word of a needle is unknown.
        """
        own = None if self.haystack is None else read(Path(self.haystack))
        cells = product(self.lengths, range(self.repeats), self._fractions)
        turns = _in_turn(self.facts, self.seed)
        return [self._sample(tokenizer, own, _Cell(*cell, next(turns))) for cell in cells]

    def score(self, sample: Sample, answer: str) -> float:
        """How right an answer is between 0 and 1, by `metric`."""
        return {"exact": exact_match, "rouge1": rouge1_recall}[self.metric](answer, sample.target)

    def _sample(self, tokenizer: Any, own: list[Piece] | None, cell: "_Cell") -> Sample:
        page = self._page(tokenizer, own, cell)
        for text in [part for fact in page.facts for part in (fact.statement, fact.question)]:
            refuse_unknown(text, tokenizer)
        kept = most(page.haystack, cell.length, page.size)
        sample = page.write(kept)
        tokens = tokenize(sample, tokenizer)
        size = len(tokens.ids)
        if size > cell.length:
            raise self._too_long(page, own, cell)
        if kept == len(page.haystack) and cell.length - size > max(piece.size for piece in page.haystack):
            raise self._too_short(page, cell.length, size)
        asked = {"length": cell.length, "repeat": cell.repeat, "depth": cell.depth, "fact": page.facts[-1].statement}
        task = {"n_needles": self.n_needles, "seed": self.seed}
        return replace(sample, meta=asked | task | _found(tokens, tokenizer.unk_token_id))

    def _page(self, tokenizer: Any, own: list[Piece] | None, cell: "_Cell") -> Page:
        key = f"needle/{self.seed}/{cell.length}/{cell.depth}/{cell.repeat}"
        rng = random.Random(key)
        if cell.asked is None:
            facts = secret_facts(self.n_needles, seed=key)
        else:
            others = [fact for fact in self.facts if fact != cell.asked]
            facts = (*rng.sample(others, self.n_needles - 1), cell.asked)
        return Page(
            tokenizer,
            facts,
            measured([Piece(fact.statement, " ") for fact in facts], tokenizer),
            (*(rng.random() for _ in facts[1:]), cell.depth),
            take(stream(own, key), tokenizer, 1.5 * cell.length + 64),  # in its place a sentence may have fewer tokens
        )

    def _too_long(self, page: Page, own: list[Piece] | None, cell: "_Cell") -> UsageError:
        # Another length draws another page, so the length to name is one for which this was tried.
        tries = ((tried, self._page(page.tokenizer, own, cell._replace(length=tried))) for tried in count(page.size(1)))
        enough = next(tried for tried, other in tries if other.size(1) <= tried)
        needles = "needle" if self.n_needles == 1 else f"{self.n_needles} needles"
        return UsageError(
            f"{needles} and question take {page.size(0)} tokens, and one sentence of haystack {page.haystack[0].size} "
            f"more; length {cell.length} is too short; ask for at least {enough}"
        )

    def _too_short(self, page: Page, length: int, size: int) -> UsageError:
        has = sum(piece.size for piece in page.haystack)
        return UsageError(
            f"the haystack {str(self.haystack or 'tasks.prose')!r} has {has} tokens, and length {length} needs "
            f"{has + length - size}; give more text, or lengths up to {size}"
        )


class _Cell(NamedTuple):
    """What one sample is drawn for; `asked` is the fact whose turn it is, None where facts are made."""

    length: int
    repeat: int
    depth: float
    asked: Fact | None


def _in_turn(facts: tuple[Fact, ...], seed: int) -> Iterator[Fact | None]:
    """The facts in random order, round after round, none twice in a row; None for ever where there are none.

    A new order each round keeps a fact from standing at the same depth every time.
    """
    rng, last = random.Random(f"needle/{seed}"), None
    while True:
        order: list[Fact | None] = [*rng.sample(facts, len(facts))] or [None]
        if order[0] == last:
            order.reverse()
        yield from order
        last = order[-1]


def _found(tokenized: Tokens, unknown: int | None) -> dict[str, int | float]:
    """What only the tokens tell: how many, how deep the statement stands, the share of the text not known."""
    (first, last), (start, end) = tokenized.marks["text"], tokenized.marks["statement"]
    around = tokenized.ids[first:start] + tokenized.ids[end:last]
    return {
        "tokens": len(tokenized.ids),
        "depth_found": (start - first) / len(around),
        "unknown": around.count(unknown) / len(around),
    }
