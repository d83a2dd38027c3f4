"""Figures of head scores: where the strong heads are, how many, how often active, and the same in another model."""

import numpy as np
import plotly.graph_objects as go
import torch

from headscope.figures.layout import ACCENT, QUIET, lay_out, number, percent, plain, scale
from headscope.heads import Head
from headscope.scores import HeadScores

_NAMED = 5


def head_map(scores: HeadScores, *, threshold: float | None = None) -> go.Figure:
    """Mean of every head, layer 0 at the bottom; a white dot marks those at or above the threshold, if one is given.

    Hover shows the interval, n and how often the head is active. If some means are negative, colours diverge around 0.
    """
    values = scores.values.double().numpy()
    n_layers, n_heads = values.shape
    marked = () if threshold is None else scores.above(threshold)
    heat = go.Heatmap(
        z=values,
        text=_hover(scores),
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        xgap=0.5,
        ygap=0.5,
        **scale(values),
    )
    dots = go.Scatter(
        x=[head.head for head in marked],
        y=[head.layer for head in marked],
        mode="markers",
        marker={"size": 6, "color": "white", "line": {"color": "black", "width": 1}},
        hoverinfo="skip",
        showlegend=False,
    )
    dotted = "" if threshold is None else f"; dots: {len(marked)} of {len(scores.heads)} heads at {threshold:g} or more"
    about = _about(scores) + dotted
    figure = lay_out([heat, dots], scores.metric, about, height=min(800, max(260, 110 + 17 * n_layers)))
    figure.update_xaxes(title="head", dtick=_step(n_heads), range=[-0.5, n_heads - 0.5])
    figure.update_yaxes(title="layer", dtick=_step(n_layers), range=[-0.5, n_layers - 0.5])
    figure.update_layout(xaxis_showgrid=False, xaxis_zeroline=False, yaxis_showgrid=False, yaxis_zeroline=False)
    return figure


def score_histogram(scores: HeadScores) -> go.Figure:
    """Share of heads whose mean is 0, below 0.1, below 0.5, and 0.5 or more."""
    values = scores.values[scores.exists]
    # What is not above 0 is in bin 0; the others are [edge, next edge), since heads are chosen by "at least".
    place = torch.bucketize(values, torch.tensor([0.1, 0.5], dtype=values.dtype), right=True) + 1
    count = torch.bincount(torch.where(values > 0, place, 0), minlength=4)
    shares = (count / count.sum()).tolist()
    bars = go.Bar(
        x=["0" if (values >= 0).all() else "0 or less", "0 to 0.1", "0.1 to 0.5", "0.5 or more"],
        y=shares,
        text=[percent(share) for share in shares],
        textposition="outside",
        marker={"color": ACCENT},
        customdata=count.tolist(),
        hovertemplate="%{x}: %{customdata} heads, %{text}<extra></extra>",
    )
    figure = lay_out([bars], f"share of heads by {scores.metric}", _about(scores), height=320)
    figure.update_xaxes(title="mean over samples", type="category", showgrid=False)
    figure.update_yaxes(title="share of heads", tickformat=".0%", range=[0, 1.12 * max(shares)])
    return figure


def frequency_scatter(scores: HeadScores) -> go.Figure:
    """Share of samples that a head is active in, against its mean; the best heads are named.

    A head far above the dotted line is active often but weakly.
    """
    values, frequency = scores.values.tolist(), scores.activation_frequency().tolist()
    places = {head: (values[head.layer][head.head], frequency[head.layer][head.head]) for head in scores.heads}
    hover = "mean %{x:.2f}, active in %{y:.0%}"
    traces = _points(places, scores, hover)
    figure = lay_out(traces, "how often heads are active", _about(scores), height=400)
    _add_diagonal(figure, 0.0, 1.0)
    figure.update_xaxes(title=f"mean {plain(scores.metric)}")
    figure.update_yaxes(title="active in", tickformat=".0%", range=[-0.03, 1.12])
    return figure


def score_scatter(a: HeadScores, b: HeadScores) -> go.Figure:
    """Heads of one model against the same heads of another, with Pearson's r; the best of `a` are named."""
    r = a.correlation(b)
    first, second = a.values.tolist(), b.values.tolist()
    both = sorted(set(a.heads) & set(b.heads))
    places = {head: (first[head.layer][head.head], second[head.layer][head.head]) for head in both}
    traces = _points(places, a, "%{x:.2f} and %{y:.2f}")
    figure = lay_out(traces, f"{a.metric}, r = {r:.2f}", f"{len(both)} heads", height=440)
    ends = [end for place in places.values() for end in place]
    _add_diagonal(figure, min(0.0, *ends), max(ends))
    figure.update_xaxes(title=plain(a.meta.get("model") or "first scores"))
    figure.update_yaxes(title=plain(b.meta.get("model") or "second scores"))
    return figure


def _about(scores: HeadScores) -> str:
    model = scores.meta.get("model")
    return f"{model}, n = {scores.n}" if model else f"n = {scores.n}"


def _hover(scores: HeadScores) -> np.ndarray:
    low, high = (end.tolist() for end in scores.interval())
    values, frequency = scores.values.tolist(), scores.activation_frequency().tolist()
    text = np.full(scores.exists.shape, "", dtype=object)
    for layer, head in scores.heads:
        interval = f"[{number(low[layer][head])}, {number(high[layer][head])}]"
        text[layer, head] = (
            f"<b>{Head(layer, head)}</b> {number(values[layer][head])} {interval}, n = {scores.n}, "
            f"active in {percent(frequency[layer][head], 0)}"
        )
    return text


def _step(count: int) -> int:
    return next(step for step in (1, 2, 4, 8, 16, 32, 64, 128) if count <= 12 * step or step == 128)


def _points(places: dict[Head, tuple[float, float]], scores: HeadScores, hover: str) -> list[go.Scatter]:
    x, y = zip(*places.values(), strict=True)
    points = go.Scatter(
        x=x,
        y=y,
        mode="markers",
        customdata=[str(head) for head in places],
        hovertemplate=f"<b>%{{customdata}}</b> {hover}<extra></extra>",
        marker={"size": 8, "color": ACCENT, "opacity": 0.7},
        showlegend=False,
    )
    named = {head: places[head] for head in scores.top(len(scores.heads)) if head in places}
    named = dict(list(named.items())[:_NAMED])
    names = go.Scatter(
        x=[place[0] for place in named.values()],
        y=[place[1] for place in named.values()],
        mode="markers+text",
        marker={"size": 8, "color": ACCENT},
        cliponaxis=False,
        text=[str(head) for head in named],
        textposition=[_side(place, list(named.values())) for place in named.values()],
        hoverinfo="skip",
        showlegend=False,
    )
    return [points, names]


def _side(place: tuple[float, float], places: list[tuple[float, float]]) -> str:
    # The best heads often lie side by side: the upper of two neighbours has its name above, the lower below.
    others = [other for other in places if other != place]
    if not others:
        return "top center"
    near = min(others, key=lambda other: np.hypot(other[0] - place[0], other[1] - place[1]))
    return "top center" if (place[1], place[0]) > (near[1], near[0]) else "bottom center"


def _add_diagonal(figure: go.Figure, low: float, high: float) -> None:
    line = {"dash": "dot", "width": 1.5, "color": QUIET}
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=line)
