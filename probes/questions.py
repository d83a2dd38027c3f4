"""What a probe is asked: a label for each sample, which samples belong together, and how they are split into folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from headscope.errors import UsageError

Labels = Sequence[Any] | np.ndarray | Tensor
Splits = list[tuple[np.ndarray, np.ndarray]]
"""Places of the samples to fit to, and of those to judge by."""


@dataclass(frozen=True, eq=False)
class Question:
    """Labels as class numbers, or as numbers to be predicted; samples of a group are never split between folds."""

    labels: Shaped[np.ndarray, " sample"]
    classes: tuple[Any, ...]
    """Empty where labels are numbers."""
    groups: Int[np.ndarray, " sample"]
    grouped: bool
    folds: int
    seed: int

    @classmethod
    def of(cls, labels: Labels, *, groups: Labels | None, folds: int, seed: int) -> "Question":
        """Floats are numbers, all other labels classes; UsageError where they cannot be split into so many folds."""
        values = as_array(labels, "labels")
        classes: tuple[Any, ...] = ()
        if values.dtype.kind != "f":
            names, values = np.unique(values, return_inverse=True)
            classes = tuple(names.tolist())
        elif not np.isfinite(values).all():
            raise UsageError("some labels are not finite; leave those samples out, or give classes as whole numbers")
        kept = np.arange(len(values)) if groups is None else _numbered(as_array(groups, "groups"))
        if len(kept) != len(values):
            raise UsageError(f"{len(kept)} groups were given for {len(values)} samples; give one for each")
        question = cls(values, classes, kept, groups is not None, folds, seed)
        question._validate()
        return question

    def _validate(self) -> None:
        if self.folds < 2:
            raise UsageError(
                f"folds is {self.folds}; a probe is judged on samples it was not fitted to, so give at least 2"
            )
        if len(np.unique(self.labels)) < 2:
            raise UsageError(f"all {len(self.labels)} labels are the same; a probe needs at least two classes")
        for i, name in enumerate(self.classes):
            there = len(np.unique(self.groups[self.labels == i]))
            if there < self.folds:
                kind = "groups" if self.grouped else "samples"
                raise UsageError(
                    f"class {name!r} stands in {there} {kind}, too few for {self.folds} folds; give more, or ask for "
                    "fewer folds"
                )
        if (there := len(np.unique(self.groups))) < self.folds:
            raise UsageError(
                f"{there} groups cannot be split into {self.folds} folds; give more, or ask for fewer folds"
            )

    def splits(self, labels: Shaped[np.ndarray, " sample"]) -> Splits:
        """Places of the samples to fit to and of those to judge by, fold by fold; classes spread evenly over folds."""
        options = {"n_splits": self.folds, "shuffle": True, "random_state": self.seed}
        # A control's labels may have a class too rare to be spread.
        even = self.classes and np.bincount(labels)[np.unique(labels)].min() >= self.folds
        if self.grouped:
            folds = StratifiedGroupKFold(**options) if even else GroupKFold(**options)
        else:
            folds = StratifiedKFold(**options) if even else KFold(**options)
        return list(folds.split(np.zeros(len(labels)), labels, self.groups if self.grouped else None))

    @property
    def labels_by_group(self) -> bool:
        """Whether groups were given and each has one label."""
        return self.grouped and len(np.unique(np.stack([self.groups, self.labels]), axis=1).T) == len(
            np.unique(self.groups)
        )


def as_array(values: Labels, what: str) -> Shaped[np.ndarray, " sample"]:
    """One value a sample; UsageError for anything else."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise UsageError(f"{what} have shape {list(array.shape)}; give one for each sample, in a list")
    return array


def _numbered(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1]
