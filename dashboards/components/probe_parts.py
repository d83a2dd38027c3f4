"""The parts of the page on probes."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import probed
from dashboards.atlas import map_caption
from dashboards.components import address, figure, head_choice, head_map, notice
from dashboards.components.place import Place
from dashboards.plain import plain
from dashboards.reading import damaged, open_run, run_table, stamp
from dashboards.suggested import command
from experiments.probing.enough_draws import note_on
from experiments.probing.report import share_bars
from headscope.figures import score_scatter
from headscope.heads import Head
from headscope.runs import Run
from probes import ProbeResult


def nothing(place: Place) -> None:
    """What to do where the chosen run is none of probes."""
    held = [card.name for card in probed.probe_cards(place.cards)]
    if held:
        what = "This run holds no probes; choose one in the sidebar that does:"
        notice.elsewhere(what, held, alt="Runs that hold probes")
    else:
        words = (
            "probe",
            "--set",
            "presence",
            "--set",
            "colour",
            "--model",
            "zoo:scenes",
            "--out",
            place.runs / "probes",
        )
        notice.empty("No run here holds probes yet. This makes one:", command(*words))


def results(runs: Path, name: str) -> dict[str, ProbeResult]:
    """All results of a run."""
    path = open_run(runs, name).path
    return _results(str(path), stamp(path))


def choose(found: dict[str, ProbeResult]) -> str:
    """Which set, site and seed."""
    return address.choose("Probe", tuple(found), name="probe", help="What was probed, where, and with which seed.")


def score(name: str, result: ProbeResult) -> pd.DataFrame:
    """The figure by layer, or the map and the ranking of heads, and all numbers."""
    if probed.of_heads(result):
        _heads(name, result)
    else:
        said = f"{probed.said_of(result)}. The band is the control, whiskers are 95 % intervals."
        figure.show(result.plot(), alt=said, key="probes: layers")
    if note := note_on(result):
        st.info(f"Note: {plain(note)}.", icon=":material/info:")
    table = probed.shown_table(result)
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    st.dataframe(
        table,
        hide_index=True,
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in numbers},
        alt="Every layer or head with its score, interval, control and selectivity",
    )
    if "compression" in table:
        st.caption(
            "Compression: how many times shorter the labels are when they are told with the probe's help; about 1 where "
            "nothing can be read."
        )
    return table


def compared(place: Place, name: str, key: str, result: ProbeResult) -> None:
    """Another result, of this run or another, beside this one."""
    st.subheader("Beside another")
    others = tuple(card.name for card in probed.probe_cards(place.cards))
    nearest = tuple(sorted(others, key=lambda other: other != name))
    left, right = st.columns(2)
    with left:
        other = address.choose("Run to compare with", nearest, name="with-run", silent=True, default=name)
    with notice.guarded("These two cannot be compared."):
        found = results(place.runs, other)
        rest = [one for one in found if (other, one) != (name, key)]
        if not rest:
            st.info("There is no other probe to compare with yet.", icon=":material/info:")
            return
        alike = [one for one in rest if probed.of_heads(found[one]) == probed.of_heads(result)]
        with right:
            second = address.choose("Probe to compare with", tuple(rest), name="with-probe", default=(alike or rest)[0])
        _together(result, found[second], (f"{name}: {key}", f"{other}: {second}"))


def shares(run: Run, key: str) -> None:
    """What the model itself chooses of a set's options, where that was scored."""
    table_name = probed.shares_of(run.table_names(), key)
    if not table_name:
        return
    st.subheader("What the model itself chooses")
    with notice.guarded("The shares cannot be shown."):
        table, title = run_table(run, table_name), table_name.removesuffix(probed.SHARES)
        best = table.loc[table["share"].idxmax()]
        said = f"Share of every option of {title}, by likelihood: most often {best['kind']}, {best['share']:.0%}"
        figure.show(share_bars(table, title), alt=said, key="probes: shares")


def _heads(name: str, result: ProbeResult) -> None:
    chosen = head_choice.choose([place for place in result.places if isinstance(place, Head)], _best(result))
    for column, value in zip(st.columns(2), (result.measure, "selectivity"), strict=True):
        with column:
            table = probed.map_table(result, value)
            title = f"probe {value}"
            head_map.show(
                table, title=title, alt_text=map_caption(title, table), chosen=chosen, key=f"probes {name} {value}"
            )
    figure.show(
        probed.ranked_heads(result), alt=f"{probed.said_of(result)}. The band is the control.", key="probes: heads"
    )


def _best(result: ProbeResult) -> Head:
    return Head.parse(str(probed.map_table(result, result.measure)["name"].iloc[0]))


def _together(first: ProbeResult, second: ProbeResult, names: tuple[str, str]) -> None:
    table = probed.difference(first, second)
    top = table.iloc[0]
    where = top["name"] if probed.of_heads(first) else f"layer {int(top['layer'])}"
    said = f"First: {names[0]}; second: {names[1]}. The greatest gap, {top['difference']:+.3f}, is at {where}."
    if not probed.of_heads(first):
        figure.show(probed.both_lines(first, second, names), alt=said, key="probes: both")
    elif first.shape == second.shape:
        figure.show(score_scatter(first.scores(), second.scores()), alt=said, key="probes: scatter")
    else:
        st.caption(plain(said))
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    st.dataframe(
        table,
        hide_index=True,
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in numbers},
        alt="Layers or heads that both have, with the scores of both and their difference",
    )


@st.cache_data(max_entries=16, show_spinner=False)
def _results(path: str, changed: int) -> dict[str, ProbeResult]:
    run = Run(Path(path))
    try:
        return probed.results_of(run)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(run, "probes", error) from error
