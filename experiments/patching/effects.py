"""Pairs of clean and corrupted prompts, and how much of the gap between them an edit closes or opens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.answer_metrics import Answers, Metric, answers_of, measured
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.model import HookedModel
from headscope.samples import Sample, batches

Normalise = Literal["sample", "mean"]
"""By what an effect is divided: each sample's own gap between clean and corrupted, or the mean gap of all samples."""

Positions = str | Sequence[int] | None
"""Places in the prompt: the name of a mark, places (negative: from the end), or None for all."""

SMALLEST_GAP = 1e-4
"""Gaps below this, in units of the metric, are taken for none."""


def refuse_unknown(option: str, value: str | None, kind: Any) -> None:
    """UsageError if the value is none of those that the Literal `kind` lists."""
    if value not in get_args(kind):
        raise UsageError(f"{option} {value!r} is not known; use one of {', '.join(map(repr, get_args(kind)))}")


def named_heads(model: HookedModel, heads: "str | Iterable[Head | str | tuple[int, int]] | None") -> tuple[Head, ...]:
    """The heads, or all of the model's; UsageError for heads it does not have."""
    every = model.heads()
    if heads is None:
        return every
    named = parse_heads(heads)
    if strange := [head for head in named if head not in every]:
        raise UsageError(
            f"{', '.join(map(str, strange))} asked for, but {model.name} has no such head; its heads are {every[0]} to "
            f"{every[-1]}"
        )
    return named


@dataclass(frozen=True)
class Pairs:
    """One batch of pairs, both sides aligned token by token."""

    places: tuple[int, ...]
    """Which of all pairs these are."""
    clean: tuple[Sample, ...]
    corrupt: tuple[Sample, ...]
    answers: Answers
    clean_logits: Float[Tensor, "sample vocab"]
    corrupt_logits: Float[Tensor, "sample vocab"]

    def measured(self, metric: Metric, logits: Float[Tensor, "sample vocab"]) -> Float[Tensor, " sample"]:
        """The metric of logits of these samples."""
        return measured(metric, logits, self.clean_logits, self.answers)


def last_logits(model: HookedModel, samples: Sequence[Sample]) -> Float[Tensor, "sample vocab"]:
    """Next-token logits after each prompt, under the hooks in force."""
    return model.forward(samples, last=1).logits[:, -1]


def paired(
    model: HookedModel, clean: Sequence[Sample], corrupt: Sequence[Sample], metric: Metric, batch_tokens: int
) -> Iterator[Pairs]:
    """The pairs in batches, longest first, each run once on either side.

    UsageError for pairs that differ in number, or whose two prompts differ in tokens.
    """
    refuse_unknown("metric", metric, Metric)
    if len(clean) != len(corrupt) or not clean:
        raise UsageError(
            f"{len(clean)} clean and {len(corrupt)} corrupted samples were given; patching needs pairs, at least one"
        )
    lengths = [len(model.tokens(sample).ids) for sample in clean]
    for i, (length, sample) in enumerate(zip(lengths, corrupt, strict=True)):
        if (other := len(model.tokens(sample).ids)) != length:
            raise UsageError(
                f"pair {i}: the clean prompt has {length} tokens and the corrupted one {other}; patching needs prompts "
                "that match token by token, so replace words by words of as many tokens"
            )
    for places, _ in batches(range(len(clean)), lambda i: lengths[i], batch_tokens):
        ours, theirs = tuple(clean[i] for i in places), tuple(corrupt[i] for i in places)
        answers = answers_of(model, ours, theirs, metric)
        yield Pairs(tuple(places), ours, theirs, answers, last_logits(model, ours), last_logits(model, theirs))


def places_of(model: HookedModel, samples: Sequence[Sample], positions: Positions) -> Any:
    """Positions for a patch of these samples: a mark becomes one tuple a sample."""
    if not isinstance(positions, str):
        return None if positions is None else tuple(positions)
    found = []
    for sample in samples:
        marks = model.tokens(sample).marks
        if positions not in marks:
            raise UsageError(
                f"position {positions!r} is no mark of a sample, which has {', '.join(marks) or 'none'}; name one of "
                "them, or give places"
            )
        found.append(tuple(range(*marks[positions])))
    return tuple(found)


@dataclass
class Measurements:
    """What was measured of every pair: on the clean and the corrupted prompt, and under each edit."""

    clean: Float[Tensor, " sample"]
    corrupt: Float[Tensor, " sample"]
    patched: Float[Tensor, "sample layer column"]

    @classmethod
    def empty(cls, n: int, layers: int, columns: int) -> "Measurements":
        """Nothing measured yet."""
        return cls(torch.zeros(n), torch.zeros(n), torch.full((n, layers, columns), torch.nan))

    def note(self, pairs: Pairs, metric: Metric) -> None:
        """The two ends of the gap of these pairs."""
        places = list(pairs.places)
        self.clean[places] = pairs.measured(metric, pairs.clean_logits)
        self.corrupt[places] = pairs.measured(metric, pairs.corrupt_logits)

    def effects(
        self, *, start: Literal["clean", "corrupt"], normalise: Normalise | None
    ) -> tuple[Float[Tensor, "kept layer column"], int]:
        """How far each edit moved the metric from its start to the other end, and how many samples were left out.

        0: not at all, 1: all the way; beyond both where it overshoots. Samples without a gap are left out where each is
        measured by its own. With `normalise=None` the change itself, in units of the metric. UsageError without a gap.
        """
        base, gap = self.corrupt, self.clean - self.corrupt
        if start == "clean":
            base, gap = self.clean, -gap
        moved = self.patched - base[:, None, None]
        if normalise is None:
            return moved, 0
        refuse_unknown("normalise", normalise, Normalise)
        if normalise == "mean":
            if abs(gap.mean()) < SMALLEST_GAP:
                raise self._without_gap()
            return moved / gap.mean(), 0
        kept = gap.abs() >= SMALLEST_GAP
        if not kept.any():
            raise self._without_gap()
        return moved[kept] / gap[kept, None, None], int((~kept).sum())

    def _without_gap(self) -> UsageError:
        return UsageError(
            f"the metric is {self.clean.mean():.4g} on the clean prompts and {self.corrupt.mean():.4g} on the "
            "corrupted ones, so there is no gap to measure effects by; corrupt what the answer depends on, or use "
            "normalise=None"
        )
