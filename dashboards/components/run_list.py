"""The list of runs, with filters that stand in the address."""

from collections.abc import Iterable, Sequence

import streamlit as st

from dashboards.components import address
from dashboards.listing import matching, run_table
from dashboards.reading import RunCard

_ALL = "all"


def show(cards: Sequence[RunCard]) -> None:
    """The runs that match the filters, the newest first; what is wrong with damaged ones stands in their row."""
    first, second, third = st.columns([2, 1, 1])
    with first:
        words = address.line("Find", name="find", help="Words in the name, command, model or status.")
    with second:
        command = address.choose("Command", _choices(card.command for card in cards), name="command", silent=True)
    with third:
        status = address.choose("Status", _choices(card.status for card in cards), name="status", silent=True)
    chosen = matching(cards, words, command if command != _ALL else "", status if status != _ALL else "")
    table = run_table(chosen)
    if table.empty:
        st.info("No run matches; change the filters.", icon=":material/info:")
        return
    created = st.column_config.DatetimeColumn("created (UTC)", format="D MMM YYYY, HH:mm", timezone="UTC")
    st.dataframe(
        table,
        hide_index=True,
        column_config={"created": created, "seconds": st.column_config.NumberColumn(format="%.1f")},
        alt=f"{len(table)} runs with their command, model, time, status, scores and tables",
    )


def _choices(values: Iterable[str]) -> tuple[str, ...]:
    return (_ALL, *sorted({value for value in values if value}))
