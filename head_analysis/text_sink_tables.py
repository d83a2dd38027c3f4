"""What was found of the sinks of a text model, as scores of heads and tables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from head_analysis.sink_rules import SinkRule
from head_analysis.sinks import SinkDimensions
from headscope.scores import HeadScores
from headscope.stability import split_half_agreement
from headscope.tables import html_table

START, LATER = "first token", "later sinks"
"""The two kinds of sink that are kept apart."""

_DRAWS = 20


@dataclass(frozen=True)
class TextSinks:
    """The sinks of every head on some texts. Shares and means are over all queries of a sample."""

    first: HeadScores
    """Attention on the first token, whether it is a sink or not."""
    later: HeadScores
    """Attention on sinks that are not the first token, all together."""
    first_is_sink: HeadScores
    """1 where the first token is a sink."""
    later_count: HeadScores
    """How many other tokens are sinks."""
    pairs: pd.DataFrame
    """A row for each sink of each head: sample, layer, head, place; mass (its share of the head's attention), received
    (mean attention from the queries that see it)."""
    norms: pd.DataFrame
    """A row for each sample, layer and kind of sink: norm of its residual state before the layer, and of its values in
    the heads whose sink it is, both over that of the median token; NaN where there is no such sink."""
    texts: tuple[tuple[str, ...], ...]
    """Tokens of each sample."""
    dimensions: SinkDimensions
    """Dimensions of the residual stream that are massive at the first token."""
    rule: SinkRule
    meta: Mapping[str, Any]

    @property
    def n_heads(self) -> int:
        """Heads that were read, in all layers."""
        return len(self.first.heads)

    def by_head(self) -> pd.DataFrame:
        """A row a head, by attention on sinks: its scores, means over samples."""
        names = ("first", "later", "first_is_sink", "later_count")
        at = self.first.exists
        columns = {name: getattr(self, name).values[at].double().tolist() for name in names}
        table = pd.DataFrame({"name": list(map(str, self.first.heads)), **columns})
        order = (table["first"] * table["first_is_sink"] + table["later"]).sort_values(ascending=False, kind="stable")
        return table.loc[order.index].reset_index(drop=True)

    def by_layer(self) -> pd.DataFrame:
        """A row a layer: share of (sample, head) pairs with a sink at the first token, with later ones, and how many."""
        rows = []
        for layer in sorted({head.layer for head in self.first.heads}):
            heads = [head.head for head in self.first.heads if head.layer == layer]
            first, count = (scores.samples[:, layer, heads] for scores in (self.first_is_sink, self.later_count))
            shares = {"first token": float(first.mean()), "later sinks": float((count > 0).float().mean())}
            rows.append({"layer": layer, **shares, "later sinks each": float(count.mean())})
        return pd.DataFrame(rows)

    def by_token(self) -> pd.DataFrame:
        """A row for each token that is a sink somewhere, the most frequent sinks first.

        `n`: how often it stands in the texts; `as_sink`: how many of these are a sink of some head; `heads`: share of all
        (occurrence, head) pairs in which it is one; `received`: mean attention it gets there; `place`: the commonest.
        """
        return self._shares(lambda sample, place: self.texts[sample][place], ("token", "place"), lambda _, place: place)

    def by_place(self) -> pd.DataFrame:
        """The same by place in the text; `token` is the one that is a sink there most often."""
        return self._shares(lambda _, place: place, ("place", "token"), lambda sample, place: self.texts[sample][place])

    def by_norm(self) -> pd.DataFrame:
        """A row for each layer and kind of sink: norms over those of the median token, means over samples.

        `n` samples have such a sink in the layer; the residual norm of the first token is known of all.
        """
        grouped = self.norms.groupby(["layer", "tokens"], sort=True)
        return grouped[["residual", "value"]].mean().join(grouped["value"].count().rename("n")).reset_index()

    def stability(self, k: int = 10, *, seed: int = 0) -> pd.DataFrame:
        """How far rankings of heads by one half of the texts agree with those by the other half.

        A row for attention on the first token and one for later sinks: overlap of the top k and Kendall's tau with their
        intervals over splits, and what chance gives. UsageError with fewer than two texts.
        """
        most = min(k, self.n_heads)
        rows = []
        for name, scores in ((START, self.first), (LATER, self.later)):
            found = split_half_agreement(scores, most, seed=seed)
            low, high = found.overlap_interval
            rows.append(
                {
                    "attention on": name,
                    "k": most,
                    "overlap": found.overlap,
                    "low": low,
                    "high": high,
                    "overlap by chance": most / self.n_heads,
                    "tau": found.tau,
                }
            )
        return pd.DataFrame(rows)

    def sameness(self, *, seed: int = 0) -> pd.DataFrame:
        """Whether later sinks of two texts are the same tokens, or stand at the same places: mean Jaccard index of pairs.

        `chance` is that of as many other tokens of each text, drawn at random; NaN where no two texts have later sinks.
        """
        later = self.pairs[self.pairs["place"] > 0]
        places = [sorted(set(later.loc[later["sample"] == i, "place"])) for i in range(len(self.texts))]
        rng = np.random.default_rng(seed)
        drawn = [
            [
                rng.choice(np.arange(1, len(text)), len(mine), replace=False).tolist()
                for text, mine in zip(self.texts, places, strict=True)
            ]
            for _ in range(_DRAWS)
        ]
        readings: dict[str, Callable[[int, int], object]] = {
            "token": lambda sample, place: self.texts[sample][place],
            "place": lambda _, place: place,
        }
        rows = []
        for name, reading in readings.items():
            chance = [_jaccard(one, reading) for one in drawn]
            rows.append({"same": name, "jaccard": _jaccard(places, reading), "chance": float(np.mean(chance))})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"TextSinks({self.meta.get('model', '')!r}, {self.n_heads} heads, n = {self.first.n})"

    def plot(self) -> Any:
        """Heatmap of the attention on the first token, layer by head."""
        return self.first.plot()

    def _repr_html_(self) -> str:
        about = f"attention on sinks, {self.meta.get('model', '')}, n = {self.first.n}"
        heads = html_table(self.by_head().head(10), f"{about}: top heads of {self.n_heads}")
        return heads + html_table(self.by_token().head(5), "tokens that are most often a sink")

    def _shares(
        self,
        key: Callable[[int, int], object],
        names: tuple[str, str],
        beside: Callable[[int, int], object],
    ) -> pd.DataFrame:
        stands = Counter(key(i, place) for i, text in enumerate(self.texts) for place in range(len(text)))
        where = list(zip(self.pairs["sample"], self.pairs["place"], strict=True))
        rows = self.pairs.assign(key=[key(*at) for at in where], beside=[beside(*at) for at in where])
        found = []
        for name, part in rows.groupby("key", sort=False):
            found.append(
                {
                    names[0]: name,
                    "n": stands[name],
                    "as_sink": len(part[["sample", "place"]].drop_duplicates()),
                    "heads": len(part) / (stands[name] * self.n_heads),
                    "received": float(part["received"].mean()),
                    names[1]: part["beside"].mode().iloc[0],
                }
            )
        table = pd.DataFrame(found, columns=[names[0], "n", "as_sink", "heads", "received", names[1]])
        return table.sort_values("heads", ascending=False, kind="stable").reset_index(drop=True)


def _jaccard(places: Sequence[Sequence[int]], reading: Callable[[int, int], object]) -> float:
    sets = [{reading(i, place) for place in mine} for i, mine in enumerate(places) if mine]
    pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else float("nan")
