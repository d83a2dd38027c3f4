"""The results of a sweep: a map, bars with intervals, a table with q values, and the costliest beside random heads."""

import pandas as pd
import streamlit as st

from dashboards import cached
from dashboards.atlas import map_caption
from dashboards.components import condition_bars, head_choice, head_link, head_map, notice
from dashboards.components.place import Place
from dashboards.plain import plain
from dashboards.reading import RunCard
from dashboards.suggested import command
from dashboards.sweep_results import effect_bars, effect_map, metric_of, mode_of, sweeps
from headscope.heads import Head
from headscope.runs import Run

_MEANS = (
    "Effect: the metric without it minus that of the whole model, on the same prompts. Intervals are over prompts; p is "
    "that of the paired difference, q its false-discovery rate over all that were taken out. The largest of many look "
    "larger than they are: see them beside random ones below."
)


def nothing(place: Place) -> None:
    """What to do where the chosen run holds no sweep."""
    held = sweeps(place.cards)
    if held:
        what = "The chosen run holds no finished sweep; choose one in the sidebar that does:"
        notice.elsewhere(what, [card.name for card in held], alt="Runs that hold a sweep")
    else:
        makes = command("ablate", "sweep", "--model", "zoo:needle", "--out", place.runs / "sweep")
        notice.empty("No run here holds a sweep yet. Start one above, or on the command line:", makes)


def effects(card: RunCard, run: Run, table: pd.DataFrame) -> None:
    """The map where single heads were taken out, and the largest effects with their intervals."""
    metric, heads = metric_of(run), effect_map(table)
    mode = mode_of(run)
    st.caption(f"{_MEANS} Taken out: {plain(mode)} ablation of every query." if mode else _MEANS)
    if len(heads):
        choices = sorted(Head(row.layer, row.head) for row in heads.itertuples())
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        with left:
            head = head_choice.choose(choices, Head.parse(heads["name"].iloc[0]))
        with right:
            head_link.show(card.name, head)
        title = f"effect on {metric}"
        said = map_caption(title, heads)
        head_map.show(heads, title=title, alt_text=said, chosen=head, key=f"sweep {card.name}")
    first = table.iloc[0]
    said = (
        f"The largest effects on {metric}, with 95 % intervals; {first['unit']} has {first['effect']:.3g} "
        f"[{first['low']:.3g}, {first['high']:.3g}]"
    )
    condition_bars.show(effect_bars(table), title=f"largest effects on {metric}", alt=said, key="sweep: bars")
    st.dataframe(
        table,
        hide_index=True,
        column_config={"q": st.column_config.NumberColumn(help="false-discovery rate over all that were taken out")},
        alt=f"{len(table)} effects with intervals, p and q values",
    )


def together(run: Run) -> None:
    """The costliest at once, beside as many random others of the same layers."""
    st.subheader("The costliest at once, beside random heads of the same layers")
    with notice.guarded("These conditions cannot be shown."):
        found = cached.together(run.path.parent, run.path.name)
        if found is None:
            st.info("Nothing was removed at once: no others are left to draw controls from, or none costs.")
            return
        families, beyond = found
        metric = metric_of(run)
        rows = ", ".join(f"{row.condition} {row.mean:.3g}" for row in families.itertuples())
        condition_bars.show(families, title=metric, alt=f"{metric}: {rows}", key="sweep: together")
        if len(beyond):
            st.caption(
                "The treatment's paired difference from the mean of its controls; “as_far” counts the draws that move "
                "the metric as far from the whole model."
            )
            st.dataframe(beyond, hide_index=True, alt="How far the treatment goes beyond its random controls")
