"""A figure of patching by layer and place."""

import pandas as pd
import plotly.graph_objects as go

from headscope.figures.layout import lay_out, number, plain, scale


def position_map(table: pd.DataFrame, metric: str, model: str = "") -> go.Figure:
    """Mean of every layer and position, layer 0 at the bottom; hover shows the interval.

    The table is that of `PositionScores.to_dataframe`.
    """
    positions = list(dict.fromkeys(table["position"]))
    layers = sorted(set(table["layer"]))
    cells = table.set_index(["layer", "position"])
    values = cells["value"].unstack().reindex(index=layers, columns=positions).to_numpy(float)
    hover = [[_hover(layer, place, cells.loc[(layer, place)]) for place in positions] for layer in layers]
    heat = go.Heatmap(
        z=values,
        x=[plain(place) for place in positions],
        y=list(map(str, layers)),
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        xgap=0.5,
        ygap=0.5,
        **scale(values),
    )
    n = int(table["n"].iloc[0])
    figure = lay_out(
        [heat], metric, f"{model}, n = {n}" if model else f"n = {n}", height=max(240, 110 + 24 * len(layers))
    )
    figure.update_xaxes(title="position", type="category", showgrid=False)
    figure.update_yaxes(title="layer", type="category", showgrid=False)
    return figure


def _hover(layer: int, place: str | int, cell: pd.Series) -> str:
    ends = f"[{number(cell['low'])}, {number(cell['high'])}]"
    return f"layer {layer}, {plain(place)}: <b>{number(cell['value'])}</b> {ends}, n = {int(cell['n'])}"
