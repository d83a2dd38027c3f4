"""Coloured objects: three things of three colours are listed, and the question is which colour one of them has.

The task on which Merullo et al. 2024 (arXiv 2310.08744) found the circuit of indirect object identification again: a
solved example, then an unsolved one of the same form. All words that vary are one token, so every prompt has the same
layout. The corrupted prompt asks about another of the three things. Departure: the sentences are the project's own
("one" instead of "a", which would be "an" for some colours), so places of tokens and accuracies are not those of the
paper.
"""

import random
from dataclasses import dataclass
from typing import Any

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import words
from tasks.filling import check_single, filled, one_token_words

OBJECTS = tuple("book pen cup ring ball phone key plate lamp bag hat shoe bottle box coin flower pencil clock".split())
COLOURS = tuple("red orange yellow green blue purple brown black".split())
SURFACES = tuple("table desk floor shelf".split())

_LIST = "There is one {C1} {O1}, one {C2} {O2} and one {C3} {O3} on the {surface}.\nQuestion: What colour is the {O}?\n"
_EXAMPLE = _LIST + "Answer: {C}\n\n"
_ASKED = _LIST + "Answer:"
_MARKS = ("C1", "O1", "C2", "O2", "C3", "O3", "O")


@dataclass(frozen=True)
class ColoredObjects:
    """`n` prompts with a solved example each; which of the three things is asked about is drawn evenly.

    Args:
        n: Number of prompts.
        seed: Another seed gives other things and colours.
        objects: Things to draw from; those the tokenizer does not keep whole are left out.
        colours: Colours to draw from; those it does not keep whole in small letters and with a capital are left out.
    """

    n: int = 120
    seed: int = 0
    objects: tuple[str, ...] = OBJECTS
    colours: tuple[str, ...] = COLOURS

    stop = ("\n", ".")
    answer_tokens = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 prompt")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The prompts. `target` is a space and the right colour with a capital.

        Marks, a token each: colours `C1` to `C3` and things `O1` to `O3` of the list in question, `O` (the thing that
        is asked about) and `END` (the last token). In `meta`, `asked` is which of the three is asked about (1 to 3),
        `foil` the answer to the corrupted prompt and `foils` the two listed colours that are wrong. UsageError if
        fewer than three things or colours are one token.
        """
        return [self._sample(i, tokenizer, other=False) for i in range(self.n)]

    def counterfactuals(self, tokenizer: Any) -> list[Sample]:
        """The same prompts asking about another thing, in the order of `samples`, with marks at the same places."""
        return [self._sample(i, tokenizer, other=True) for i in range(self.n)]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer begins with the right colour, else 0.0."""
        return float(words(answer)[:1] == words(sample.target))

    def _sample(self, i: int, tokenizer: Any, *, other: bool) -> Sample:
        objects, colours = self._known(tokenizer)
        rng = random.Random(f"colored objects/{self.seed}/{i}")
        shown, told = self._list(rng, objects, colours), rng.randrange(3)
        listed, (right, wrong) = self._list(rng, objects, colours), rng.sample(range(3), 2)
        asked, foil = (wrong, right) if other else (right, wrong)
        example, _ = filled(_EXAMPLE, shown | {"O": shown[f"O{told + 1}"], "C": _capital(shown[f"C{told + 1}"])})
        question, spans = filled(_ASKED, listed | {"O": listed[f"O{asked + 1}"]})
        prompt = example + question
        marks = {name: (len(example) + spans[name][0], len(example) + spans[name][1]) for name in _MARKS}
        marks["END"] = (len(prompt) - 1, len(prompt))
        answers = [f" {_capital(listed[f'C{place}'])}" for place in (1, 2, 3)]
        meta = {
            "asked": asked + 1,
            "foil": answers[foil],
            "foils": tuple(answer for place, answer in enumerate(answers) if place != asked),
            "seed": self.seed,
        }
        sample = Sample(prompt, answers[asked], marks, meta=meta)
        check_single(sample, tokenizer, _MARKS)
        return sample

    def _known(self, tokenizer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        objects = one_token_words(self.objects, tokenizer)
        small = one_token_words(self.colours, tokenizer)
        capital = one_token_words([_capital(colour) for colour in self.colours], tokenizer)
        colours = tuple(colour for colour in small if _capital(colour) in capital)
        for name, kept in (("objects", objects), ("colours", colours)):
            if len(kept) < 3:
                raise UsageError(
                    f"the tokenizer keeps {len(kept)} of the {name} whole ({', '.join(kept) or 'none'}); three are "
                    f"needed, so give {name}= that are tokens of this model"
                )
        return objects, colours

    @staticmethod
    def _list(rng: random.Random, objects: tuple[str, ...], colours: tuple[str, ...]) -> dict[str, str]:
        things = {f"O{i}": thing for i, thing in enumerate(rng.sample(objects, 3), 1)}
        painted = {f"C{i}": colour for i, colour in enumerate(rng.sample(colours, 3), 1)}
        return {**things, **painted, "surface": rng.choice(SURFACES)}


def _capital(colour: str) -> str:
    return colour.capitalize()
