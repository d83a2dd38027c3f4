"""Probes of many layers or heads, each judged on samples it was not fitted to, and against the probe of a control."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils.parallel import Parallel, delayed

from headscope.errors import UsageError
from headscope.evidence import false_discovery
from headscope.heads import Head
from headscope.progress import progress_bar
from probes.attentive import AttentiveProbe
from probes.controls import Control, control_labels, type_numbers
from probes.features import Features, Place
from probes.linear import LinearProbe, RidgeProbe
from probes.measures import Judge, hits, majority, out_of_fold
from probes.questions import Labels, Question
from probes.result import ProbeResult

Cells = Mapping[Place, np.ndarray]
RATE = 0.05


def probe_features(
    read: Features,
    labels: Labels,
    *,
    by: Literal["layer", "head"] = "layer",
    probe: BaseEstimator | None = None,
    control: Control = "shuffled",
    types: Labels | None = None,
    baselines: Mapping[str, Cells] | None = None,
    groups: Labels | None = None,
    folds: int = 5,
    draws: int = 20,
    level: float = 0.95,
    seed: int = 0,
    jobs: int = 1,
    progress: bool = False,
) -> ProbeResult:
    """What `probe_layers` (or `probe_heads`) says, of features that were read already.

    `baselines` are other features, laid out as `Features.by_layer` or `by_head` are; one array that stands for all places
    is judged once.
    """
    cells = read.by_head() if by == "head" else read.by_layer()
    if draws < 1:
        raise UsageError(f"draws is {draws}; ask for at least 1 draw of the control")
    question = Question.of(labels, groups=groups, folds=folds, seed=seed)
    if len(question.labels) != read.n:
        raise UsageError(f"{len(question.labels)} labels were given for {read.n} samples; give one for each")
    probe = _fitting(probe, question, read)
    numbers = type_numbers(control, types, read.tokens)
    judge = Judge.of(question, level=level, seed=seed)
    places = tuple(cells)
    predicted, controls = _judged(cells, question, probe, numbers, draws=draws, seed=seed, jobs=jobs, progress=progress)
    table = _scored(judge, places, predicted)
    table = table.join(_against(controls, table[judge.name].to_numpy(), level))
    for name, others in (baselines or {}).items():
        table[name] = _baseline(others, places, question, probe)
    table["majority" if question.classes else "mean"] = majority(question)
    table["n"], table["clusters"] = read.n, len(np.unique(question.groups))
    samples = np.stack([hits(question, question.labels, row) for row in predicted], 1)
    about = {
        "probe": repr(probe),
        "site": read.site,
        "places": repr(read.places),
        "control": control,
        "draws": draws,
        "folds": folds,
        "grouped": question.grouped,
        "seed": seed,
    }
    return ProbeResult(places, samples, controls, table, judge.name, read.shape, {**read.meta, **about})


def _fitting(probe: BaseEstimator | None, question: Question, read: Features) -> BaseEstimator:
    """The probe that is asked for, or the one that labels and features call for."""
    if probe is None:
        linear = LinearProbe() if question.classes else RidgeProbe()
        probe = AttentiveProbe() if read.places.position == "all" else linear
    if is_classifier(probe) != bool(question.classes):
        kind = "classes" if question.classes else "numbers (floats)"
        raise UsageError(
            f"the labels are {kind}, which {type(probe).__name__} does not predict; give whole numbers or words with a "
            "probe for classes, such as LinearProbe, and floats with one for numbers, such as RidgeProbe"
        )
    return probe


def _judged(
    cells: Cells,
    question: Question,
    probe: BaseEstimator,
    types: Int[np.ndarray, " sample"] | None,
    *,
    draws: int,
    seed: int,
    jobs: int,
    progress: bool,
) -> tuple[list[np.ndarray], Float[np.ndarray, "place draw"]]:
    """Predictions of each place, and the probe's scores on draws of the control that are each place's own."""
    work = (
        delayed(_judged_alone)(X, question, probe, types, draws=draws, seed=(seed, row))
        for row, X in enumerate(cells.values())
    )
    done = Parallel(n_jobs=jobs, return_as="generator")(work)
    found = []
    with progress_bar(len(cells), "probing", shown=progress) as update:
        for one in done:
            found.append(one)
            update(1)
    return [predicted for predicted, _ in found], np.stack([controls for _, controls in found])


def _judged_alone(
    X: Float[np.ndarray, " sample *rest"],
    question: Question,
    probe: BaseEstimator,
    types: Int[np.ndarray, " sample"] | None,
    *,
    draws: int,
    seed: Sequence[int],
) -> tuple[np.ndarray, Float[np.ndarray, " draw"]]:
    predicted = out_of_fold(probe, X, question.labels, question.splits(question.labels))
    controls = []
    for labels in control_labels(question, types, draws=draws, seed=seed):
        guessed = out_of_fold(probe, X, labels, question.splits(labels))
        controls.append(hits(question, labels, guessed).mean())
    return predicted, np.array(controls)


def _scored(judge: Judge, places: Sequence[Place], predicted: Sequence[np.ndarray]) -> pd.DataFrame:
    rows = []
    for place, mine in zip(places, predicted, strict=True):
        score = judge.score(mine)
        row: dict[str, Any] = {"layer": place.layer if isinstance(place, Head) else place}
        if isinstance(place, Head):
            row |= {"head": place.head, "name": str(place)}
        row |= {judge.name: score.value, "low": score.low, "high": score.high}
        if judge.question.classes:
            balanced = judge.balanced(mine)
            row |= {"balanced": balanced.value, "balanced_low": balanced.low, "balanced_high": balanced.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _against(
    controls: Float[np.ndarray, "place draw"], scores: Float[np.ndarray, " place"], level: float
) -> pd.DataFrame:
    """The control beside the score; p is the rank among the draws of all places together, which differ by place."""
    low, high = np.quantile(controls, [(1 - level) / 2, (1 + level) / 2], axis=1)
    as_good = (controls.ravel() >= scores[:, None] - 1e-12).sum(1)
    p = (as_good + 1) / (controls.size + 1)
    fdr = false_discovery(p)
    mean = controls.mean(1)
    return pd.DataFrame(
        {
            "control": mean,
            "control_low": low,
            "control_high": high,
            "selectivity": scores - mean,
            "p": p,
            "fdr": fdr,
            "found": fdr <= RATE,
        }
    )


def _baseline(others: Cells, places: Sequence[Place], question: Question, probe: BaseEstimator) -> list[float]:
    splits = question.splits(question.labels)
    known: dict[int, float] = {}
    for X in others.values():
        if id(X) not in known:
            predicted = out_of_fold(probe, X, question.labels, splits)
            known[id(X)] = float(hits(question, question.labels, predicted).mean())
    return [known[id(others[place])] for place in places]
