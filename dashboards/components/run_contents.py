"""What one run holds: its facts, its self-check, its tables."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import cached
from dashboards.comparing import flat_facts
from dashboards.components import address, downloads, notice
from dashboards.reading import RunCard, open_run

_MOST = 2000


def show(runs: Path, card: RunCard) -> None:
    """A tab for each."""
    facts = open_run(runs, card.name).facts
    if facts.get("error"):
        notice.trouble("This run ended with an error.", str(facts["error"]))
    about, check, tables = st.tabs(["Facts", "Self-check", "Tables"])
    with about:
        flat = flat_facts(facts)
        st.dataframe(
            pd.DataFrame({"fact": flat.keys(), "value": flat.values()}),
            hide_index=True,
            column_config={"value": st.column_config.TextColumn(width="large")},
            alt="What the run says of itself",
        )
    with check:
        _check(facts.get("self_check"))
    with tables, notice.guarded("This table cannot be shown."):
        _tables(runs, card)


def _check(records: object) -> None:
    if not isinstance(records, list) or not records or not all(isinstance(one, dict) for one in records):
        st.info("This run has no self-check; runs made on a model keep one.", icon=":material/info:")
        return
    table = pd.DataFrame(records)
    if "passed" in table:
        table["passed"] = [{"True": "ok", "False": "FAILED"}.get(str(value), "noted") for value in table["passed"]]
    st.dataframe(table, hide_index=True, alt="Proof that the hooks do what they claim on this model")


def _tables(runs: Path, card: RunCard) -> None:
    if not card.tables:
        st.info("This run holds no tables yet.", icon=":material/info:")
        return
    name = address.choose("Table", card.tables, name="table")
    table = cached.table(runs, card.name, name)
    st.dataframe(table.head(_MOST), hide_index=True, alt="The chosen table")
    if len(table) > _MOST:
        st.caption(f"The first {_MOST} of {len(table)} rows; the files below hold all.")
    downloads.show(f"{card.name}-{name}", table, title=f"{name} of {card.name}")
