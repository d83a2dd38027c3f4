"""Some of a task's samples: the first few, or one share of them for each of several runs."""

from dataclasses import dataclass
from typing import Any

from headscope.errors import UsageError
from headscope.samples import Sample, Task


@dataclass(frozen=True)
class Subset:
    """The first `limit` samples of a task and of these every n-th from the i-th on; answers are scored as by the task.

    Args:
        task: The whole task.
        limit: How many samples, in the task's order; None keeps all.
        shard: (i, n): share i of n, counted from 0. The n shares have all samples once and take from every length;
            one share alone may miss depths, where n and the number of depths have a common factor.
    """

    task: Task
    limit: int | None = None
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit is {self.limit}, which leaves no sample; ask for at least 1")
        share, shares = self.shard
        if not 0 <= share < shares:
            raise UsageError(f"shard {self.shard} is not a share; give (i, n) with i from 0 to n - 1, such as (0, 4)")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The samples of this part; UsageError if there are more shares than samples."""
        share, shares = self.shard
        whole = list(self.task.samples(tokenizer))[: self.limit]
        if share >= len(whole):
            raise UsageError(f"shard {self.shard} of {len(whole)} samples is empty; ask for fewer shares")
        return whole[share::shares]

    def score(self, sample: Sample, answer: str) -> float:
        """How right an answer is between 0 and 1, as the whole task scores it."""
        return self.task.score(sample, answer)

    @property
    def seed(self) -> int | None:
        """The task's seed; None where it has none."""
        return getattr(self.task, "seed", None)

    @property
    def sees_images(self) -> bool:
        """Whether the task's samples are written for the whole processor, not for its tokenizer."""
        return getattr(self.task, "sees_images", False)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings after which an answer is over: the task's own, or a new line."""
        return getattr(self.task, "stop", ("\n",))
