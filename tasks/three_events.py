"""First, in between or last: the place in time of one of three events, told in an order that says nothing of it.

As T3 (Li et al. 2024, arXiv 2410.06166) asks about the order of three clips and about what begins and ends them, in words
alone. Each of the six orders in which three events can be told has two templates, so that over all of them every place on
the page holds every place in time as often. A probe that knows no more than places on the page does not do better than
chance, rather worse, on templates that it was not fitted to.

Neither model that ships knows "first" or "last"; both refuse these texts with the word.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.labelled import Labelled
from tasks.temporal import Told, by_template, check_told, drawn_events, told_sample
from tasks.word_order import Order

Place = Literal["first", "second", "last"]

# A came first, B second, C last; each stands for a sentence without its full stop.
_TOLD: Mapping[Told, tuple[str, ...]] = MappingProxyType(
    {
        "connective": (
            "{A}, then {B}, and then {C}.",
            "After {A} but before {C}, {B}.",
            "{B} after {A} but before {C}.",
            "{B} before {C} but after {A}.",
            "Before {C} but after {A}, {B}.",
            "{C}, but earlier {B}, and even earlier {A}.",
            "First {A}, next {B}, and finally {C}.",
            "First {A}, and {C} at the end, after {B}.",
            "{B}, though first {A}, and finally {C}.",
            "{B}, then {C}, but first of all {A}.",
            "Finally {C}, but first {A}, then {B}.",
            "Before {C}, {B}, and before that, {A}.",
        ),
        "time": (
            "In the morning {A}, at noon {B}, in the evening {C}.",
            "In the morning {A}, in the evening {C}, at noon {B}.",
            "At noon {B}, in the morning {A}, in the evening {C}.",
            "At noon {B}, in the evening {C}, in the morning {A}.",
            "In the evening {C}, in the morning {A}, at noon {B}.",
            "In the evening {C}, at noon {B}, in the morning {A}.",
            "{A} in the morning, {B} at noon, {C} in the evening.",
            "{A} in the morning, {C} in the evening, {B} at noon.",
            "{B} at noon, {A} in the morning, {C} in the evening.",
            "{B} at noon, {C} in the evening, {A} in the morning.",
            "{C} in the evening, {A} in the morning, {B} at noon.",
            "{C} in the evening, {B} at noon, {A} in the morning.",
        ),
    }
)
_PLACES: Mapping[str, Place] = MappingProxyType({"A": "first", "B": "second", "C": "last"})


@dataclass(frozen=True)
class ThreeEvents:
    """`n` short texts of three people who did something, and a question: was this one of them first or last?

    Args:
        n: Texts; the twelve templates and the places come in turn; multiples of 24 (of 36 for three places) are balanced.
        told: How the text tells the order: by words such as before, or by the time of day.
        places: Which are asked about, and are the options, in time's order: two or all of first, second, last.
        seed: Another seed gives other people and things.
        order: `shuffled` puts the words of the text, not of the question, in another order: a control in which nothing
            is left to be known.
    """

    n: int = 240
    told: Told = "connective"
    places: tuple[Place, ...] = ("first", "last")
    seed: int = 0
    order: Order = "kept"

    sees_images: ClassVar[bool] = False
    rule: ClassVar[Literal["likelihood"]] = "likelihood"

    def __post_init__(self) -> None:
        check_told(self.n, self.told, self.order)
        if len(self.places) < 2 or self.places != tuple(one for one in _PLACES.values() if one in self.places):
            raise UsageError(f"places {self.places} are not known; give two or all of {', '.join(_PLACES.values())}")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a text; the target is the place in time, `meta` holds `template` and `asked` (the one asked about).

        Marks are `first`, `second` and `last` (in time), none where words are shuffled. UsageError for a tokenizer that
        does not know a word of a text.
        """
        return [self._sample(i, tokenizer) for i in range(self.n)]

    def labelled(self, tokenizer: Any) -> Labelled:
        """The same; the label is the answer, the group the template."""
        return by_template(self.samples(tokenizer))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer is the right word, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, tokenizer: Any) -> Sample:
        rng = random.Random(f"three/{self.seed}/{i}")
        templates = _TOLD[self.told]
        template, answer = templates[i % len(templates)], i // len(templates) % len(self.places)
        roles, events = drawn_events(rng, 3)
        role = dict(zip(_PLACES.values(), roles, strict=True))[self.places[answer]]
        *before, last = self.places
        question = f"Question: was the {role} {', '.join(before)} or {last}? Answer:"
        meta = {"template": template, "asked": role, "options": self.places, "answer": answer}
        told = dict(zip(_PLACES, events, strict=True))
        return told_sample(
            template, told, _PLACES, question, tokenizer, meta, rng if self.order == "shuffled" else None
        )
