"""Which of a run's scores."""

from pathlib import Path

import streamlit as st

from dashboards.components import address, notice
from dashboards.reading import RunCard
from dashboards.suggested import command, of_model

_TELLING = ("retrieval", "vhd", "effect")
"""Scores that a run was most likely made for."""


def choose(runs: Path, card: RunCard) -> str:
    """The score in the address; where the run has none the page says so and ends."""
    if not card.scores:
        notice.empty(
            "This run holds no head scores; choose another in the sidebar, or make one:",
            command("heads", "retrieval", *of_model(card.model), "--out", runs / "retrieval"),
        )
        st.stop()
    return address.choose("Score", card.scores, name="score", default=telling(card))


def telling(card: RunCard) -> str:
    """The score of a run to begin with."""
    return next((name for name in _TELLING if name in card.scores), card.scores[0])
