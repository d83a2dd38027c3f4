"""Figures of saved results: each takes scores or a table, needs no model, and returns a plotly figure."""

from headscope.figures.images import attention_overlay, overlay_grid, token_map
from headscope.figures.norms import norm_lines
from headscope.figures.page import report
from headscope.figures.scores import frequency_scatter, head_map, score_histogram, score_scatter
from headscope.figures.tables import causal_bars, length_depth_map

__all__ = [
    "attention_overlay",
    "causal_bars",
    "frequency_scatter",
    "head_map",
    "length_depth_map",
    "norm_lines",
    "overlay_grid",
    "report",
    "score_histogram",
    "score_scatter",
    "token_map",
]
