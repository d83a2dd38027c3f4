"""What probes found, layer by layer or head by head, beside what the same probes find where there is nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.scores import HeadScores
from headscope.tables import html_table
from probes.features import Place
from probes.measures import Name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ProbeResult:
    """Scores of probes on held-out samples, their controls and baselines, a row a layer or head.

    Columns of the table: `accuracy` (or `r2`) with the interval `low` to `high`, `balanced` accuracy with its own;
    `control` (mean over draws, and between `control_low` and `control_high` the middle of them), `selectivity` (score
    less control), `p`, `fdr` (Benjamini-Hochberg over all rows), `found` (fdr at most 0.05); the baselines `random`,
    `untrained` and `majority` (or `mean`) as far as there are any; `n` samples in `clusters` groups.
    """

    places: tuple[Place, ...]
    samples: Float[np.ndarray, "sample place"]
    """Each sample's share of the score: 1 where its class is right, 1 - squared error / variance for numbers."""
    controls: Float[np.ndarray, "place draw"]
    table: pd.DataFrame
    measure: Name
    shape: tuple[int, int]
    """Layers and heads of the model."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        best = self.table.loc[self.table[self.measure].idxmax()]
        where = best.get("name", f"layer {best['layer']}")
        return (
            f"ProbeResult({len(self.places)} {self._kind}, n = {len(self.samples)}, best {where}: {self.measure} "
            f"{best[self.measure]:.3f}, control {best['control']:.3f}, {int(self.table['found'].sum())} found)"
        )

    @property
    def found(self) -> tuple[Place, ...]:
        """The layers or heads that do better than their control at a false-discovery rate of 0.05, best first."""
        order = np.argsort(-self.table[self.measure].to_numpy(), kind="stable")
        return tuple(self.places[i] for i in order if self.table["found"].iloc[i])

    def to_dataframe(self) -> pd.DataFrame:
        """The table, with the model and what was asked in front."""
        about = {"model": self.meta.get("model"), "revision": self.meta.get("revision"), "site": self.meta.get("site")}
        return self.table.assign(**about)[[*about, *self.table.columns]]

    def scores(self) -> HeadScores:
        """The heads' scores, sample by sample, for all that takes head scores; UsageError for a result by layer."""
        if not all(isinstance(place, Head) for place in self.places):
            raise UsageError("these are scores of layers; probe heads with probe_heads to get head scores")
        grid = torch.full((len(self.samples), *self.shape), torch.nan, dtype=torch.float64)
        for column, place in enumerate(self.places):
            grid[:, place.layer, place.head] = torch.from_numpy(self.samples[:, column])  # type: ignore[union-attr]
        return HeadScores(grid, f"probe {self.measure}", self.meta)

    def plot(self) -> "Figure":
        """Layers as a line with its interval over the control's band; heads as a map."""
        from probes.figures import layer_lines

        if isinstance(self.places[0], Head):
            return self.scores().plot()
        return layer_lines(self)

    @property
    def _kind(self) -> str:
        return "heads" if isinstance(self.places[0], Head) else "layers"

    def _repr_html_(self) -> str:
        shown = self.table.sort_values(self.measure, ascending=False, kind="stable").head(10)
        first = "name" if "name" in shown else "layer"
        rest = ("low", "high", "control", "selectivity", "fdr", "random", "untrained", "majority", "mean")
        columns = [first, self.measure, *(name for name in rest if name in shown)]
        model = self.meta.get("model")
        caption = (
            f"{self.measure} of probes{f', {model}' if model else ''}: top {len(shown)} of {len(self.places)} "
            f"{self._kind}, {int(self.table['found'].sum())} found, n = {len(self.samples)}"
        )
        return f'<div aria-label="{escape(caption)}">{html_table(shown[columns], caption)}</div>'
