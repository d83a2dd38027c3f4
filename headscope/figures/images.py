"""Figures of images: where on the image a head looks, and how much each word of an answer depends on the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from headscope.errors import UsageError
from headscope.figures.layout import INK, KINDS, lay_out, number, plain, scale
from headscope.images.layout import Box, ImageLayout
from headscope.images.opening import open_image

_MOST_CELLS = 192
_GLOW = [(0.0, "rgba(255,120,0,0)"), (0.35, "rgba(255,140,0,0.5)"), (1.0, "rgba(255,235,40,0.92)")]
"""From clear to bright, so that the image stays as it is where nobody looks."""
_PANEL = 230
MARKED: Mapping[str, str] = {"hallucinated": KINDS["treatment"], "correct": KINDS["control"]}
"""Kinds of word that are framed in `token_map`, and the colour of the frame."""


def attention_overlay(
    image: Any,
    layout: ImageLayout,
    values: Float[Tensor, " token"],
    *,
    sinks: Bool[Tensor, " token"] | None = None,
    boxes: Mapping[str, Sequence[Box]] | None = None,
    title: str = "attention over the image",
    number_of_image: int = 0,
) -> go.Figure:
    """An amount for each image token as heat over the pixels that the token shows.

    `image` is a PIL image, a file or an array; `layout` says where its tokens lie. Crosses mark tokens that are `sinks`,
    frames the `boxes` of objects. Parts of the image that no token shows stay without heat.
    """
    panel = {"": values}
    return overlay_grid(
        image, layout, panel, sinks=sinks, boxes=boxes, title=title, number_of_image=number_of_image, columns=1
    )


def overlay_grid(
    image: Any,
    layout: ImageLayout,
    values: Mapping[str, Float[Tensor, " token"]],
    *,
    sinks: Bool[Tensor, " token"] | None = None,
    boxes: Mapping[str, Sequence[Box]] | None = None,
    title: str = "attention over the image",
    number_of_image: int = 0,
    columns: int = 3,
) -> go.Figure:
    """The same image under several sets of values, such as one a head, in one scale of colour; keys are their names."""
    picture = open_image(image)
    _check(picture, layout, values, sinks, number_of_image)
    _check_boxes(boxes or {})
    heats = {name: layout.heat(each, number_of_image).numpy() for name, each in values.items()}
    across = min(columns, len(heats))
    down = math.ceil(len(heats) / across)
    colours = _colours(np.stack(list(heats.values())))
    ours = layout.image == number_of_image
    inside = {name: float(each[ours].sum()) for name, each in values.items()}
    traces: list[Any] = []
    for place, (name, heat) in enumerate(heats.items()):
        axes = _axes(place)
        traces.append(_heat(heat, name, axes, colours, bar=place == 0))
        traces += [] if not boxes else _frames(boxes, axes)
        traces += [] if sinks is None else [_crosses(layout, sinks & ours, axes)]
    about = _about(inside, sinks, ours)
    height = down * (_PANEL if across > 1 else 2 * _PANEL) + 30
    figure = lay_out(traces, title, about, height=height)
    for place, name in enumerate(heats):
        _place_panel(figure, picture, place, name, across, down)
    return figure


def token_map(
    tokens: Sequence[str],
    values: Float[Tensor, " token"],
    *,
    kinds: Sequence[str] | None = None,
    title: str = "Token-VHD over the answer",
    columns: int = 10,
) -> go.Figure:
    """An answer, token by token from left to right and line by line, coloured by an amount for each.

    Tokens whose kind is "hallucinated" or "correct" are framed. UsageError unless there is a value, and a kind, for each.
    """
    kinds = ["other"] * len(tokens) if kinds is None else list(kinds)
    if not tokens or not len(tokens) == len(values) == len(kinds):
        raise UsageError(
            f"{len(tokens)} tokens have {len(values)} values and {len(kinds)} kinds; give one of each for every token of "
            "an answer that has at least one"
        )
    across = min(columns, len(tokens))
    down = math.ceil(len(tokens) / across)
    z = np.full(down * across, np.nan)
    z[: len(tokens)] = values.double().numpy()
    text = [plain(token.strip() or "␣") for token in tokens] + [""] * (down * across - len(tokens))
    hover = [
        f"<b>{word}</b> {number(value)}, token {i}, {kind}"
        for i, (word, value, kind) in enumerate(zip(text, values.tolist(), kinds, strict=False))
    ]
    hover += [""] * (down * across - len(tokens))
    shape = (down, across)
    heat = go.Heatmap(
        z=z.reshape(shape),
        text=np.array(text, dtype=object).reshape(shape),
        customdata=np.array(hover, dtype=object).reshape(shape),
        texttemplate="%{text}",
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        xgap=3,
        ygap=3,
        **scale(z),
    )
    frames = [_framed(kind, kinds, across) for kind in MARKED if kind in kinds]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in MARKED if kind in kinds)
    about = f"{len(tokens)} tokens" + (f"; framed: {counts}" if counts else "")
    figure = lay_out([heat, *frames], title, about, height=70 + 38 * down + 30 * bool(frames))
    figure.update_xaxes(visible=False, range=[-0.55, across - 0.45])
    figure.update_yaxes(visible=False, range=[down - 0.45, -0.55])
    return figure


def _axes(place: int) -> dict[str, str]:
    suffix = "" if place == 0 else str(place + 1)
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _heat(heat: np.ndarray, name: str, axes: dict[str, str], colours: dict[str, Any], *, bar: bool) -> go.Heatmap:
    """Heat in no more cells than a screen shows; each is a pixel of the image, and stands where that pixel is."""
    height, width = heat.shape
    step = max(1, math.ceil(max(heat.shape) / _MOST_CELLS))
    rows, pixels = (np.arange(step // 2, length, step) for length in (height, width))
    label = f"<b>{plain(name)}</b> " if name else ""
    return go.Heatmap(
        z=heat[np.ix_(rows, pixels)],
        x=pixels + 0.5,
        y=rows + 0.5,
        showscale=bar,
        hoverongaps=False,
        hovertemplate=f"{label}%{{z:.3g}} at (%{{x:.0f}}, %{{y:.0f}})<extra></extra>",
        **colours,
        **axes,
    )


def _colours(heats: np.ndarray) -> dict[str, Any]:
    """Scale and opacity for all panels; diverging around 0 if some values are negative."""
    found = scale(heats)
    found["colorbar"]["tickformat"] = ".2~g"
    clear = {"colorscale": _GLOW} if found["zmin"] == 0 else {"opacity": 0.6}
    return found | clear


def _frames(boxes: Mapping[str, Sequence[Box]], axes: dict[str, str]) -> list[go.Scatter]:
    x: list[float | None] = []
    y: list[float | None] = []
    for left, top, right, bottom in (box for mine in boxes.values() for box in mine):
        x += [left, right, right, left, left, None]
        y += [top, top, bottom, bottom, top, None]
    named = [(plain(name), box) for name, mine in boxes.items() for box in mine]
    quiet = {"hoverinfo": "skip", "showlegend": False, **axes}
    names = go.Scatter(
        x=[box[0] for _, box in named],
        y=[box[1] for _, box in named],
        text=[name for name, _ in named],
        mode="text",
        textposition="bottom right",
        textfont={"color": "white", "size": 12, "shadow": f"0 0 3px {INK}, 0 0 3px {INK}, 0 0 3px {INK}"},
        **quiet,
    )
    dark, bright = ({"color": colour, "width": width} for colour, width in ((INK, 4), ("white", 2)))
    return [*(go.Scatter(x=x, y=y, mode="lines", line=line, **quiet) for line in (dark, bright)), names]


def _crosses(layout: ImageLayout, sinks: Tensor, axes: dict[str, str]) -> go.Scatter:
    boxes = layout.boxes[sinks & ~layout.boxes.isnan().any(1)]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return go.Scatter(
        x=centre[:, 0].tolist(),
        y=centre[:, 1].tolist(),
        mode="markers",
        marker={"symbol": "x", "size": 11, "color": KINDS["control"], "line": {"width": 1.5, "color": "white"}},
        hovertemplate="sink<extra></extra>",
        showlegend=False,
        **axes,
    )


def _place_panel(figure: go.Figure, picture: Image.Image, place: int, name: str, across: int, down: int) -> None:
    row, column = divmod(place, across)
    suffix = "" if place == 0 else str(place + 1)
    gap, top = 0.03, 0.12 if name else 0.0
    left, right = column / across + gap / 2, (column + 1) / across - gap / 2
    low, high = 1 - (row + 1) / down, 1 - (row + top) / down
    width, height = picture.size
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    figure.update_layout(
        {
            f"xaxis{suffix}": {**hidden, "domain": [left, right], "range": [0, width], "anchor": f"y{suffix}"},
            f"yaxis{suffix}": {
                **hidden,
                "domain": [low, high],
                "range": [height, 0],
                "anchor": f"x{suffix}",
                "scaleanchor": f"x{suffix}",
                "constrain": "domain",
            },
        }
    )
    figure.update_layout({f"xaxis{suffix}_constrain": "domain"})
    figure.add_layout_image(
        source=picture,
        xref=f"x{suffix}",
        yref=f"y{suffix}",
        x=0,
        y=0,
        sizex=width,
        sizey=height,
        sizing="stretch",
        layer="below",
    )
    if name:
        figure.add_annotation(
            x=(left + right) / 2,
            y=high,
            xref="paper",
            yref="paper",
            yanchor="bottom",
            text=plain(name),
            showarrow=False,
        )


def _framed(kind: str, kinds: Sequence[str], across: int) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for i, mine in enumerate(kinds):
        if mine == kind:
            row, column = divmod(i, across)
            left, right, top, bottom = column - 0.47, column + 0.47, row - 0.45, row + 0.45
            x += [left, right, right, left, left, None]
            y += [top, top, bottom, bottom, top, None]
    line = {"color": MARKED[kind], "width": 3, "dash": "solid" if kind == "hallucinated" else "dot"}
    return go.Scatter(x=x, y=y, mode="lines", line=line, name=f"{kind} object", hoverinfo="skip")


def _about(inside: Mapping[str, float], sinks: Tensor | None, ours: Tensor) -> str:
    tokens = int(ours.sum())
    sums = (
        f"{number(next(iter(inside.values())))} in all, over"
        if len(inside) == 1
        else f"{len(inside)} sets of values over"
    )
    marked = "" if sinks is None else f"; crosses: {int((sinks & ours).sum())} sinks"
    return f"{sums} {tokens} image tokens{marked}"


def _check(
    picture: Image.Image,
    layout: ImageLayout,
    values: Mapping[str, Tensor],
    sinks: Tensor | None,
    number_of_image: int,
) -> None:
    if not values:
        raise UsageError("there are no values to draw; give an amount for each image token")
    if not 0 <= number_of_image < len(layout.sizes):
        raise UsageError(f"image {number_of_image} was asked for, but the layout has {len(layout.sizes)}, from 0")
    if picture.size != layout.sizes[number_of_image]:
        raise UsageError(
            f"the image is {picture.size[0]} x {picture.size[1]} pixels, but the layout was made for one of "
            f"{layout.sizes[number_of_image][0]} x {layout.sizes[number_of_image][1]}; give the image of this sample"
        )
    for name, each in {**values, **({} if sinks is None else {"sinks": sinks})}.items():
        if len(each) != len(layout):
            raise UsageError(
                f"{len(each)} values of {name!r} were given for {len(layout)} image tokens; give one for each"
            )
    if any(not torch.isfinite(each).all() for each in values.values()):
        raise UsageError("some values are not finite; give an amount for each image token, 0 for none")


def _check_boxes(boxes: Mapping[str, Sequence[Box]]) -> None:
    for name, mine in boxes.items():
        for left, top, right, bottom in mine:
            if not (left < right and top < bottom):
                raise UsageError(
                    f"box {(left, top, right, bottom)} of {name!r} is empty; give left, top, right, bottom in pixels"
                )
