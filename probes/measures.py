"""How well held-out samples are predicted, in metrics of sums over groups, whose intervals draw whole groups again."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, clone

from headscope.clusters import ClusterBootstrap, Estimate, Metric, cluster_sums, ratio
from probes.questions import Question, Splits

Name = Literal["accuracy", "r2"]


def out_of_fold(
    probe: BaseEstimator, X: Float[np.ndarray, " sample *rest"], labels: Shaped[np.ndarray, " sample"], splits: Splits
) -> Shaped[np.ndarray, " sample"]:
    """A prediction for every sample, each by a fresh probe that was fitted without it."""
    predicted = np.empty_like(labels)
    for train, test in splits:
        seen: Any = labels[train]
        if (seen == seen[0]).all():  # in a control's draw; probes refuse to be fitted to a single class
            predicted[test] = seen[0]
        else:
            predicted[test] = clone(probe).fit(X[train], seen).predict(X[test])
    return predicted


def majority(question: Question) -> float:
    """The score of always saying what is most frequent (or the mean) among the samples that are not judged."""
    predicted = np.empty_like(question.labels)
    for train, test in question.splits(question.labels):
        seen = question.labels[train]
        predicted[test] = np.bincount(seen).argmax() if question.classes else seen.mean()
    return float(hits(question, question.labels, predicted).mean())


def hits(
    question: Question, labels: Shaped[np.ndarray, " sample"], predicted: Shaped[np.ndarray, " sample"]
) -> Float[np.ndarray, " sample"]:
    """Each sample's share of the score, which is their mean: 1 where a class is right, 1 - squared error / variance."""
    if question.classes:
        return (labels == predicted).astype(float)
    return 1 - (labels - predicted) ** 2 / labels.var()


@dataclass(frozen=True, eq=False)
class Judge:
    """Scores of predictions with intervals over groups (over samples where there are none)."""

    question: Question
    draws: ClusterBootstrap
    level: float

    @classmethod
    def of(cls, question: Question, *, level: float, seed: int) -> "Judge":
        """The same draws of groups serve every set of predictions."""
        return cls(question, ClusterBootstrap.draw(len(np.unique(question.groups)), seed=seed), level)

    @property
    def name(self) -> Name:
        """What is measured: accuracy of classes, R2 of numbers."""
        return "accuracy" if self.question.classes else "r2"

    def score(self, predicted: Shaped[np.ndarray, " sample"]) -> Estimate:
        """Accuracy, or R2."""
        labels = self.question.labels
        if self.question.classes:
            right = pd.DataFrame({"right": (labels == predicted).astype(float), "n": 1.0})
            return self._estimate(Metric("accuracy", ("right", "n"), ratio), right)
        apart = labels - labels.mean()  # the variance is the same, and its sums lose no digits
        sums = pd.DataFrame({"n": 1.0, "y": apart, "yy": apart**2, "ee": (labels - predicted) ** 2})
        return self._estimate(Metric("r2", ("n", "y", "yy", "ee"), _r2, proportion=False), sums)

    def balanced(self, predicted: Shaped[np.ndarray, " sample"]) -> Estimate:
        """Mean over classes of the share of their samples that are right."""
        labels, numbers = self.question.labels, range(len(self.question.classes))
        right = {f"right {i}": ((labels == i) & (predicted == i)).astype(float) for i in numbers}
        there = {f"of {i}": (labels == i).astype(float) for i in numbers}
        return self._estimate(Metric("balanced accuracy", (*right, *there), _mean_recall), pd.DataFrame(right | there))

    def _estimate(self, metric: Metric, items: pd.DataFrame) -> Estimate:
        sums = cluster_sums(items.assign(group=self.question.groups), "group")
        return self.draws.estimate(metric, sums, level=self.level)


def _r2(n: np.ndarray, y: np.ndarray, yy: np.ndarray, ee: np.ndarray) -> np.ndarray:
    return 1 - ratio(ee, yy - ratio(y**2, n))


def _mean_recall(*sums: np.ndarray) -> np.ndarray:
    """NaN in the resamples that a class is missing from."""
    half = len(sums) // 2
    return np.mean([ratio(right, there) for right, there in zip(sums[:half], sums[half:], strict=True)], axis=0)
