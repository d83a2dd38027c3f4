"""What a model is given: prompts with named places in them, located in whatever tokens the model uses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from headscope.errors import UsageError

Span = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One prompt, the answer that is right, and the places in it that matter.

    `marks` names parts of the prompt, each as a substring that occurs exactly once or as a span of characters
    (start, end). `chat` says that the prompt was written by the model's chat template, which brings its own special
    tokens.
    """

    prompt: str
    target: str = ""
    marks: Mapping[str, str | Span] = field(default_factory=dict)
    images: tuple[Any, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    chat: bool = False

    def characters(self, mark: str) -> Span:
        """Span of characters of a mark; UsageError if the text is absent or stands in several places."""
        place = self.marks[mark]
        if isinstance(place, tuple):
            if not 0 <= place[0] < place[1] <= len(self.prompt):
                raise UsageError(f"mark {mark!r} is {place}, but the prompt has {len(self.prompt)} characters")
            return place
        count = self.prompt.count(place)
        if count != 1:
            raise UsageError(
                f"mark {mark!r} ({place!r}) occurs {count} times in the prompt; give a text that occurs once, or a span "
                "of characters (start, end)"
            )
        start = self.prompt.index(place)
        return start, start + len(place)


@dataclass(frozen=True)
class Tokens:
    """A sample in tokens: ids, and for every mark the span of tokens (start, end) that touch its characters."""

    ids: tuple[int, ...]
    marks: Mapping[str, Span]


def tokenize(sample: Sample, tokenizer: Any) -> Tokens:
    """The sample's tokens; marks are found through character offsets, so it needs a fast tokenizer (UsageError)."""
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers; load a fast tokenizer "
            "(AutoTokenizer.from_pretrained(..., use_fast=True))"
        )
    encoded = tokenizer(sample.prompt, add_special_tokens=not sample.chat, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    marks = {mark: _token_span(offsets, sample.characters(mark)) for mark in sample.marks}
    return Tokens(tuple(encoded["input_ids"]), marks)


def _token_span(offsets: Sequence[Span], characters: Span) -> Span:
    start, end = characters
    touching = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return touching[0], touching[-1] + 1


@runtime_checkable
class Task(Protocol):
    """A set of samples and the way an answer is scored. Lengths are in tokens, so samples are made for a tokenizer."""

    def samples(self, tokenizer: Any) -> Sequence[Sample]:
        """The samples, the same ones for the same task and tokenizer."""

    def score(self, sample: Sample, answer: str) -> float:
        """How right an answer is, between 0 and 1."""


def batches(items: Sequence[T], size: Callable[[T], int], budget: int) -> Iterator[tuple[list[int], list[T]]]:
    """Items of similar size in batches whose padded size stays within `budget`, with their places in `items`.

    Longest first, so that a batch that does not fit in memory fails at the start.
    """
    order = sorted(range(len(items)), key=lambda i: -size(items[i]))
    while order:
        count = max(1, min(len(order), budget // max(1, size(items[order[0]]))))
        chosen, order = order[:count], order[count:]
        yield chosen, [items[i] for i in chosen]
