"""Pairs for patching that any model of needles can do: texts with the secret words of several people, and one is asked.

The corrupted prompt matches the clean one token by token and has another of the answers. `asked` asks the same text for
another person, so that what differs is what a head looks for (queries). `told` swaps the two names in the text and asks
for the same person, so that what differs is what a head finds there (keys). Effects measured with the two are not
comparable.
"""

import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from headscope.errors import UsageError
from headscope.samples import Sample, Span
from headscope.scoring import exact_match
from tasks.facts import Fact, secret_facts
from tasks.filling import one_token_words
from tasks.needle import Needle
from tasks.prose import NAMES

Counterfactual = Literal["asked", "told"]


@dataclass(frozen=True)
class NeedlePairs:
    """Questions about one of several facts in a text, over lengths and depths, each with a corrupted version.

    Args:
        lengths: Tokens of the whole prompt; no prompt is longer.
        depths: That many depths of the asked fact evenly from 0 to 1 (a single one is 0.5), or the depths themselves.
        repeats: Pairs for each length and depth.
        n_needles: Facts in the text, at least two; their names are one token each, and their answers begin differently.
        haystack: A text file or folder to hide them in; by default `tasks.prose`.
        seed: Another seed gives other facts and other texts.
        counterfactual: How a prompt is corrupted: another person is asked about, or was told about.
    """

    lengths: tuple[int, ...] = (128,)
    depths: int | tuple[float, ...] = 4
    repeats: int = 4
    n_needles: int = 2
    haystack: Path | str | None = None
    seed: int = 0
    counterfactual: Counterfactual = "asked"

    stop = ("\n", ".")

    def __post_init__(self) -> None:
        if self.n_needles < 2:
            raise UsageError(
                f"n_needles is {self.n_needles}; a pair asks for one fact and for another, so give 2 or more"
            )
        if self.counterfactual not in get_args(Counterfactual):
            raise UsageError(f"counterfactual {self.counterfactual!r} is not known; use 'asked' or 'told'")
        Needle(self.lengths, self.depths, self.repeats, self.n_needles)  # refuses what makes no needles

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.lengths)

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The clean prompts. `target` is the answer that is asked for and `meta["foil"]` that of the other fact.

        Marks beside those of `Needle` have the names that `tasks.ioi` gives to the same roles: `S1` is the name in the
        statement, `S1+1` the token behind it, `IO` the first word of the answer there, `S2` the name that is asked about
        and `END` the last token. Where the tokenizer drops colons, S1+1 is IO, and S2 is END. UsageError where names or
        answers cannot be told apart by their tokens, and as for `Needle`.
        """
        return [clean for clean, _ in self._pairs(tokenizer)]

    def counterfactuals(self, tokenizer: Any) -> list[Sample]:
        """The corrupted prompts, in the order of `samples`, with marks at the same places.

        There IO is the wrong answer, which the clean prompt asks for; `target` and `foil` have changed sides.
        """
        return [corrupt for _, corrupt in self._pairs(tokenizer)]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer's first sentence is the target word for word, else 0.0."""
        return exact_match(answer, sample.target)

    def _pairs(self, tokenizer: Any) -> list[tuple[Sample, Sample]]:
        depths = self.depths if isinstance(self.depths, tuple) else _evenly(self.depths)
        names = one_token_words(NAMES, tokenizer)
        cells = product(self.lengths, range(self.repeats), depths)
        return [self._pair(tokenizer, names, length, repeat, depth) for length, repeat, depth in cells]

    def _pair(
        self, tokenizer: Any, names: tuple[str, ...], length: int, repeat: int, depth: float
    ) -> tuple[Sample, Sample]:
        key = f"needle pairs/{self.seed}/{length}/{depth}/{repeat}"
        facts = self._facts(tokenizer, names, key)
        number = random.Random(key).randrange(2**32)
        needle = Needle((length,), (depth,), 1, self.n_needles, facts, self.haystack, number)
        (sample,) = needle.samples(tokenizer)
        asked = next(fact for fact in facts if fact.statement == sample.meta["fact"])
        other = next(fact for fact in facts if fact != asked)
        space = "" if sample.chat else " "
        right, wrong = f"{space}{asked.answer}", f"{space}{other.answer}"
        meta = {**sample.meta, "seed": self.seed, "repeat": repeat, "other": other.statement}
        clean = replace(sample, target=right, meta=meta | {"foil": wrong})
        prompt = _corrupted(sample, asked, other, self.counterfactual)
        corrupt = replace(sample, prompt=prompt, target=wrong, meta=meta | {"foil": right})
        told, named = (other, asked) if self.counterfactual == "told" else (asked, other)
        return _marked(clean, asked, asked, asked, tokenizer), _marked(corrupt, asked, told, named, tokenizer)

    def _facts(self, tokenizer: Any, names: tuple[str, ...], key: str) -> tuple[Fact, ...]:
        """Facts about people whose name is one token, with answers that begin with different tokens."""
        found: dict[int, Fact] = {}
        for fact in secret_facts(len(NAMES), seed=key):
            if _name(fact) in names:
                found.setdefault(_first_token(fact, tokenizer), fact)
        if len(found) < self.n_needles:
            raise UsageError(
                f"the tokenizer keeps {len(names)} of {len(NAMES)} names whole, enough for {len(found)} facts whose "
                f"answers begin differently; ask for at most as many needles, not {self.n_needles}"
            )
        return tuple(found.values())[: self.n_needles]


