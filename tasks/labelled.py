"""Samples with what is to be read of each and which of them belong together: what probes are asked about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headscope.errors import UsageError
from headscope.samples import Sample
from tasks.labelled_rows import Label, Row, read_rows


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
    """A JSONL file, one object a line: `prompt` and `label`; if wanted `group`, `image` or `images`, `marks`, `chat`.

    Images are paths from the file's folder and stay inside it, links too, unless they may lie `anywhere`. A prompt with
    images is a question about them, which the model's chat template writes, unless it holds the model's placeholders
    itself. `marks` maps names to parts of the prompt, texts or spans `[start, end]`. `chat: true` says that a template
    has written the prompt already. What else a line holds is passed over.

    If any label is a number with a fraction, all are numbers to be predicted; else all are classes. With `limit` only so
    many lines are used; with `chat`, prompts without images too are put into the chat template, where there is one.
    """

    path: str | Path
    limit: int | None = None
    chat: bool = False
    anywhere: bool = False

    @property
    def sees_images(self) -> bool:
        """Whether a line that is used shows an image; no for a file that cannot be read, of which `labelled` says why."""
        try:
            return any(row.images for row in self._rows())
        except UsageError:
            return False

    def labelled(self, processor: Any) -> Labelled:
        """The file's rows in their order; UsageError names the line that cannot be read.

        Every image is opened once, so that one that is missing or broken is known before anything runs.
        """
        rows = self._rows()
        labels = [row.label for row in rows]
        if any(isinstance(label, float) for label in labels):
            words = next((label for label in labels if isinstance(label, str)), None)
            if words is not None:
                raise UsageError(f"{self.path}: label {words!r} stands beside numbers with fractions; give one kind")
            labels = [float(label) for label in labels]
        elif any(isinstance(label, str) for label in labels):
            labels = [str(label) for label in labels]
        groups = [row.group for row in rows if row.group is not None]
        if len(groups) not in (0, len(rows)):
            raise UsageError(f"{self.path}: {len(groups)} of {len(rows)} lines have a group; give all one, or none")
        folder = Path(self.path).parent
        samples = (row.sample(processor, folder, anywhere=self.anywhere, chat=self.chat) for row in rows)
        return Labelled(tuple(samples), tuple(labels), tuple(groups))

    def _rows(self) -> list[Row]:
        return read_rows(self.path)[: self.limit]
