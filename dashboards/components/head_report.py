"""The parts of a head's page."""

from collections.abc import Mapping
from pathlib import Path

import altair as alt
import pandas as pd
import streamlit as st

from dashboards.components import address, condition_bars, figure, notice
from dashboards.head_facts import HeadFacts, sample_values
from dashboards.plain import plain
from dashboards.suggested import command, of_model
from dashboards.theme import PALETTES
from headscope.heads import Head
from headscope.scores import HeadScores

_NUMBERS_FIRST = ("score", "value", "low", "high", "rank", "of", "n", "active", "run", "metric")
"""A phone shows the first few columns."""


def scores(found: Mapping[str, HeadFacts], head: Head) -> pd.DataFrame:
    """Every score of the head in the runs of its model, and where it stands among the others."""
    filled = [facts.scores for facts in found.values() if len(facts.scores)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    st.subheader("Scores")
    if table.empty:
        st.info("No run on this model scores this head.", icon=":material/info:")
        return table
    st.dataframe(
        table,
        hide_index=True,
        column_order=_NUMBERS_FIRST if figure.narrow() else None,
        column_config={
            "rank": st.column_config.NumberColumn(help="1 is the highest mean of all heads"),
            "of": st.column_config.NumberColumn(help="heads that are ranked"),
            "active": st.column_config.NumberColumn(help="share of samples with a score above 0", format="percent"),
        },
        alt=f"{len(table)} scores of {head} with intervals and ranks",
    )
    return table


def samples(scores: HeadScores, head: Head) -> None:
    """The chosen score in every sample."""
    values = sample_values(scores, head)
    st.subheader("Sample by sample")
    bars = (
        alt.Chart(pd.DataFrame({"sample": range(len(values)), "value": values}))
        .mark_bar(color=PALETTES[figure.mode()].strong)
        .encode(
            x=alt.X("sample:O", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title="score"),
            tooltip=["sample:O", alt.Tooltip("value:Q", format=".3g")],
        )
        .properties(height=200)
    )
    said = f"{head}, {scores.metric}: {min(values):.3g} to {max(values):.3g} over {len(values)} samples"
    st.altair_chart(bars, alt=said, key="head: samples")
    st.caption(plain(said))


def removed(found: Mapping[str, HeadFacts], head: Head, runs: Path, model: str) -> None:
    """What the model could do without it, beside the controls."""
    st.subheader("Without it")
    tables = {name: facts.removal for name, facts in found.items() if len(facts.removal)}
    if not tables:
        notice.empty(
            "No run on this model removed this head. This does, beside random others:",
            command("ablate", "heads", *of_model(model), "--heads", head, "--out", runs / f"without-{head}"),
        )
        return
    name = (
        address.choose("Run that removed it", tuple(tables), name="removed") if len(tables) > 1 else next(iter(tables))
    )
    table = tables[name]
    what = ", ".join(filter(None, (table["removed"].iloc[0], table["how"].iloc[0])))
    said = f"{name}: answers right without {what}, and beside it the controls"
    with notice.guarded():
        condition_bars.show(table, title="answers right", alt=said, key="head: removed")


def tables(found: Mapping[str, HeadFacts], head: Head) -> None:
    """Rows about the head in all other tables, those of the same kind together."""
    kinds: dict[str, list[pd.DataFrame]] = {}
    for run, facts in found.items():
        for name, rows in facts.tables.items():
            kinds.setdefault(name, []).append(rows.assign(run=run))
    if kinds:
        st.subheader("In other tables")
    for name, parts in kinds.items():
        st.caption(plain(name))
        rows = pd.concat(parts, ignore_index=True)
        st.dataframe(rows, hide_index=True, alt=f"Rows about {head}", column_order=["run", *rows.columns.drop("run")])