def _corrupted(sample: Sample, asked: Fact, other: Fact, how: Counterfactual) -> str:
    end = sample.characters("text")[1]
    text, question = sample.prompt[:end], sample.prompt[end:]
    if how == "asked":
        return text + question.replace(asked.question, other.question).replace(asked.lead, other.lead)
    swapped = other.lead.join(part.replace(other.lead, asked.lead) for part in text.split(asked.lead))
    return swapped + question


def _marked(sample: Sample, answer: Fact, told: Fact, named: Fact, tokenizer: Any) -> Sample:
    """The sample with the places of names and answer: the statement gives it to `told`, the question names `named`."""
    statement = f"{told.lead} {answer.answer}."
    start = sample.prompt.index(statement)
    behind = start + len(told.lead.rstrip(":"))
    first = start + len(told.lead) + 1
    question, again = sample.prompt.rindex(named.question), sample.prompt.rindex(_name(named))
    tokens = _token_characters(sample, tokenizer)
    marks: dict[str, str | Span] = {
        **sample.marks,
        "statement": (start, start + len(statement)),
        "needle": (first, first + len(answer.answer)),
        "question": (question, question + len(named.question)),
        "S1": (behind - len(_name(told)), behind),
        "S1+1": next(token for token in tokens if token[0] >= behind),
        "IO": (first, first + len(answer.answer.split()[0])),
        "S2": (again, again + len(_name(named))),
        "END": tokens[-1],
    }
    return replace(sample, marks=marks)


def _token_characters(sample: Sample, tokenizer: Any) -> list[Span]:
    """The characters of every token that has some."""
    encoded = tokenizer(sample.prompt, add_special_tokens=not sample.chat, return_offsets_mapping=True)
    return [(start, end) for start, end in encoded["offset_mapping"] if end > start]


def _name(fact: Fact) -> str:
    return fact.lead.split()[-1].rstrip(":")


def _first_token(fact: Fact, tokenizer: Any) -> int:
    before, whole = (
        tokenizer(text, add_special_tokens=False).input_ids for text in ("and", f"and {fact.answer.split()[0]}")
    )
    return whole[len(before)]


def _evenly(count: int) -> tuple[float, ...]:
    return (0.5,) if count == 1 else tuple(i / (count - 1) for i in range(count))
