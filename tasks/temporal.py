"""Which of two things came first: told in words, whose order on the page says nothing of the order in time.

Text alone can ask whether a language model keeps track of time (T3, Li et al. 2024, arXiv 2410.06166, asks the same of
captions of frames, see `tasks.frames`). Every template is asked in four ways, so neither the template, nor the order of
names, nor the word of the question gives the answer away; only all three together do. So probes can be fitted to some
templates and judged on others.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from headscope.errors import UsageError
from headscope.prompts import asked
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.filling import filled
from tasks.haystack import refuse_unknown
from tasks.labelled import Labelled
from tasks.prose import OBJECTS, ROLES, VERBS

Told = Literal["connective", "time"]

# A is what came first, B what came then; each stands for a sentence without its full stop.
_TOLD: Mapping[Told, tuple[str, ...]] = MappingProxyType(
    {
        "connective": (
            "{A} before {B}.",
            "{B} after {A}.",
            "Before {B}, {A}.",
            "After {A}, {B}.",
            "First {A}, then {B}.",
            "{B}, but earlier {A}.",
        ),
        "time": (
            "In the morning {A}, in the evening {B}.",
            "In the evening {B}, in the morning {A}.",
            "{A} in the morning, {B} in the evening.",
            "{B} in the evening, {A} in the morning.",
            "It was morning, and {A}. It was evening, and {B}.",
            "It was evening, and {B}. It was morning, and {A}.",
        ),
    }
)
_EVENT = "the {role} {verb} the {object}"


@dataclass(frozen=True)
class TemporalOrder:
    """`n` short texts of two people who did something, and a question for yes or no: was one before, or after, the other?

    Args:
        n: Texts; the templates and the four ways to ask come in turn, so multiples of 24 are balanced.
        told: How the text tells the order: by words such as before, or by the time of day.
        relations: Words of the question.
        seed: Another seed gives other people and things.
    """

    n: int = 240
    told: Told = "connective"
    relations: tuple[Literal["before", "after"], ...] = ("before", "after")
    seed: int = 0

    sees_images: ClassVar[bool] = False
    rule: ClassVar[Literal["likelihood"]] = "likelihood"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 text")
        if self.told not in get_args(Told):
            raise UsageError(f"told {self.told!r} is not known; use one of {', '.join(get_args(Told))}")
        if not self.relations or not set(self.relations) <= {"before", "after"}:
            raise UsageError(f"relations {self.relations} are not known; give 'before', 'after' or both")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a text; target `yes` or `no`, marks `first` and `second` (in time), `meta` holds `template`.

        UsageError for a tokenizer that does not know a word of a text.
        """
        return [self._sample(i, tokenizer) for i in range(self.n)]

    def labelled(self, tokenizer: Any) -> Labelled:
        """The same; the label is the answer, the group the template."""
        samples = tuple(self.samples(tokenizer))
        return Labelled(samples, tuple(one.target for one in samples), tuple(one.meta["template"] for one in samples))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer is the right word, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, tokenizer: Any) -> Sample:
        rng = random.Random(f"temporal/{self.seed}/{i}")
        templates = _TOLD[self.told]
        turn, template = i // len(templates), templates[i % len(templates)]
        roles = rng.sample(ROLES, 2)
        events = [
            _EVENT.format(role=role, verb=rng.choice(VERBS), object=thing)
            for role, thing in zip(roles, rng.sample(OBJECTS, 2), strict=True)
        ]
        text, spans = filled(template, {"A": events[0], "B": events[1]})
        forward = turn % 2 == 0
        relation = self.relations[turn // 2 % len(self.relations)]
        one, other = roles if forward else roles[::-1]
        question = f"Question: was the {one} {relation} the {other}? Answer:"
        body = f"{text[0].upper()}{text[1:]} {question}"
        refuse_unknown(body, tokenizer)
        prompt, chat = asked(tokenizer, body, images=0)
        start = prompt.index(body)
        marks = {
            name: (start + spans[key][0], start + spans[key][1]) for name, key in (("first", "A"), ("second", "B"))
        }
        target = "yes" if forward == (relation == "before") else "no"
        options = ("yes", "no")
        meta = {"template": template, "relation": relation, "options": options, "answer": options.index(target)}
        return Sample(prompt, target, marks, meta=meta, chat=chat)
