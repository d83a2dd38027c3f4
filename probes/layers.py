"""Where in a model something can be read: a probe for every layer, or every head, with controls that are run by default.

A number alone says little: a large probe learns labels by heart, words alone may give the answer away, and layers that
learnt nothing keep what they were given. So each score stands beside the same probe on a control (`probes.controls`),
on random projections of the embeddings of the very tokens that are read ("random"), on the same layers of the model
with fresh weights ("untrained"), and beside the most frequent class ("majority"). That something can be read does not
say that the model reads it; `interventions.Steer` and `Project` along `probe.direction()` ask that.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from sklearn.base import BaseEstimator

from headscope.errors import UsageError
from headscope.hooks import Region
from headscope.model import HookedModel
from headscope.samples import Sample
from probes.controls import Control
from probes.features import Features, FeatureSite, embeddings, features
from probes.judging import Cells, probe_features
from probes.places import Position
from probes.questions import Labels
from probes.result import ProbeResult
from probes.untrained import untrained

Baseline = Literal["random", "untrained"]
BASELINES: tuple[Baseline, ...] = ("random", "untrained")


def probe_layers(
    model: HookedModel,
    samples: Sequence[Sample | str],
    labels: Labels,
    *,
    site: FeatureSite = "resid_post",
    probe: BaseEstimator | None = None,
    position: Position = "last",
    mark: str | None = None,
    region: Region | None = None,
    layers: Iterable[int] | None = None,
    stack: str | None = None,
    control: Control = "shuffled",
    types: Labels | None = None,
    baselines: Collection[Baseline] = BASELINES,
    groups: Labels | None = None,
    folds: int = 5,
    draws: int = 20,
    level: float = 0.95,
    seed: int = 0,
    batch_tokens: int = 8192,
    jobs: int = 1,
    progress: bool = False,
) -> ProbeResult:
    """How well each layer's activations tell the labels of samples that the probe was not fitted to.

    Floats as labels are numbers (R2 of `RidgeProbe`), all others classes (accuracy of `LinearProbe`, or of
    `AttentiveProbe` for position="all"); `probe` may be any scikit-learn estimator. What is read is said by `position`,
    `mark` and `region`, as for `features`. `groups` keeps samples that share a template, a scene or a text out of one
    another's folds and intervals. `p` ranks a score among `draws` of the control in each of all layers; below 20 draws a
    layer that is found alone cannot pass the correction for many tests.

    Costs a forward pass of the samples, two with "untrained" (and the memory of a second model), and folds x (draws + 2)
    fits a layer, in `jobs` processes. UsageError for labels or groups that cannot be split, and as for `features`.
    """
    read = partial(
        features,
        samples=samples,
        site=site,
        position=position,
        mark=mark,
        region=region,
        layers=None if layers is None else tuple(layers),
        stack=stack,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    here, others = _with_baselines(model, read, Features.by_layer, baselines, seed)
    return probe_features(
        here,
        labels,
        probe=probe,
        control=control,
        types=types,
        baselines=others,
        groups=groups,
        folds=folds,
        draws=draws,
        level=level,
        seed=seed,
        jobs=jobs,
        progress=progress,
    )


def probe_heads(
    model: HookedModel,
    samples: Sequence[Sample | str],
    labels: Labels,
    *,
    probe: BaseEstimator | None = None,
    position: Position = "last",
    mark: str | None = None,
    region: Region | None = None,
    layers: Iterable[int] | None = None,
    stack: str | None = None,
    control: Control = "shuffled",
    types: Labels | None = None,
    baselines: Collection[Baseline] = BASELINES,
    groups: Labels | None = None,
    folds: int = 5,
    draws: int = 20,
    level: float = 0.95,
    seed: int = 0,
    batch_tokens: int = 8192,
    jobs: int = 1,
    progress: bool = False,
) -> ProbeResult:
    """How well what each head hands to W_O (z) tells the labels; all else as for `probe_layers`.

    `.scores()` are head scores. Costs folds x (draws + 2) fits a head: with 400 samples and the defaults about a second
    of one core at d_head = 128, so 1024 heads take 20 minutes, or a few with `jobs`.
    """
    read = partial(
        features,
        samples=samples,
        site="z",
        position=position,
        mark=mark,
        region=region,
        layers=None if layers is None else tuple(layers),
        stack=stack,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    here, others = _with_baselines(model, read, Features.by_head, baselines, seed)
    return probe_features(
        here,
        labels,
        by="head",
        probe=probe,
        control=control,
        types=types,
        baselines=others,
        groups=groups,
        folds=folds,
        draws=draws,
        level=level,
        seed=seed,
        jobs=jobs,
        progress=progress,
    )


def _with_baselines(
    model: HookedModel,
    read: Callable[[HookedModel], Features],
    split: Callable[[Features], Mapping[Any, np.ndarray]],
    baselines: Collection[Baseline],
    seed: int,
) -> tuple[Features, dict[str, Cells]]:
    """The features, and what takes their place in each baseline."""
    unknown = [name for name in baselines if name not in get_args(Baseline)]
    if unknown:
        raise UsageError(f"baseline {unknown[0]!r} is not known; use some of {', '.join(get_args(Baseline))}, or ()")
    here = read(model)
    others: dict[str, Cells] = {}
    if "random" in baselines:
        widths = {place: X.shape[-1] for place, X in split(here).items()}
        drawn = {width: embeddings(model, here, width, seed=seed) for width in set(widths.values())}
        others["random"] = {place: drawn[width] for place, width in widths.items()}
    if "untrained" in baselines:
        others["untrained"] = split(read(untrained(model, seed=seed)))
    return here, others
