"""Ablation sweeps: every head (or pair, layer, group) taken out in turn, and what that does to the answer's logits.

The effect of a unit on a sample is the metric without it minus the metric of the whole model: below 0 for a unit that the
answer needs, if more of the metric is better. All values are exact; what makes them cheap is in `experiments.ablated`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from experiments.ablated import Ablation, Ablator
from experiments.answer_metrics import answers_of, measured
from experiments.units import Unit
from headscope.encoding import pad_left
from headscope.errors import HeadscopeError, UnsupportedModelError, UsageError
from headscope.evidence import false_discovery, paired_difference
from headscope.hooks import Record
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Sample, batches
from headscope.scores import HeadScores

Metric = Literal["logit_difference", "probability", "kl", "loss"]
"""`logit_difference`: logit of the right answer's first token minus that of the wrong one's. `probability`: of the right
answer's first token. `kl`: KL(clean || ablated) of the next-token distributions, nats. `loss`: mean loss of the answer's
tokens under teacher forcing, nats."""


@dataclass(frozen=True)
class Sweep:
    """A row for each unit and sample: `unit`, `sample`, `clean`, `value` and `effect` (value - clean)."""

    table: pd.DataFrame
    units: tuple[Unit, ...]
    metric: Metric
    meta: Mapping[str, Any] = field(default_factory=dict)

    def scores(self) -> HeadScores:
        """Effects of single heads, NaN for heads that were not swept; UsageError if no unit is a single head."""
        single = [unit for unit in self.units if len(unit.heads) == 1]
        if not single:
            raise UsageError("no unit of this sweep is a single head; look at summary() instead")
        wide = self.table.pivot(index="sample", columns="unit", values="effect")
        layers, heads = (1 + max(unit.heads[0][i] for unit in single) for i in (0, 1))
        samples = torch.full((len(wide), layers, heads), torch.nan)
        for unit in single:
            samples[:, unit.heads[0].layer, unit.heads[0].head] = torch.tensor(wide[unit.name].to_numpy(np.float32))
        return HeadScores(samples, f"effect on {self.metric}", self.meta)

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """A row for each unit, largest effect first: mean effect, interval over samples, n, p, and q over all units.

        p is that of the paired difference from the whole model; q its false-discovery rate (Benjamini-Hochberg).
        """
        rows = []
        for name, part in self.table.groupby("unit", sort=False):
            found = paired_difference(part["value"].to_numpy(), part["clean"].to_numpy(), level=level)
            rows.append(
                {"unit": name, "effect": found.mean, "low": found.low, "high": found.high, "n": len(part), "p": found.p}
            )
        table = pd.DataFrame(rows)
        table["q"] = false_discovery(table["p"].to_numpy(float))
        return table.sort_values("effect", key=lambda effects: -effects.abs(), kind="stable").reset_index(drop=True)


@runtime_checkable
class Runner(Protocol):
    """What gives the logits of a batch without each unit."""

    def logits(
        self, inputs: Mapping[str, Tensor], units: Sequence[Unit], *, wanted: int
    ) -> Iterator[tuple[Unit | None, Tensor]]:
        """Logits of the last `wanted` columns, of the whole model (None) and without each unit."""


@dataclass(frozen=True)
class HookedRunner:
    """One whole pass a unit: for models whose passes cannot be taken up in the middle, and the reference of the other."""

    model: HookedModel
    ablation: Ablation

    def logits(
        self, inputs: Mapping[str, Tensor], units: Sequence[Unit], *, wanted: int
    ) -> Iterator[tuple[Unit | None, Tensor]]:
        """Logits of the last `wanted` columns, of the whole model (None) and without each unit."""
        for unit in (None, *units):
            with torch.no_grad(), self.model.hooks(*([self.ablation.of(unit.heads)] if unit else [])):
                places = self.model.positions_of(inputs["attention_mask"])
                found = self.model.hf(**inputs, **places, logits_to_keep=wanted, use_cache=False).logits[:, -wanted:]
            yield unit, found


def runner_for(model: HookedModel, ablation: Ablation) -> Runner:
    """The fast runner where the model allows it, else the one that runs whole passes."""
    try:
        return Ablator(model, ablation)
    except UnsupportedModelError:
        return HookedRunner(model, ablation)


def run_sweep(
    model: HookedModel,
    samples: Sequence[Sample],
    units: Sequence[Unit],
    *,
    metric: Metric = "probability",
    ablation: Ablation | None = None,
    batch_tokens: int = 2048,
    run: Run | None = None,
    part: str = "",
    runner: Runner | None = None,
    progress: bool = False,
) -> Sweep:
    """The effect of every unit on every sample.

    With a `run`, what is done of a batch for the units that begin in one layer is kept there as one cell, and not done
    again; `part` names this share of the units where several processes work on one run. Raises UsageError for samples
    without the answers that the metric needs, HeadscopeError for logits that are not finite, naming the layer.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"metric {metric!r} is not known; use one of {', '.join(get_args(Metric))}")
    if not samples or not units:
        raise UsageError(
            f"{len(samples)} samples and {len(units)} units were given; a sweep needs at least one of each"
        )
    ablation = ablation or Ablation()
    runner = runner or runner_for(model, ablation)
    asked = [_Asked.of(model, sample, metric) for sample in samples]
    layers = sorted({unit.first for unit in units})
    tables = []
    chunks = list(batches(range(len(samples)), lambda i: len(asked[i].ids), batch_tokens))
    with tqdm(total=len(chunks) * len(units), desc="ablating", disable=None if progress else True) as bar:
        for number, (places, _) in enumerate(chunks):
            keys = {layer: f"{part}batch {number}, from layer {layer}" for layer in layers}
            done = {layer for layer in layers if run is not None and run.has_cell(keys[layer])}
            tables += [run.cell(keys[layer]) for layer in sorted(done)] if run is not None else []
            left = [unit for unit in units if unit.first not in done]
            bar.update(len(units) - len(left))
            for layer, table in _measured(model, runner, samples, asked, places, left, metric, bar):
                if run is not None:
                    run.save_cell(keys[layer], table)
                tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    meta = {"model": model.name, "revision": model.revision, "mode": ablation.mode, "seed": ablation.seed}
    return Sweep(table.assign(effect=table["value"] - table["clean"]), tuple(units), metric, meta)


