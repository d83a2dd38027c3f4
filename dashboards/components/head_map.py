"""Layer by head, a cell a head, as a map that can be clicked."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from dashboards.components import address
from dashboards.components.figure import mode
from dashboards.components.head_choice import NAME
from dashboards.plain import plain
from dashboards.theme import PALETTES
from headscope.heads import Head

_CLICKED = "clicked"
_TIPS = {"low": "low (95 %)", "high": "high (95 %)", "se": "standard error", "n": "n"}
_TALLEST, _CELL = 420, 34
_AROUND = 100
"""Room for title and axis, which the height of a chart includes."""


def show(table: pd.DataFrame, *, title: str, alt_text: str, chosen: Head, key: str) -> None:
    """The map of `table` (layer, head, name, value, and low, high, se and n if known); a click chooses the head."""
    # A new chart for every choice: an old one holds on to its last click, and would not tell of the same one again.
    key = f"map: {key} {chosen}"
    st.altair_chart(
        head_map(table, title=title, chosen=chosen),
        key=key,
        on_select=lambda: _take(key),
        selection_mode=_CLICKED,
        alt=alt_text,
    )
    st.caption(plain(alt_text))


def head_map(table: pd.DataFrame, *, title: str, chosen: Head) -> alt.Chart:
    """The chart alone."""
    palette = PALETTES[mode()]
    clicked = alt.selection_point(name=_CLICKED, fields=["name"], toggle=False)
    layers = int(table["layer"].max()) + 1
    edge = alt.condition(alt.datum.name == str(chosen), alt.value(palette.choice), alt.value("transparent"))
    tips = [alt.Tooltip("name:N", title="head"), alt.Tooltip("value:Q", format=".3g")]
    tips += [alt.Tooltip(f"{name}:Q", title=said, format=".3g") for name, said in _TIPS.items() if name in table]
    return (
        alt.Chart(_chosen_last(table, chosen), title=alt.TitleParams(title, anchor="start", fontSize=15, limit=420))
        .mark_rect(strokeWidth=3, cursor="pointer")
        .encode(
            x=alt.X("head:O", title="head", axis=_axis()),
            y=alt.Y("layer:O", title="layer", sort="descending", axis=_axis()),
            color=alt.Color("value:Q", title=None, scale=_scale(table["value"])),
            stroke=edge,
            tooltip=tips,
        )
        .add_params(clicked)
        .properties(height=_AROUND + min(_TALLEST, max(2, layers) * _CELL))
    )


def _chosen_last(table: pd.DataFrame, chosen: Head) -> pd.DataFrame:
    """Cells are painted in order, so that the last one's edge is whole."""
    return table.sort_values("name", key=lambda names: names == str(chosen), kind="stable")


def _axis() -> alt.Axis:
    return alt.Axis(labelAngle=0, labelOverlap=True, grid=False, domain=False, ticks=False)


def _scale(values: pd.Series) -> alt.Scale:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if low < 0:
        reach = max(-low, high)
        return alt.Scale(scheme="redblue", domain=[-reach, reach])
    return alt.Scale(scheme="viridis", domain=[0.0, high or 1.0])


def _take(key: str) -> None:
    state: Any = st.session_state[key]
    picked = state.selection.get(_CLICKED) or []
    if picked and "name" in picked[0]:
        address.put(NAME, str(picked[0]["name"]))
