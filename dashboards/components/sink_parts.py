"""The parts of the page on attention sinks."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pandas as pd
import streamlit as st

from dashboards import cached, sink_data
from dashboards.atlas import map_caption
from dashboards.components import address, condition_bars, figure, head_map, notice
from dashboards.plain import plain
from dashboards.reading import RunCard
from dashboards.suggested import command
from experiments.sinks.removal import Metric
from headscope.figures import norm_lines
from headscope.heads import Head
from headscope.runs import Run

_SHOWN = 30
_TITLES = {
    "first_token": "attention on the first token",
    "later_sinks": "attention on later sinks",
    "sink_mass": "attention on sinks",
}
_NORMS = {"residual": "residual norm before each layer", "value": "norm of values in its heads"}
_CUT = {
    "masked": "hidden as if they were not there, so that the other tokens share their attention",
    "zeroed": "set to zero after the softmax, so that nobody gets their attention",
}
_MEASURED = {"loss": "change in next-token loss (nats)", "kl": "divergence from the plain model (nats)"}


def nothing(runs: Path, cards: Sequence[RunCard]) -> None:
    """What to do where the chosen run knows nothing of sinks; ends the page."""
    held = [card.name for card in cards if sink_data.shows_sinks(card)]
    if held:
        what = "This run knows nothing of sinks; choose one in the sidebar that does:"
        notice.elsewhere(what, held, alt="Runs that hold attention sinks")
    else:
        notice.empty(
            "No run here knows of sinks yet. This makes one:", command("heads", "sinks", "--out", runs / "sinks")
        )
    st.stop()


def maps(runs: Path, card: RunCard, chosen: Head) -> None:
    """Attention on the first token and on later sinks, side by side."""
    names = sink_data.scores_of(card)
    for column, name in zip(st.columns(len(names)), names, strict=True):
        with column, notice.guarded("One score of this run cannot be shown."):
            table = cached.score_map(runs, card.name, name)
            title = _TITLES[name]
            said = map_caption(title, table)
            head_map.show(table, title=title, alt_text=said, chosen=chosen, key=f"sinks {card.name} {name}")


def tokens(run: Run) -> pd.DataFrame:
    """What the sinks are, and how many there are in each layer."""
    st.subheader("What the sinks are")
    table = sink_data.tokens_of(run)
    if table.empty:
        st.info("No token is a sink of any head in this run.", icon=":material/info:")
    else:
        st.dataframe(
            table.head(_SHOWN),
            hide_index=True,
            column_config={
                "n": st.column_config.NumberColumn(help="how often it stands in the texts"),
                "as_sink": st.column_config.NumberColumn(help="how many of these are a sink of some head"),
                "heads": st.column_config.NumberColumn(help="share of all pairs of an occurrence and a head"),
                "received": st.column_config.NumberColumn(help="mean attention it gets where it is a sink"),
            },
            alt=f"{min(len(table), _SHOWN)} of {len(table)} tokens that are sinks, the most frequent first",
        )
    layers = sink_data.layers_of(run)
    if len(layers):
        st.caption("Layer by layer")
        st.dataframe(layers, hide_index=True, alt="How many sinks there are in each layer")
    return table


def norms(run: Run) -> None:
    """How far the states of sinks stand out."""
    if "norms" not in run.table_names():
        return
    st.subheader("What sinks look like inside")
    with notice.guarded("These norms cannot be shown."):
        table = cached.table(run.path.parent, run.path.name, "norms")
        with sink_data.whole(run, "norms"):
            drawn = {name: norm_lines(table, name, title=_NORMS[name]) for name in _NORMS if (table[name] > 0).any()}
        for column, (name, lines) in zip(st.columns(max(1, len(drawn))), drawn.items(), strict=False):
            said = f"{_NORMS[name].capitalize()}, of the first token and of later sinks, over that of the median token"
            with column:
                figure.show(lines, alt=said, key=f"sinks: {name}")


def removal(run: Run) -> None:
    """What is lost without the sinks, beside as many other tokens and tokens with as much attention."""
    st.subheader("Without the sinks")
    with notice.guarded("What removing sinks does cannot be shown."):
        if "removal" not in run.table_names():
            st.info("This run cut no sinks; `headscope heads sinks` does, with `--removal`.", icon=":material/info:")
            return
        metric: Metric = "kl" if _metric() == "kl" else "loss"
        found = cached.removal(run.path.parent, run.path.name, metric)
        if found is None:
            st.info("No token was a sink of any head, so there was nothing to cut.", icon=":material/info:")
            return
        changes, contrasts = found
        rows = ", ".join(f"{row.condition} {row.mean:+.3g}" for row in changes.itertuples())
        title = _MEASURED[metric]
        condition_bars.show(changes, title=title, alt=f"{title}: {rows}", key="sinks: removal")
        st.caption(
            f"Sinks were {_CUT[sink_data.how_cut(run)]}; their controls likewise. Where the control with as much "
            "attention does as much as the sinks, it is the attention that counts and not the tokens."
        )
        st.dataframe(contrasts, hide_index=True, alt="How much more the sinks matter than their controls, paired")


def filters(runs: Path, cards: Sequence[RunCard], card: RunCard, chosen: Head | None) -> None:
    """Heads chosen for calibration by ACT, in this run or another on the same model, judged on other samples."""
    st.subheader("Which heads to calibrate (ACT)")
    names = sink_data.filter_runs(cards, card)
    if not names:
        makes = command("heads", "filter", "--model", card.model or "zoo:sinks", "--out", runs / "filter")
        notice.empty("No run on this model calibrates heads one by one. This does:", makes)
        return
    name = address.choose("Run that chose heads", names, name="filter")
    with notice.guarded("These heads cannot be shown."):
        found = sink_data.filtered(runs, name)
        kept = found.heads.loc[found.heads["kept"], "name"].tolist()
        table = sink_data.gain_map(found.heads)
        title = "gain in accuracy of calibrating each head alone"
        best = chosen or Head.parse(table["name"].iloc[0])
        said = f"{map_caption(title, table)} {len(kept)} of {len(table)} heads were kept."
        head_map.show(table, title=title, alt_text=said, chosen=best, key=f"filter {name}")
        st.dataframe(
            found.heads.sort_values("gain", ascending=False),
            hide_index=True,
            alt=f"{len(table)} candidates with their gain, its standard error, and whether they were kept",
        )
        if len(found.stability):
            steady = found.stability.iloc[0]
            st.caption(plain(", ".join(f"{key}: {value:.2f}" for key, value in steady.items()) + _STEADY))
        for task, part in found.held_out.groupby("task", sort=False):
            said = f"Accuracy on held-out samples of {task}: kept heads, all heads, and as many random heads"
            condition_bars.show(part, title=f"right answers, {task}", alt=said, key=f"filter: {task}")


_STEADY = " (overlap of the kept heads with those that other samples would keep, and by chance)"


def _metric() -> str:
    return address.choose("Measured", get_args(Metric), name="measured", labels=_MEASURED, silent=True)