@dataclass(frozen=True)
class _Asked:
    """What of one sample is run, and how many of its last logits are wanted."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def of(cls, model: HookedModel, sample: Sample, metric: Metric) -> "_Asked":
        prompt = model.tokens(sample).ids
        if metric != "loss":
            return cls(prompt, ())
        answer = model.tokenizer(sample.target, add_special_tokens=False).input_ids
        if not answer:
            raise UsageError(
                f"the sample {sample.prompt[-40:]!r} has no target whose loss could be measured; give it one"
            )
        return cls((*prompt, *answer[:-1]), tuple(answer))


def _measured(
    model: HookedModel,
    runner: Runner,
    samples: Sequence[Sample],
    asked: Sequence[_Asked],
    places: Sequence[int],
    units: Sequence[Unit],
    metric: Metric,
    bar: Any,
) -> Iterator[tuple[int, pd.DataFrame]]:
    """A table for the units of each layer, as soon as they are done."""
    if not units:
        return
    mine = [asked[i] for i in places]
    inputs = {
        name: value.to(model.device) for name, value in pad_left([one.ids for one in mine], model.processor).items()
    }
    wanted = max(1, *(len(one.answer) for one in mine)) if mine else 1
    measure = _Measure(model, [samples[i] for i in places], mine, metric)
    found = runner.logits(inputs, units, wanted=wanted)
    _, whole = next(found)
    _refuse_infinite(model, whole, inputs, None)
    clean = measure(whole, whole)
    rows: dict[int, list[pd.DataFrame]] = {}
    expected = {layer: sum(unit.first == layer for unit in units) for layer in {unit.first for unit in units}}
    for unit, logits in found:
        assert unit is not None  # the whole model comes first, and once
        _refuse_infinite(model, logits, inputs, unit)
        value = measure(logits, whole).double().numpy()
        table = pd.DataFrame(
            {"unit": unit.name, "sample": list(places), "clean": clean.double().numpy(), "value": value}
        )
        rows.setdefault(unit.first, []).append(table)
        bar.update(1)
        if len(rows[unit.first]) == expected[unit.first]:
            yield unit.first, pd.concat(rows.pop(unit.first), ignore_index=True)


class _Measure:
    """The metric of a batch's logits."""

    def __init__(self, model: HookedModel, samples: Sequence[Sample], asked: Sequence[_Asked], metric: Metric) -> None:
        self._metric, self._asked = metric, asked
        self._answers = None if metric == "loss" else answers_of(model, samples, samples, metric)

    def __call__(
        self, logits: Float[Tensor, "sample wanted vocab"], clean: Float[Tensor, "sample wanted vocab"]
    ) -> Float[Tensor, " sample"]:
        if self._answers is not None and self._metric != "loss":
            return measured(self._metric, logits[:, -1], clean[:, -1], self._answers)
        return torch.stack([_loss(row, one.answer) for row, one in zip(logits, self._asked, strict=True)]).cpu()


def _loss(logits: Float[Tensor, "wanted vocab"], answer: Sequence[int]) -> Tensor:
    target = torch.tensor(answer, device=logits.device)
    return torch.nn.functional.cross_entropy(logits[-len(answer) :].float(), target)


@torch.no_grad()
def _refuse_infinite(model: HookedModel, logits: Tensor, inputs: Mapping[str, Tensor], unit: Unit | None) -> None:
    if logits.isfinite().all():
        return
    record = Record("resid_post")
    with model.hooks(record):
        model.hf(**inputs, **model.positions_of(inputs["attention_mask"]))
    bad = [layer for layer in sorted(record.seen) if not record.seen[layer][0].isfinite().all()]
    where = (
        f"the state after layer {bad[0]} is the first that is not finite" if bad else "every layer's state is finite"
    )
    without = f" without {unit.name}" if unit else ""
    raise HeadscopeError(
        f"{model.name} gives logits that are not finite{without} ({where}); try --dtype float32, and check the weights"
    )
