"""Which heads to calibrate: one head at a time on samples for calibration, and those are kept that it does not hurt.

The offline half of ACT (Yu et al. 2024, arXiv 2406.15765): heads are chosen once, on data of their own, and calibrated
together on what comes after. The gain of a head is the change in accuracy when it alone is calibrated, averaged over data
sets with equal weight; its standard error is that of a bootstrap over samples within each data set. The rule by which
the authors chose is not in their code. Two are offered: `harmless` keeps a head unless its gain is below zero by more
than the error, `helpful` keeps it if its gain is above zero by more than the error. Were all gains chance, about 84 % of
the heads would pass the first and 16 % the second, so look at the stability before the list; and a head that changes no
answer at all is harmless, and never helpful.

What is kept was chosen for these samples: judge it on others, beside random heads of equal number and equal layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from experiments.filtering.choosing import choice_scores
from headscope.errors import UsageError
from headscope.evidence import bootstrap_means
from headscope.heads import Head, parse_heads
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.runs import Run
from headscope.sharing import do_cells
from headscope.tables import html_table
from interventions.act import ACT
from tasks.choices import ChoiceTask
from tasks.manifest import digest, item_rows

KeepRule = Literal["harmless", "helpful"]
_HALVINGS = 50
_NONE = "no head"


class Stability(NamedTuple):
    """Mean Jaccard index of kept sets; 1 is a set that never changes."""

    resamples: float
    """The kept heads against those of bootstrap resamples."""
    halves: float
    """Heads kept on one half of the samples against those on the other."""
    chance: float
    """Random sets of as many heads against each other."""


@dataclass(frozen=True)
class HeadFilter:
    """The gain of every head on every data set.

    `gains` maps a data set to the change in score [head sample] when one head is calibrated, against none.
    """

    heads: tuple[Head, ...]
    gains: Mapping[str, Float[np.ndarray, "head sample"]]
    rule: KeepRule = "harmless"
    resamples: int = 500
    seed: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """A row a head: layer, head, name, gain, its standard error, whether it is kept, the gain on each data set."""
        gain, error, kept = self._judged(list(self.gains.values()))
        layer, head = zip(*self.heads, strict=True)
        rows = {
            "layer": layer,
            "head": head,
            "name": list(map(str, self.heads)),
            "gain": gain,
            "se": error,
            "kept": kept,
        }
        return pd.DataFrame(rows | {f"gain, {name}": gains.mean(1) for name, gains in self.gains.items()})

    @property
    def kept(self) -> tuple[Head, ...]:
        """The heads kept, by layer: `ACT(heads=found.kept)`."""
        return tuple(
            head for head, keep in zip(self.heads, self._judged(list(self.gains.values()))[2], strict=True) if keep
        )

    def stability(self) -> Stability:
        """How much of the kept set another set of samples would keep; halves are drawn 50 times within data sets."""
        gains = list(self.gains.values())
        _, error, kept = self._judged(gains)
        again = [self._passes(drawn, error) for drawn in _mean_draws(gains, self.resamples, self.seed)]
        rng = np.random.default_rng(self.seed)
        halves = []
        for _ in range(_HALVINGS):
            orders = [rng.permutation(one.shape[1]) for one in gains]
            parts = [[one[:, order[part::2]] for one, order in zip(gains, orders, strict=True)] for part in (0, 1)]
            halves.append(_jaccard(*(self._judged(part)[2] for part in parts)))
        chance = [_jaccard(rng.permutation(kept), rng.permutation(kept)) for _ in range(self.resamples)]
        return Stability(*(float(np.mean(one)) for one in ([_jaccard(kept, other) for other in again], halves, chance)))

    def __repr__(self) -> str:
        return f"HeadFilter({len(self.heads)} heads, {len(self.kept)} {self.rule}, {', '.join(self.gains)})"

    def _repr_html_(self) -> str:
        best = self.table.sort_values("gain", ascending=False, kind="stable").drop(columns=["layer", "head"]).head(10)
        caption = f"gain of calibrating one head: top {len(best)} of {len(self.heads)}, {len(self.kept)} {self.rule}"
        return html_table(best, caption)

    def _judged(self, gains: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, " head"]]:
        gain = np.mean([one.mean(1) for one in gains], 0)
        error = _mean_draws(gains, self.resamples, self.seed).std(0)
        return gain, error, self._passes(gain, error)

    def _passes(self, gain: np.ndarray, error: np.ndarray) -> np.ndarray:
        return gain >= -error if self.rule == "harmless" else gain > error


def filter_heads(
    model: HookedModel,
    tasks: Mapping[str, ChoiceTask],
    *,
    act: ACT | None = None,
    heads: "str | Sequence[Head | str | tuple[int, int]] | None" = None,
    rule: KeepRule = "harmless",
    seed: int = 0,
    batch_tokens: int = 8192,
    run: Run | None = None,
    progress: bool = False,
) -> HeadFilter:
    """The gain of calibrating each head alone, on every task (name -> samples for calibration).

    `act` says how heads are calibrated; its own heads and layers are the candidates unless `heads` are given. With a
    `run`, every finished head is kept there and not computed again; UsageError if what is kept was asked differently.
    Costs one scoring of all samples a head.
    """
    if not tasks or rule not in get_args(KeepRule):
        raise UsageError(
            f"{len(tasks)} tasks and rule {rule!r} were given; give at least one task, and a rule of "
            f"{', '.join(get_args(KeepRule))}"
        )
    act = ACT() if act is None else act
    candidates = _candidates(model, act) if heads is None else parse_heads(heads)
    if not candidates:
        raise UsageError("no head is left to calibrate; give heads=, or an ACT with layers of the model")
    asked = digest([repr(replace(act, heads=None, layers=None)), model.name, *_items(model, tasks)])
    edits = {_NONE: (), **{str(head): (replace(act, heads=(head,), layers=None),) for head in candidates}}

    def do(keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        for key in keys:
            with model.hooks(*edits[key]):
                parts = [
                    choice_scores(model, task, batch_tokens=batch_tokens).assign(task=name)
                    for name, task in tasks.items()
                ]
            yield key, pd.concat(parts, ignore_index=True).assign(head=key, asked=asked)

    with progress_bar(len(edits), "heads", shown=progress) as update:

        def note(key: str, table: pd.DataFrame) -> None:
            if run is not None and set(table["asked"]) != {asked}:
                raise UsageError(
                    f"{run.path} holds {key!r} for another model, operator or other samples; ask the same ones, or "
                    "start a run in another folder"
                )
            update(1)

        tables = do_cells(run, list(edits), do, columns=("task", "score", "asked"), update=note)
    found = {
        key: {name: part["score"].to_numpy(float) for name, part in table.groupby("task", sort=False)}
        for key, table in tables.items()
    }
    gains = {name: np.stack([found[str(head)][name] - found[_NONE][name] for head in candidates]) for name in tasks}
    return HeadFilter(candidates, gains, rule, seed=seed)


def _candidates(model: HookedModel, act: ACT) -> tuple[Head, ...]:
    """The heads that the operator would calibrate, all together."""
    where = act.prepared(model).where
    return tuple(head for head in model.heads() if head.head in where.heads_at(head.layer, model.n_heads))


def _items(model: HookedModel, tasks: Mapping[str, ChoiceTask]) -> list[object]:
    return [
        [name, task.rule, item_rows(samples), [list(sample.meta["options"]) for sample in samples]]
        for name, task in tasks.items()
        for samples in [task.samples(model.processor if getattr(task, "sees_images", False) else model.tokenizer)]
    ]


def _mean_draws(
    gains: Sequence[Float[np.ndarray, "head _"]], resamples: int, seed: int
) -> Float[np.ndarray, "resample head"]:
    """Mean gain of every head in bootstrap resamples of the samples of each data set."""
    return np.mean([bootstrap_means(one.T, resamples=resamples, seed=seed + i) for i, one in enumerate(gains)], 0)


def _jaccard(a: Bool[np.ndarray, " head"], b: Bool[np.ndarray, " head"]) -> float:
    """Shared heads over heads in either; 1 for two empty sets."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0
