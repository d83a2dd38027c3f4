"""Samples with what is to be read of each and which of them belong together: what probes are asked about."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from headscope.errors import UsageError
from headscope.prompts import asked
from headscope.samples import Sample

Label = str | int | float


@dataclass(frozen=True)
class Labelled:
    """Samples, a label for each, and a group for each: its template, scene or text, which folds keep together.

    Labels are all numbers (floats) or all classes (text, whole numbers). No groups: every sample stands for itself.
    """

    samples: tuple[Sample, ...]
    labels: tuple[Label, ...]
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.samples)
        if not n or len(self.labels) != n or len(self.groups) not in (0, n):
            raise UsageError(
                f"{n} samples have {len(self.labels)} labels and {len(self.groups)} groups; give a label each, and a "
                "group each or none"
            )


@runtime_checkable
class ProbingSet(Protocol):
    """What makes labelled samples for a model."""

    @property
    def sees_images(self) -> bool:
        """Whether samples are written for the whole processor, not for its tokenizer."""

    def labelled(self, processor: Any) -> Labelled:
        """The samples with their labels, the same ones for the same set and processor."""


@dataclass(frozen=True)
class LabelledFile:
    """A JSONL file: `prompt`, `label` and, if wanted, `group`, one object a line.

    If any label is a number with a fraction, all are numbers to be predicted; else all are classes. With `limit` only so
    many lines are used; with `chat`, prompts are put into the tokenizer's chat template where it has one.
    """

    path: str | Path
    limit: int | None = None
    chat: bool = False

    sees_images: ClassVar[bool] = False

    def labelled(self, processor: Any) -> Labelled:
        """The file's rows in their order; UsageError names the line that cannot be read."""
        rows = self._rows()[: self.limit]
        labels = [row["label"] for row in rows]
        if any(isinstance(label, float) for label in labels):
            words = next((label for label in labels if isinstance(label, str)), None)
            if words is not None:
                raise UsageError(f"{self.path}: label {words!r} stands beside numbers with fractions; give one kind")
            labels = [float(label) for label in labels]
        elif any(isinstance(label, str) for label in labels):
            labels = [str(label) for label in labels]
        with_group = sum("group" in row for row in rows)
        if with_group not in (0, len(rows)):
            raise UsageError(f"{self.path}: {with_group} of {len(rows)} lines have a group; give all one, or none")
        samples = tuple(self._sample(row["prompt"], processor) for row in rows)
        return Labelled(samples, tuple(labels), tuple(str(row["group"]) for row in rows) if with_group else ())

    def _sample(self, prompt: str, processor: Any) -> Sample:
        text, chat = asked(processor, prompt, images=0) if self.chat else (prompt, False)
        return Sample(text, chat=chat)

    def _rows(self) -> Sequence[dict[str, Any]]:
        try:
            lines = Path(self.path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self.path} cannot be read ({error}); give a JSONL file in UTF-8, one object a line"
            ) from error
        rows = [_row(f"{self.path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise UsageError(f"{self.path} holds no sample; give an object with prompt and label on each line")
        return rows


def _row(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: this is not JSON ({error}); write one object a line") from error
    missing = [name for name in ("prompt", "label") if not isinstance(row, dict) or name not in row]
    if missing:
        raise UsageError(f"{place}: {missing[0]!r} is missing; give prompt and label, and a group if there are any")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise UsageError(f"{place}: prompt is {row['prompt']!r}; give a text")
    if not isinstance(row["label"], str | int | float):
        raise UsageError(f"{place}: label is {row['label']!r}; give a text or a number")
    return row
