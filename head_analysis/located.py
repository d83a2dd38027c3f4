"""Which objects every head found in the images, beside what chance and a fixed gaze would have found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.evidence import false_discovery
from headscope.scores import HeadScores
from headscope.tables import html_table


@dataclass(frozen=True)
class Localisation:
    """Which words' objects every head found, and what chance and a fixed gaze would have found."""

    words: pd.DataFrame
    """A row a word: its sample, category, step, how many of how many image tokens lie in its box, and their share."""
    found: Float[Tensor, "word layer head"]
    """1 where the head's best image token lies in the word's box, else 0; NaN for heads that do not exist."""
    elsewhere: Float[Tensor, "word layer head"]
    """Share of boxes of words about other images that the token lies in; NaN where there is no other image."""
    meta: Mapping[str, Any]

    def scores(self) -> HeadScores:
        """Share of a sample's words found, one value a sample, since words about one image are not independent."""
        return HeadScores(self._by_sample(self.found), "share of object words located", self.meta)

    @property
    def chance(self) -> float:
        """Share that a head reaches which looks anywhere, mean over samples."""
        return float(self.words.groupby("sample")["chance"].mean().mean())

    def table(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """A row a head, best first: its share with interval, chance, elsewhere, n, and p against chance.

        p is one-sided, from flipping the signs of the samples' differences from chance at random; `p_adjusted` corrects
        it for the number of heads (Benjamini-Hochberg).
        """
        scores = self.scores()
        table = scores.to_dataframe(level=level)[["name", "layer", "head", "value", "low", "high", "n"]]
        chance = torch.tensor(self.words.groupby("sample")["chance"].mean().tolist(), dtype=torch.float64)
        apart = scores.samples[:, scores.exists].double() - chance[:, None]
        p = _sign_flips(apart.numpy(), resamples, seed)
        elsewhere = self._by_sample(self.elsewhere).mean(0)[scores.exists]
        more = {
            "chance": self.chance,
            "elsewhere": elsewhere.tolist(),
            "words": len(self.words),
            "p": p,
            "p_adjusted": false_discovery(p),
        }
        return (
            table.assign(**more).rename(columns={"value": "share"}).sort_values("share", ascending=False, kind="stable")
        )

    def __repr__(self) -> str:
        return f"Localisation({self.meta.get('model', '')!r}, {len(self.words)} words, chance {self.chance:.3f})"

    def plot(self) -> Any:
        """Heatmap of `scores()`, layer by head."""
        return self.scores().plot()

    def _repr_html_(self) -> str:
        table = self.table().drop(columns=["layer", "head"]).head(10)
        return html_table(table, f"words whose object a head looks at, {self.meta.get('model', '')}: best heads")

    def _by_sample(self, values: Float[Tensor, "word layer head"]) -> Float[Tensor, "sample layer head"]:
        sample = torch.tensor(self.words["sample"].tolist())
        return torch.stack([values[sample == one].mean(0) for one in sample.unique()])


def _sign_flips(apart: Float[np.ndarray, "sample head"], resamples: int, seed: int) -> Float[np.ndarray, " head"]:
    """One-sided p that the mean lies above 0."""
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(resamples, len(apart)))
    as_high = (signs @ apart >= apart.sum(0) - 1e-9).sum(0)
    return (as_high + 1) / (resamples + 1)
