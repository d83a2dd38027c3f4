"""Probes of several sets, sites and seeds, one cell each, and what is said of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from experiments.probing.cells import keep_probe, read_probe
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.progress import with_progress
from headscope.runs import Run
from probes import (
    AttentiveProbe,
    LinearProbe,
    MassMeanProbe,
    ProbeResult,
    RidgeProbe,
    description_length,
    features,
    probe_heads,
    probe_layers,
)
from probes.controls import Control
from probes.features import FeatureSite
from probes.layers import BASELINES, Baseline
from probes.places import Pick, Position
from tasks.labelled import Labelled

Kind = Literal["auto", "linear", "mass-mean", "attentive", "ridge"]
By = Literal["layer", "head"]


@dataclass(frozen=True)
class Plan:
    """How every set is probed; `seeds` decide folds, controls and baselines, not the set."""

    by: By = "layer"
    sites: tuple[FeatureSite, ...] = ("resid_post",)
    position: Position = "last"
    mark: str | None = None
    layers: tuple[int, ...] | None = None
    stack: str | None = None
    kind: Kind = "auto"
    control: Control = "shuffled"
    baselines: tuple[Baseline, ...] = BASELINES
    folds: int = 5
    draws: int = 20
    bits: bool = False
    """Whether the description length of the labels is worked out as well."""
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.by == "head" and self.sites != ("z",):
            raise UsageError(
                f"heads are probed at z, not at {', '.join(self.sites)}; leave --site out, or use --by layer"
            )
        if self.folds < 2 or self.draws < 1:
            raise UsageError(f"folds is {self.folds} and draws is {self.draws}; give at least 2 folds and 1 draw")

    def keys(self, names: Sequence[str]) -> list[tuple[str, str, FeatureSite, int]]:
        """Key, set, site and seed of every cell."""
        cells = product(names, self.sites, self.seeds)
        return [(f"{name} {site} seed {seed}", name, site, seed) for name, site, seed in cells]

    def fits(self, places: int) -> int:
        """Fits of a probe that one cell takes, about."""
        return places * self.folds * (self.draws + 1 + ("untrained" in self.baselines)) + self.folds


def probe_sets(
    model: HookedModel,
    sets: Mapping[str, Labelled],
    plan: Plan,
    *,
    run: Run | None = None,
    batch_tokens: int = 8192,
    jobs: int = 1,
    progress: bool = False,
) -> dict[str, ProbeResult]:
    """A result for every set, site and seed; those that the run holds already are read, the others kept in it."""
    cells = plan.keys(tuple(sets))
    if run is not None:
        run.plan("probes", [key for key, *_ in cells], {})
    found = {}
    for key, name, site, seed in with_progress(cells, "probes", shown=progress):
        if run is not None and run.finished_cell(key) is not None:
            found[key] = read_probe(run, key)
            continue
        found[key] = _probed(model, sets[name], plan, site, seed, batch_tokens=batch_tokens, jobs=jobs)
        if run is not None:
            keep_probe(run, key, found[key])
    return found


def all_rows(found: Mapping[str, ProbeResult]) -> pd.DataFrame:
    """The tables of all results, one below the other, with the key in front."""
    return pd.concat([one.table.assign(probe=key) for key, one in found.items()], ignore_index=True).pipe(
        lambda table: table[["probe", *(name for name in table if name != "probe")]]
    )


def over_seeds(found: Mapping[str, ProbeResult]) -> pd.DataFrame:
    """For every set, site and place: mean, least and greatest score over seeds, and how often it was found."""
    rows = []
    for key, result in found.items():
        where = result.table["name"] if "name" in result.table else result.table["layer"].map("layer {}".format)
        part = pd.DataFrame({"place": where, "score": result.table[result.measure], "found": result.table["found"]})
        rows.append(part.assign(probe=key.rsplit(" seed ", 1)[0]))
    grouped = pd.concat(rows).groupby(["probe", "place"], sort=False)
    table = grouped["score"].agg(["mean", "min", "max", "count"]).rename(columns={"count": "seeds"})
    return table.assign(found=grouped["found"].sum()).reset_index()


def _probed(
    model: HookedModel, asked: Labelled, plan: Plan, site: FeatureSite, seed: int, *, batch_tokens: int, jobs: int
) -> ProbeResult:
    probe, groups = _estimator(plan.kind, seed), asked.groups or None
    read: dict[str, Any] = {
        "position": plan.position,
        "mark": plan.mark,
        "layers": plan.layers,
        "stack": plan.stack,
        "batch_tokens": batch_tokens,
    }
    settings: dict[str, Any] = {
        **read,
        "probe": probe,
        "control": plan.control,
        "baselines": plan.baselines,
        "groups": groups,
        "folds": plan.folds,
        "draws": plan.draws,
        "seed": seed,
        "jobs": jobs,
    }
    samples, labels = list(asked.samples), list(asked.labels)
    if plan.by == "head":
        result = probe_heads(model, samples, labels, **settings)
    else:
        result = probe_layers(model, samples, labels, site=site, **settings)
    if not plan.bits:
        return result
    again = features(model, samples, site=site, **read)
    cells = again.by_head() if plan.by == "head" else again.by_layer()
    for place, X in cells.items():  # noqa: N806 -- as scikit-learn calls it
        length = description_length(X, labels, probe=probe, groups=groups, seed=seed)
        row = result.places.index(place)
        result.table.loc[row, "bits"] = length.bits
        result.table.loc[row, "compression"] = length.compression
        result.table.loc[row, "control_compression"] = length.control_compression
    return result


def _estimator(kind: Kind, seed: int) -> BaseEstimator | None:
    if kind == "auto":
        return None
    if kind == "attentive":
        return AttentiveProbe(seed=seed)
    return {"linear": LinearProbe, "mass-mean": MassMeanProbe, "ridge": RidgeProbe}[kind]()


def parse_position(text: str) -> Position:
    """`last`, `mean`, `all`, or a number of a token; UsageError otherwise."""
    if text in get_args(Pick):
        return text  # type: ignore[return-value]
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"--position {text!r} is not known; use last, mean, all or a number, counted from the end if negative"
        ) from None


def best_of(found: Mapping[str, ProbeResult]) -> list[dict[str, Any]]:
    """The best place of every result, for a first look."""
    rows = []
    for key, one in found.items():
        row = one.table.loc[int(np.argmax(one.table[one.measure].to_numpy()))]
        where = row.get("name", f"layer {row['layer']}")
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append(
            {
                "probe": key,
                "best": where,
                one.measure: f"{row[one.measure]:.3f}",
                "95 % interval": interval,
                "control": f"{row['control']:.3f}",
                "selectivity": f"{row['selectivity']:+.3f}",
                "found": f"{int(one.table['found'].sum())} of {len(one.table)}",
            }
        )
    return rows
