"""Runs of probes as the page on probes shows them: which there are, one of them as a table, two of them together."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboards.reading import RunCard
from experiments.probing.cells import probe_keys, read_probe
from headscope.errors import UsageError
from headscope.figures.layout import KINDS, lay_out, plain
from headscope.heads import Head
from headscope.runs import Run
from probes import ProbeResult

COMMAND = "probe"
SHARES = " shares"
_MOST, _NAMED = 40, 24
_ORDER = (
    *("low", "high", "control", "selectivity", "found", "fdr", "random", "untrained", "majority", "mean"),
    *("bits", "compression", "control_compression", "n", "clusters"),
)


def probe_cards(cards: Sequence[RunCard]) -> tuple[RunCard, ...]:
    """Runs that `headscope probe` made and that can be read."""
    return tuple(card for card in cards if card.command == COMMAND and not card.problem)


def results_of(run: Run) -> dict[str, ProbeResult]:
    """All results of a run, those of heads and of layers; UsageError if there is none, or one is damaged."""
    keys = probe_keys(run)
    if not keys:
        raise UsageError(f"{run.path} holds no finished probe yet; the same command with --resume goes on with it")
    return {key: read_probe(run, key) for key in keys}


def shares_of(tables: Sequence[str], key: str) -> str:
    """The table of what the model itself chooses in the set that a result is of; empty where there is none."""
    of_set = [name for name in tables if name.endswith(SHARES) and key.startswith(f"{name.removesuffix(SHARES)} ")]
    return max(of_set, key=len, default="")


def of_heads(result: ProbeResult) -> bool:
    """Whether heads were probed, not layers."""
    return isinstance(result.places[0], Head)


def shown_table(result: ProbeResult) -> pd.DataFrame:
    """The numbers of every layer or head, the best first where they are heads."""
    first = "name" if "name" in result.table else "layer"
    table = result.table[[first, result.measure, *(name for name in _ORDER if name in result.table)]]
    if of_heads(result):
        table = table.sort_values(result.measure, ascending=False, kind="stable")
    return table.rename(columns={"name": "head"}).reset_index(drop=True)


def map_table(result: ProbeResult, value: str) -> pd.DataFrame:
    """Layer, head, name and a value of every head, the largest first; for the measure with its interval."""
    ends = ["low", "high"] if value == result.measure else []
    table = result.table[["layer", "head", "name", value, *ends, "n"]].rename(columns={value: "value"})
    return table.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)


def said_of(result: ProbeResult) -> str:
    """What a figure of the result shows, in words."""
    table, measure = result.table, result.measure
    best = table.loc[int(np.argmax(table[measure].to_numpy()))]
    where = best["name"] if of_heads(result) else f"layer {best['layer']}"
    return (
        f"{measure} of a probe for each {'head' if of_heads(result) else 'layer'}: best in {where}, {best[measure]:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f}), its control {best['control']:.3f}; {int(table['found'].sum())} of "
        f"{len(table)} found, n = {int(best['n'])}"
    )


def ranked_heads(result: ProbeResult) -> go.Figure:
    """The best heads with their intervals, each over the band of its own control."""
    table = result.table.sort_values(result.measure, ascending=False, kind="stable").head(_MOST)
    names = table["name"].tolist()
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    traces = [
        go.Scatter(x=names, y=table["control_low"].tolist(), **band),
        go.Scatter(x=names, y=table["control_high"].tolist(), fill="tonexty", fillcolor="rgba(0,114,178,0.2)", **band),
        go.Scatter(
            x=names, y=table["control"].tolist(), name="control", mode="lines", line={"color": KINDS["control"]}
        ),
        _points(names, table, result.measure, result.measure, KINDS["treatment"], "markers"),
    ]
    about = f"the best {len(table)} of {len(result.places)} heads; band: the middle of the control's draws"
    figure = lay_out(traces, f"probe {result.measure} by head", about, height=380)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(title=plain(result.measure))
    return figure


def both_lines(first: ProbeResult, second: ProbeResult, names: tuple[str, str]) -> go.Figure:
    """Two results by layer in one figure, each with its interval and, dotted, its control."""
    traces = []
    for result, name, colour in zip((first, second), names, (KINDS["treatment"], KINDS["control"]), strict=True):
        layers = result.table["layer"].tolist()
        traces.append(_points(layers, result.table, result.measure, name, colour, "lines+markers"))
        traces.append(
            go.Scatter(
                x=layers,
                y=result.table["control"].tolist(),
                mode="lines",
                name=f"{plain(name)}: control",
                line={"color": colour, "dash": "dot"},
                hovertemplate="layer %{x}, control <b>%{y:.3f}</b><extra></extra>",
            )
        )
    figure = lay_out(traces, "two probes by layer", "whiskers: 95 %; dotted: the control of each", height=400)
    shared = sorted({*first.table["layer"], *second.table["layer"]})
    ticks = {"tickmode": "array", "tickvals": shared} if len(shared) <= _NAMED else {"tickformat": "d"}
    figure.update_xaxes(title="layer", showgrid=False, **ticks)
    figure.update_yaxes(title=plain(first.measure))
    return figure


def difference(first: ProbeResult, second: ProbeResult) -> pd.DataFrame:
    """Places that both have: score and selectivity of both, and first less second; the greatest gap first.

    UsageError where one is of heads and the other of layers, or they measure different things.
    """
    if of_heads(first) != of_heads(second):
        raise UsageError("one of the two is of heads and the other of layers; choose two of a kind")
    if first.measure != second.measure:
        raise UsageError(f"one is measured in {first.measure}, the other in {second.measure}; choose two of a kind")
    key = "name" if of_heads(first) else "layer"
    columns = [key, first.measure, "selectivity"]
    both = first.table[columns].merge(second.table[columns], on=key, suffixes=(" (first)", " (second)"))
    if both.empty:
        raise UsageError("the two have no layer or head in common; choose others")
    both["difference"] = both[f"{first.measure} (first)"] - both[f"{first.measure} (second)"]
    return both.sort_values("difference", key=abs, ascending=False, kind="stable").reset_index(drop=True)


def _points(
    x: list[int] | list[str], table: pd.DataFrame, measure: str, name: str, colour: str, mode: str
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=table[measure].tolist(),
        mode=mode,
        name=plain(name),
        line={"color": colour},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (table["high"] - table[measure]).tolist(),
            "arrayminus": (table[measure] - table["low"]).tolist(),
            "thickness": 1.5,
        },
        hovertemplate=f"%{{x}}, {plain(name)} <b>%{{y:.3f}}</b><extra></extra>",
    )
