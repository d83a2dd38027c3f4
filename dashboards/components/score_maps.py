"""A map for every score of a run, the chosen score first and alone in its line."""

from pathlib import Path

import streamlit as st

from dashboards import cached
from dashboards.atlas import map_caption
from dashboards.components import head_map, notice
from dashboards.reading import RunCard
from headscope.heads import Head


def show(runs: Path, card: RunCard, *, first: str, chosen: Head) -> None:
    """All maps; a score that cannot be read says so and leaves the others."""
    _map(runs, card, first, chosen)
    others = [name for name in card.scores if name != first]
    for start in range(0, len(others), 2):
        for column, name in zip(st.columns(2), others[start : start + 2], strict=False):
            with column, notice.guarded("One score of this run cannot be shown."):
                _map(runs, card, name, chosen)


def _map(runs: Path, card: RunCard, name: str, chosen: Head) -> None:
    table = cached.score_map(runs, card.name, name)
    metric = cached.scores(runs, card.name, name).metric
    caption = map_caption(metric, table)
    head_map.show(table, title=f"{name}: {metric}", alt_text=caption, chosen=chosen, key=f"{card.name} {name}")
