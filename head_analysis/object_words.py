"""Which answer steps name an object that is in the image, which one that is not, and which none."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from headscope.errors import UsageError
from headscope.samples import Span

Kind = Literal["correct", "hallucinated", "continued", "other"]
"""`correct` and `hallucinated`: the step that writes the first token of a word for an object. `continued`: the word's
further tokens, which say nothing new. `other`: all else."""


@dataclass(frozen=True)
class ObjectWord:
    """A word or phrase of an answer that names an object: its category, its characters, and whether it is invented."""

    category: str
    start: int
    end: int
    hallucinated: bool


@runtime_checkable
class Mention(Protocol):
    """An object named in a text, as `tasks.mentions` finds them."""

    @property
    def category(self) -> str:
        """The object's category."""

    @property
    def start(self) -> int:
        """First character."""

    @property
    def end(self) -> int:
        """Character after the last."""


def object_words(mentions: Iterable[Mention], truth: Collection[str]) -> tuple[ObjectWord, ...]:
    """Mentions as object words: hallucinated where the category is not among those in the image."""
    return tuple(ObjectWord(m.category, m.start, m.end, m.category not in truth) for m in mentions)


def word_steps(spans: Sequence[Span], word: ObjectWord) -> range:
    """The steps whose tokens write a word, first to last; UsageError if no token touches it."""
    touching = [i for i, (start, end) in enumerate(spans) if start < word.end and end > word.start]
    if not touching:
        written = max((end for _, end in spans), default=0)
        raise UsageError(
            f"the word at characters {word.start} to {word.end} ({word.category}) is written by no token of an answer "
            f"of {written} characters; give words of this answer"
        )
    return range(touching[0], touching[-1] + 1)


def step_kinds(spans: Sequence[Span], words: Iterable[ObjectWord]) -> tuple[Kind, ...]:
    """What each step of an answer does; a step that touches two words counts for the first."""
    kinds: list[Kind] = ["other"] * len(spans)
    for word in sorted(words, key=lambda word: word.start, reverse=True):
        first, *rest = word_steps(spans, word)
        for step in rest:
            kinds[step] = "continued"
        kinds[first] = "hallucinated" if word.hallucinated else "correct"
    return tuple(kinds)
