"""Which of two things came first: told in words, whose order on the page says nothing of the order in time.

Text alone can ask whether a language model keeps track of time (T3, Li et al. 2024, arXiv 2410.06166, asks the same of
captions of frames, see `tasks.frames`). Every template is asked in four ways, so neither the template, nor the order of
names, nor the word of the question gives the answer away; only all three together do. So probes can be fitted to some
templates and judged on others.

Of the models that ship, zoo:needle knows the people, the things and the times of day, and of the words of order only
"after": it can be asked with `told="time"` and `relations=("after",)`, and refuses the rest with the word that it lacks.
It was never taught to answer questions of time. zoo:scenes knows none of the people.
"""

import random
from collections.abc import Mapping, Sequence
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
from tasks.word_order import Order, shuffled_words

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
        order: `shuffled` puts the words of the text, not of the question, in another order: a control in which nothing
            is left to be known.
    """

    n: int = 240
    told: Told = "connective"
    relations: tuple[Literal["before", "after"], ...] = ("before", "after")
    seed: int = 0
    order: Order = "kept"

    sees_images: ClassVar[bool] = False
    rule: ClassVar[Literal["likelihood"]] = "likelihood"

    def __post_init__(self) -> None:
        check_told(self.n, self.told, self.order)
        if not self.relations or not set(self.relations) <= {"before", "after"}:
            raise UsageError(f"relations {self.relations} are not known; give 'before', 'after' or both")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a text; target `yes` or `no`, `meta` holds `template`.

        Marks are `first` and `second` (in time), none where words are shuffled. UsageError for a tokenizer that does not
        know a word of a text.
        """
        return [self._sample(i, tokenizer) for i in range(self.n)]

    def labelled(self, tokenizer: Any) -> Labelled:
        """The same; the label is the answer, the group the template."""
        return by_template(self.samples(tokenizer))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer is the right word, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, tokenizer: Any) -> Sample:
        rng = random.Random(f"temporal/{self.seed}/{i}")
        templates = _TOLD[self.told]
        turn, template = i // len(templates), templates[i % len(templates)]
        roles, events = drawn_events(rng, 2)
        forward = turn % 2 == 0
        relation = self.relations[turn // 2 % len(self.relations)]
        one, other = roles if forward else roles[::-1]
        question = f"Question: was the {one} {relation} the {other}? Answer:"
        target = "yes" if forward == (relation == "before") else "no"
        options = ("yes", "no")
        meta = {"template": template, "relation": relation, "options": options, "answer": options.index(target)}
        names = {"A": "first", "B": "second"}
        shuffling = rng if self.order == "shuffled" else None
        return told_sample(template, dict(zip("AB", events, strict=True)), names, question, tokenizer, meta, shuffling)


def drawn_events(rng: random.Random, count: int) -> tuple[list[str], list[str]]:
    """So many different people, and what each did with a thing of its own, as sentences without their full stops."""
    roles = rng.sample(ROLES, count)
    events = [
        _EVENT.format(role=role, verb=rng.choice(VERBS), object=thing)
        for role, thing in zip(roles, rng.sample(OBJECTS, count), strict=True)
    ]
    return roles, events


def told_sample(
    template: str,
    events: Mapping[str, str],
    names: Mapping[str, str],
    question: str,
    tokenizer: Any,
    meta: Mapping[str, Any],
    shuffling: random.Random | None,
) -> Sample:
    """Events told by a template, and a question about them, whose answer is the option that `meta` says.

    `names` are those of the marks, by the template's fields; with `shuffling` the text's words are put in another order
    and there are no marks.
    """
    text, spans = filled(template, events)
    if shuffling is None:
        text = f"{text[0].upper()}{text[1:]}"
    else:
        text, spans = shuffled_words(text.lower(), shuffling), {}
    body = f"{text} {question}"
    refuse_unknown(body, tokenizer)
    prompt, chat = asked(tokenizer, body, images=0)
    start = prompt.index(body)
    marks = {names[field]: (start + a, start + b) for field, (a, b) in spans.items()}
    return Sample(prompt, meta["options"][meta["answer"]], marks, meta=meta, chat=chat)


def by_template(samples: Sequence[Sample]) -> Labelled:
    """Samples labelled with their answers, grouped by their templates."""
    targets, templates = ([one.target for one in samples], [str(one.meta["template"]) for one in samples])
    return Labelled(tuple(samples), tuple(targets), tuple(templates))


def check_told(n: int, told: str, order: str) -> None:
    """UsageError for no text at all, and for a way to tell or an order of words that is not known."""
    if n < 1:
        raise UsageError(f"n is {n}; ask for at least 1 text")
    for name, value, known in (("told", told, get_args(Told)), ("order", order, get_args(Order))):
        if value not in known:
            raise UsageError(f"{name} {value!r} is not known; use one of {', '.join(known)}")
