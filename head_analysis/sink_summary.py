"""What attention sinks do in a model: which tokens, how much attention they take, and how little they hand on.

Sinks are told by their residual state (`head_analysis.sinks`), layer by layer. Kang et al. 2025 (arXiv 2503.03321,
section 4) find that visual sinks take much attention in LLaVA-1.5 and contribute little: the contribution of token j to
query i through a head is the norm of a_ij v_j W_O, what the head adds to the residual stream on its behalf.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from head_analysis.sinks import PUBLISHED, SinkDimensions
from headscope.scores import HeadScores
from headscope.tables import html_table

GROUPS = ("text sink", "image sink", "other text", "other image")
"""Kinds of key that contributions are told apart by."""


_RARE = 0.001


@dataclass(frozen=True)
class SinkReport:
    """The sinks of a model on some samples."""

    dimensions: SinkDimensions
    tokens: pd.DataFrame
    """A row for every token of every sample: its place, id, text, kind ("text" or "image"), its place among tokens of
    its kind, and in how many layers it is a sink."""
    sinks_by_layer: pd.DataFrame
    """A row a layer: mean number of text and of image tokens that are sinks."""
    mass: HeadScores
    """Attention on sinks, mean over the asked queries of a sample."""
    image_mass: HeadScores
    """Attention on image tokens that are sinks."""
    attention: Float[Tensor, "sample layer head group"]
    """Attention that a token of each of `GROUPS` gets from the last token of the prompt, mean over the tokens of the
    group; NaN where a sample has none, and for heads that do not exist."""
    contribution: Float[Tensor, "sample layer head group"]
    """The same for the norm of what the token adds to the residual stream through the head."""
    meta: Mapping[str, Any]

    def by_group(self) -> pd.DataFrame:
        """A row a group of tokens: attention and contribution of one token, and contribution a unit of attention.

        Means over heads and samples, of layers in which the group is not empty.
        """
        attention, contribution = (
            values.flatten(0, 2).double().nanmean(0) for values in (self.attention, self.contribution)
        )
        rate = contribution / attention
        columns = {"attention": attention, "contribution": contribution, "contribution_per_attention": rate}
        return pd.DataFrame({"group": GROUPS, **{name: values.tolist() for name, values in columns.items()}})

    def compared(self, group: str, other: str) -> tuple[float, float]:
        """Ratio of the attention that one token of a group gets to that of another, and of contribution to attention.

        Over those heads, layers and samples that have both groups; NaN if none has.
        """
        a, b = GROUPS.index(group), GROUPS.index(other)
        both = ~(self.attention[..., a].isnan() | self.attention[..., b].isnan())
        attention, contribution = (
            float(values[..., a][both].double().sum() / values[..., b][both].double().sum())
            for values in (self.attention, self.contribution)
        )
        return attention, contribution / attention if attention else float("nan")

    def by_token(self) -> pd.DataFrame:
        """A row a token id that is a sink somewhere: how often it stands in the samples, and how often as a sink."""
        return self._shares(["kind", "token", "text"])

    def by_place(self) -> pd.DataFrame:
        """A row a place that is a sink somewhere, counted among tokens of its kind: in how many samples it is one."""
        return self._shares(["kind", "number"])

    def overlap(self) -> dict[str, float]:
        """Mean Jaccard index of the sinks' places in two samples, by kind of token; NaN where no two have any."""
        return {kind: self._jaccard(kind) for kind in ("text", "image")}

    def checks(self) -> pd.DataFrame:
        """What the papers claim, the number found here, and whether it holds; None where it cannot be told.

        "listed dimensions" compares with `PUBLISHED` if the model's name holds one of its names.
        """
        listed = published_dims(str(self.meta["model"]))
        first = self.tokens[self.tokens["place"] == 0]["layers"].gt(0).mean()
        text, _ = self.compared("text sink", "other text")
        image, handed_on = self.compared("image sink", "other image")
        rows = [
            ("sink dimensions are found", len(self.dimensions.dims), self.dimensions.found),
            ("they stand out more than by chance", self.dimensions.chance, self.dimensions.chance < _RARE),
            ("they are the listed ones", str(listed), None if listed is None else listed == self.dimensions.dims),
            ("the first token is a sink in every sample", first, bool(first == 1)),
            ("a text sink gets more attention than other text", text, _holds(text, text > 1)),
            ("an image sink gets more attention than another image token", image, _holds(image, image > 1)),
            ("and hands on less for each unit of it", handed_on, _holds(handed_on, handed_on < 1)),
        ]
        return pd.DataFrame(rows, columns=["claim", "found", "holds"])

    def __repr__(self) -> str:
        return f"SinkReport({self.meta.get('model', '')!r}, dims {self.dimensions.dims}, n = {self.mass.n})"

    def plot(self) -> Any:
        """Heatmap of the attention on sinks, layer by head."""
        return self.mass.plot()

    def _repr_html_(self) -> str:
        return html_table(self.checks(), f"sinks of {self.meta.get('model', '')}, n = {self.mass.n}")

    def _shares(self, by: list[str]) -> pd.DataFrame:
        counted = self.tokens.assign(sink=self.tokens["layers"] > 0).groupby(by, sort=True)["sink"].agg(["size", "sum"])
        table = counted.rename(columns={"size": "n", "sum": "sinks"}).reset_index()
        table["share"] = table["sinks"] / table["n"]
        return table[table["sinks"] > 0].sort_values(["share", "sinks"], ascending=False).reset_index(drop=True)

    def _jaccard(self, kind: str) -> float:
        mine = self.tokens[(self.tokens["kind"] == kind) & (self.tokens["layers"] > 0)]
        places = [set(group["number"]) for _, group in mine.groupby("sample")]
        shared = [len(a & b) / len(a | b) for a, b in combinations(places, 2)]
        return sum(shared) / len(shared) if shared else float("nan")


def _holds(number: float, claim: bool) -> bool | None:
    return None if math.isnan(number) else claim


def published_dims(name: str) -> tuple[int, ...] | None:
    """Dimensions listed for a model whose name holds one of `PUBLISHED`; None if none fits."""
    plain = name.lower().replace("_", "-")
    return next((dims for listed, dims in PUBLISHED.items() if listed in plain), None)
