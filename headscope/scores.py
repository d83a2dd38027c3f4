"""HeadScores: a number for every head and sample, what an analysis returns and what heads are chosen by."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from headscope.draws import Match, draw_heads
from headscope.errors import UsageError
from headscope.evidence import bootstrap_means, mean_interval
from headscope.files import json_text, write_new
from headscope.heads import Head, parse_heads
from headscope.tables import html_table

if TYPE_CHECKING:
    import xarray
    from plotly.graph_objects import Figure

SCHEMA = 1
"""Version of the file that `HeadScores.save` writes."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """Per-sample values of every head; averages are views of them.

    `metric` is the name and unit. `meta` says where the values come from: model, revision, task, seed, template and
    whatever else JSON can hold. NaN in every sample marks a head that does not exist, as in hybrid models; a head that
    is NaN in some samples only raises UsageError.
    """

    samples: Float[Tensor, "sample layer head"]
    metric: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples.ndim != 3 or not self.samples.is_floating_point() or 0 in self.samples.shape:
            raise UsageError(
                f"head scores are a float tensor [sample layer head] with at least one of each, "
                f"not {self.samples.dtype} {list(self.samples.shape)}"
            )
        # Results are read on the CPU, wherever the model ran.
        object.__setattr__(self, "samples", self.samples.detach().cpu())
        missing = self.samples.isnan().sum(0)
        for layer, head in ((missing > 0) & (missing < self.n)).nonzero().tolist():
            raise UsageError(
                f"{Head(layer, head)} is NaN in {missing[layer, head]} of {self.n} samples; leave those samples out, "
                "or make it NaN in all of them if the head does not exist"
            )

    def __repr__(self) -> str:
        layers, heads = self.samples.shape[1:]
        return f"HeadScores({self.metric!r}, {layers} layers x {heads} heads, n = {self.n})"

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def values(self) -> Float[Tensor, "layer head"]:
        """Mean over samples."""
        return self.samples.mean(0, dtype=torch.promote_types(self.samples.dtype, torch.float32))

    def __getitem__(self, place: "int | slice | str | Head | tuple[int | slice, int | slice]") -> Tensor:
        """Means by layer and head, as the tensor `values` gives them: `scores[5, 3]`, `scores["L5H3"]`, `scores[5]`."""
        return self.values[Head.parse(place) if isinstance(place, str) else place]

    @property
    def exists(self) -> Bool[Tensor, "layer head"]:
        """Whether there is such a head."""
        return ~self.samples[0].isnan()

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads there are, by layer."""
        return tuple(Head(layer, head) for layer, head in self.exists.nonzero().tolist())

    def top(self, k: int) -> tuple[Head, ...]:
        """The k heads of largest mean, best first; equal means are ordered by layer, then head."""
        ranked = self._ranked()
        if not 0 <= k <= len(ranked):
            raise UsageError(f"k is {k}, but there are {len(ranked)} heads; use a k from 0 to {len(ranked)}")
        return ranked[:k]

    def above(self, threshold: float) -> tuple[Head, ...]:
        """The heads whose mean is at least the threshold, best first."""
        values = self.values
        return tuple(head for head in self._ranked() if values[head] >= threshold)

    def random(
        self, k: int, *, seed: int, exclude: Iterable[Head | str | tuple[int, int]] = (), match: Match = "layer"
    ) -> tuple[Head, ...]:
        """Draw k heads as a control for the heads in `exclude`, and none of those; the same seed, the same draw.

        `layer` draws as many from each layer as `exclude` has there, `free` over all layers. UsageError where too few
        heads are left, naming the layer.
        """
        heads, excluded = self.heads, parse_heads(exclude)
        strange = [head for head in excluded if head not in heads]
        if strange:
            layers, width = self.samples.shape[1:]
            raise UsageError(
                f"{strange[0]} is to be excluded, but there is no such head in these {layers} layers x {width} heads"
            )
        return draw_heads(heads, k, seed=seed, exclude=excluded, match=match)

    def interval(
        self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
        """Low and high end of the interval of each mean over samples; see `evidence.mean_interval`."""
        ends = mean_interval(self.samples[:, self.exists], level=level, resamples=resamples, seed=seed)
        low, high = (self._grid(torch.from_numpy(end)) for end in ends)
        return low, high

    def activation_frequency(self) -> Float[Tensor, "layer head"]:
        """Share of samples in which the score is above 0; NaN for a head that does not exist."""
        return self._grid((self.samples > 0).double().mean(0)[self.exists])

    def correlation(self, other: "HeadScores") -> float:
        """Pearson correlation of the two sets of means, over the heads that both have."""
        both = self._shared(other)
        a, b = (scores.values[both].double().numpy() for scores in (self, other))
        if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
            raise UsageError(
                f"no correlation over {len(a)} shared heads: it needs at least two, with means that differ"
            )
        return float(np.corrcoef(a, b)[0, 1])

    def overlap(self, other: "HeadScores", k: int) -> float:
        """Jaccard index of the two top-k sets: shared heads over heads in either."""
        self._shared(other)
        _check_some(k)
        mine, theirs = set(self.top(k)), set(other.top(k))
        return len(mine & theirs) / len(mine | theirs)

    def stability(self, k: int, *, resamples: int = 200, seed: int = 0) -> float:
        """Mean overlap of the top k with the top k of bootstrap draws over samples; 1 is a ranking that never moves."""
        _check_some(k)
        heads = self.heads
        best = [heads.index(head) for head in self.top(k)]
        means = bootstrap_means(self.samples[:, self.exists], resamples=resamples, seed=seed)
        drawn = np.argsort(-means, axis=1, kind="stable")[:, :k]
        shared = np.isin(drawn, best).sum(1)
        return float((shared / (2 * k - shared)).mean())

    def to_dataframe(self, *, level: float = 0.95) -> pd.DataFrame:
        """The head-score table, one row a head; model, revision, seed and template come from `meta`."""
        low, high = self.interval(level=level)
        heads, at = self.heads, self.exists
        return pd.DataFrame(
            {
                "model": self.meta.get("model"),
                "revision": self.meta.get("revision"),
                "layer": [head.layer for head in heads],
                "head": [head.head for head in heads],
                "name": [str(head) for head in heads],
                "metric": self.metric,
                "value": self.values[at].double().tolist(),
                "low": low[at].tolist(),
                "high": high[at].tolist(),
                "n": self.n,
                "seed": self.meta.get("seed"),
                "template": self.meta.get("template"),
            }
        )

    def to_xarray(self) -> "xarray.DataArray":
        """The samples with named dimensions sample, layer and head; needs the extra `headscope[xarray]`."""
        try:
            from xarray import DataArray
        except ImportError as error:
            raise UsageError("to_xarray needs xarray; install it with: pip install 'headscope[xarray]'") from error
        kind = torch.promote_types(self.samples.dtype, torch.float32)
        values = self.samples.to(kind)
        coords = {name: range(size) for name, size in zip(("sample", "layer", "head"), values.shape, strict=True)}
        return DataArray(values.numpy(), coords, ("sample", "layer", "head"), self.metric, dict(self.meta))

    def save(self, path: str | Path) -> None:
        """A safetensors file of the samples, metric and meta; UsageError if the file exists."""
        about = json_text({"schema": SCHEMA, "metric": self.metric, "meta": self.meta}, "scores")
        content = save({"samples": self.samples.contiguous()}, {"headscope": about})
        write_new(Path(path), lambda file: _write(file, content))

    @classmethod
    def load(cls, path: str | Path) -> "HeadScores":
        """The scores that `save` wrote; UsageError for a file that is missing, cut short or of another kind."""
        if not Path(path).is_file():
            raise UsageError(f"there is no file {path}; give the path of a file written by HeadScores.save")
        try:
            with safe_open(path, framework="pt") as file:
                about, samples = (file.metadata() or {}).get("headscope"), file.get_tensor("samples")
        except SafetensorError as error:
            raise UsageError(
                f"{path} is cut short or is not a file of head scores ({error}); give one written by HeadScores.save"
            ) from error
        if about is None:
            raise UsageError(
                f"{path} is a safetensors file but holds no head scores; give one written by HeadScores.save"
            )
        facts = json.loads(about)
        if facts["schema"] > SCHEMA:
            raise UsageError(
                f"{path} has schema {facts['schema']}, this headscope reads up to {SCHEMA}; update headscope"
            )
        return cls(samples, facts["metric"], facts["meta"])

    def plot(self, *, threshold: float | None = None) -> "Figure":
        """Heatmap of layer by head, with the heads at or above a threshold marked; see `figures.head_map`."""
        from headscope.figures import head_map

        return head_map(self, threshold=threshold)

    def _repr_html_(self) -> str:
        best = [str(head) for head in self._ranked()[:10]]
        table = self.to_dataframe().set_index("name", drop=False).loc[best, ["name", "value", "low", "high"]]
        model = self.meta.get("model")
        about = f"{self.metric}, {model}" if model else self.metric
        caption = f"{about}: top {len(best)} of {len(self.heads)} heads, n = {self.n}"
        return f'<div aria-label="{escape(caption)}">{html_table(table, caption)}</div>'

    def _ranked(self) -> tuple[Head, ...]:
        values = self.values.tolist()
        return tuple(sorted(self.heads, key=lambda head: (-values[head.layer][head.head], head)))

    def _grid(self, values: Tensor) -> Tensor:
        grid = torch.full(self.exists.shape, torch.nan, dtype=values.dtype)
        grid[self.exists] = values
        return grid

    def _shared(self, other: "HeadScores") -> Tensor:
        mine, theirs = tuple(self.samples.shape[1:]), tuple(other.samples.shape[1:])
        if mine != theirs:
            raise UsageError(
                f"these scores have {mine[0]} layers x {mine[1]} heads, the others {theirs[0]} x {theirs[1]}; only "
                "models of one shape can be compared head by head"
            )
        return self.exists & other.exists


def _check_some(k: int) -> None:
    if k < 1:
        raise UsageError(f"k is {k}; comparing top-k sets needs a k of at least 1")


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
