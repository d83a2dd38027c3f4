"""Description length: how many bits it takes to tell the labels to someone who has the activations.

Online coding (Voita & Titov 2020, arXiv 2003.12298): labels are sent in blocks, each coded with a probe
fitted to the blocks before, the first with a uniform code. Regular labels cost few bits, and early; unlike accuracy,
the length also tells how much data the reading took. Blocks end at the paper's fractions of the data, 0.1 to 100 %, as
far as they hold as many samples as there are classes. Departure: a probe's probabilities are mixed with one sample's
worth of the uniform code, (t p + 1 / K) / (t + 1) after t samples, since a probe that is sure and wrong, or has not
seen a class yet, would take infinitely many bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, clone

from headscope.errors import UsageError
from headscope.tables import html_table
from probes.controls import control_labels
from probes.linear import LinearProbe
from probes.questions import Labels, Question

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class DescriptionLength:
    """Bits for all labels, and for labels that mean nothing."""

    bits: float
    uniform: float
    """Bits of the uniform code, n log2 K."""
    control: Float[np.ndarray, " draw"]
    """Bits for shuffled labels."""
    blocks: pd.DataFrame
    """A row a block: `start`, `end`, `bits`."""

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code; 1 where nothing can be read."""
        return self.uniform / self.bits

    @property
    def control_compression(self) -> float:
        """The same for shuffled labels, mean over draws."""
        return float((self.uniform / self.control).mean())

    def _repr_html_(self) -> str:
        caption = (
            f"description length {self.bits:.1f} bits, {self.compression:.2f} times shorter than the uniform code "
            f"({self.control_compression:.2f} for shuffled labels)"
        )
        return html_table(self.blocks, caption)


def description_length(
    X: Float[np.ndarray, " sample *rest"],
    labels: Labels,
    *,
    probe: BaseEstimator | None = None,
    fractions: Sequence[float] = FRACTIONS,
    groups: Labels | None = None,
    draws: int = 5,
    seed: int | None = 0,
) -> DescriptionLength:
    """Bits that the labels (classes) take with a probe on X [sample ...], and that shuffled ones take.

    Samples come in an order drawn by `seed`, or as they are (None); groups are sent whole. Costs (draws + 1) x blocks
    fits, each of at most all samples. UsageError for numbers as labels, and for fractions that do not rise to 1.
    """
    question = Question.of(labels, groups=groups, folds=2, seed=0)
    if not question.classes:
        raise UsageError("the labels are floats; description length is of classes, so give whole numbers or words")
    if len(X) != len(question.labels) or draws < 1:
        raise UsageError(
            f"{len(X)} samples, {len(question.labels)} labels, {draws} draws: give a label each, and draws >= 1"
        )
    order = _order(question, seed)
    ends = _ends(question, fractions, order)
    sent = (probe or LinearProbe(), X[order], ends, len(question.classes))
    bits = _coded(*sent, question.labels[order])
    drawn = control_labels(question, None, draws=draws, seed=(seed or 0, 1))
    control = np.array([_coded(*sent, mine[order]).sum() for mine in drawn])
    blocks = pd.DataFrame({"start": [0, *ends[:-1]], "end": ends, "bits": bits})
    return DescriptionLength(float(bits.sum()), len(order) * float(np.log2(sent[3])), control, blocks)


def _order(question: Question, seed: int | None) -> Int[np.ndarray, " sample"]:
    """Samples in the order they are sent, those of a group behind one another."""
    if seed is None:
        _, first = np.unique(question.groups, return_index=True)
        return np.argsort(first[question.groups], kind="stable")
    rng = np.random.default_rng(seed)
    samples = rng.permutation(len(question.groups))
    turns = rng.permutation(question.groups.max() + 1)
    return samples[np.argsort(turns[question.groups[samples]], kind="stable")]


def _ends(question: Question, fractions: Sequence[float], order: Int[np.ndarray, " sample"]) -> list[int]:
    """Where blocks end: at the fractions, moved on to the end of a group."""
    if not fractions or sorted(set(fractions)) != list(fractions) or fractions[0] <= 0 or fractions[-1] != 1:
        raise UsageError(f"fractions {tuple(fractions)} must rise from above 0 to 1, such as (0.1, 0.5, 1.0)")
    n, groups = len(order), question.groups[order]
    last = np.flatnonzero(np.append(groups[1:] != groups[:-1], True)) + 1
    wanted = [round(fraction * n) for fraction in fractions]
    ends = {int(last[np.searchsorted(last, end)]) for end in wanted if end >= len(question.classes)}
    return sorted(ends)


def _coded(
    probe: BaseEstimator, X: np.ndarray, ends: Sequence[int], classes: int, labels: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, " block"]:
    """Bits of each block."""
    bits = [ends[0] * np.log2(classes)]
    for start, end in pairwise(ends):
        given = _probabilities(probe, X[:start], labels[:start], X[start:end], classes)
        mixed = (start * given + 1 / classes) / (start + 1)
        bits.append(-np.log2(mixed[np.arange(end - start), labels[start:end]]).sum())
    return np.array(bits)


def _probabilities(
    probe: BaseEstimator, X: np.ndarray, labels: np.ndarray, new: np.ndarray, classes: int
) -> Float[np.ndarray, "sample class"]:
    """What a fresh probe, fitted to X, expects of new samples; 0 for classes it has not seen."""
    full = np.zeros((len(new), classes))
    seen = np.unique(labels)
    if len(seen) == 1:
        full[:, seen[0]] = 1
    else:
        fitted: Any = clone(probe).fit(X, labels)
        full[:, fitted.classes_] = fitted.predict_proba(new)
    return full
