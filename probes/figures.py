"""The figure of probes by layer."""

from typing import Any

import plotly.graph_objects as go

from headscope.figures.layout import KINDS, QUIET, lay_out, plain
from probes.result import ProbeResult

_DASHES = {"random": "dash", "untrained": "dashdot", "majority": "dot", "mean": "dot"}
_MOST_TICKS = 24


def layer_lines(result: ProbeResult) -> go.Figure:
    """Score of every layer with its interval, the control as a band, the baselines as broken lines."""
    table, measure = result.table, result.measure
    layers = table["layer"].tolist()
    treated, control = KINDS["treatment"], KINDS["control"]
    band: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "control"}
    traces: list[Any] = [
        go.Scatter(x=layers, y=table["control_low"].tolist(), showlegend=False, **band),
        go.Scatter(
            x=layers,
            y=table["control_high"].tolist(),
            fill="tonexty",
            fillcolor="rgba(0,114,178,0.2)",
            showlegend=False,
            **band,
        ),
        _line(layers, table["control"].tolist(), "control", {"color": control}),
    ]
    for name, dash in _DASHES.items():
        if name in table:
            traces.append(_line(layers, table[name].tolist(), name, {"color": QUIET, "dash": dash, "width": 1.5}))
    score = _line(layers, table[measure].tolist(), measure, {"color": treated})
    score.error_y = {
        "type": "data",
        "symmetric": False,
        "array": (table["high"] - table[measure]).tolist(),
        "arrayminus": (table[measure] - table["low"]).tolist(),
        "thickness": 1.5,
    }
    meta = result.meta
    about = f"{meta.get('model')}, {meta.get('site')}, n = {len(result.samples)}, control: {meta.get('control')} labels"
    figure = lay_out([*traces, score], f"probe {measure} by layer", about, height=360)
    every = max(1, -(-len(layers) // _MOST_TICKS))
    figure.update_xaxes(title="layer", tickvals=layers[::every], showgrid=False)
    figure.update_yaxes(title=plain(measure))
    return figure


def _line(layers: list[int], values: list[float], name: str, line: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=layers,
        y=values,
        mode="lines+markers",
        name=plain(name),
        line=line,
        legendgroup=name,
        hovertemplate=f"layer %{{x}}, {plain(name)} <b>%{{y:.3f}}</b><extra></extra>",
    )
