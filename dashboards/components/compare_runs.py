"""Two runs side by side."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from dashboards import cached
from dashboards.comparing import agreement, differing
from dashboards.components import address, figure, notice
from dashboards.plain import plain
from dashboards.reading import RunCard, open_run
from headscope.figures import score_scatter

_TOP = 5


def show(runs: Path, card: RunCard, cards: Sequence[RunCard]) -> str | None:
    """What differs between the chosen run and another, and how far shared scores agree; the other run's name."""
    others = [one for one in cards if one.name != card.name and not one.problem]
    if not others:
        st.info("There is no other run to compare with yet.", icon=":material/info:")
        return None
    nearest = sorted(others, key=lambda one: (one.model != card.model, -len(set(one.scores) & set(card.scores))))
    other = address.choose("Compare with", tuple(one.name for one in nearest), name="other")
    first, second = open_run(runs, card.name).facts, open_run(runs, other).facts
    st.dataframe(
        differing(first, second, (card.name, other)), hide_index=True, alt="Facts in which the two runs differ"
    )
    shared = [name for name in card.scores if name in next(one.scores for one in others if one.name == other)]
    if not shared:
        st.caption("The two runs have no kind of score in common.")
    for name in shared:
        with notice.guarded("These scores cannot be compared."):
            _scores(runs, card.name, other, name)
    return other


def _scores(runs: Path, first: str, second: str, name: str) -> None:
    a, b = cached.scores(runs, first, name), cached.scores(runs, second, name)
    if a.samples.shape[1:] != b.samples.shape[1:]:
        st.caption(f"{plain(name)}: the models differ in shape, so their heads cannot be compared one by one.")
        return
    k = min(_TOP, len(a.heads), len(b.heads))
    found = agreement(a, b, k)
    said = f"{name}: r = {found['r']:.2f} over heads; the best {k} overlap by {found['overlap']:.0%} (Jaccard)"
    figure.show(score_scatter(a, b), alt=said, key=f"scatter {first} {second} {name}")
