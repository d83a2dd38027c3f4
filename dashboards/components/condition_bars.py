"""Conditions beside their controls, with intervals."""

import pandas as pd

from dashboards.components import figure
from dashboards.narrow_bars import with_short_lines
from headscope.figures import causal_bars


def show(table: pd.DataFrame, *, title: str, alt: str, key: str) -> None:
    """The bars of `causal_bars`, readable on a phone as well."""
    drawn = causal_bars(table, title=title)
    figure.show(with_short_lines(drawn) if figure.narrow() else drawn, alt=alt, key=key)
