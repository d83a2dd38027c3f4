"""Token-VHD of words that name objects, invented and real ones, beside all other words.

He et al. 2024 (arXiv 2412.13949, section 3) find Token-VHD lower where LLaVA-1.5 names an object that is not there.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from head_analysis.object_words import Kind, ObjectWord, step_kinds
from head_analysis.vhd import VHD
from headscope.errors import UsageError


def kinds_of(vhd: VHD, words: Sequence[Iterable[ObjectWord]]) -> list[tuple[Kind, ...]]:
    """What every step of every answer does, from the object words of each answer."""
    if len(words) != len(vhd.answers):
        raise UsageError(f"words were given for {len(words)} answers, and there are {len(vhd.answers)}")
    return [step_kinds(spans, mine) for spans, mine in zip(vhd.spans, words, strict=True)]


def steps_of(kinds: Sequence[Sequence[Kind]], *chosen: Kind) -> list[list[int]]:
    """Steps of some kinds in every answer, as `VHD.at` takes them."""
    return [[step for step, kind in enumerate(mine) if kind in chosen] for mine in kinds]


def token_table(vhd: VHD, words: Sequence[Iterable[ObjectWord]], *, k: int | None = None) -> pd.DataFrame:
    """A row a step: its sample, token, kind and Token-VHD (`k` as for `VHD.token_vhd`)."""
    rows = [
        {"sample": sample, "step": step, "token": token, "kind": kind, "token_vhd": value}
        for sample, (kinds, values) in enumerate(zip(kinds_of(vhd, words), vhd.token_vhd(k), strict=True))
        for step, (token, kind, value) in enumerate(zip(vhd.tokens(sample), kinds, values.tolist(), strict=True))
    ]
    return pd.DataFrame(rows, columns=["sample", "step", "token", "kind", "token_vhd"])
