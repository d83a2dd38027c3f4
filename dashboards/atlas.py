"""Head scores as the table that a map is drawn from."""

import pandas as pd

from headscope.scores import HeadScores


def map_table(scores: HeadScores) -> pd.DataFrame:
    """A row for each head, the best first: layer, head, name, value, low, high, rank (1 is best), active, n.

    Heads of equal value share a rank, as on a head's own page.
    """
    table = scores.to_dataframe()[["layer", "head", "name", "value", "low", "high", "n"]]
    active = scores.activation_frequency()
    table["active"] = [float(active[row.layer, row.head]) for row in table.itertuples()]
    table = table.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)
    table.insert(4, "rank", table["value"].rank(method="min", ascending=False).astype(int))
    return table


def map_caption(metric: str, table: pd.DataFrame) -> str:
    """What a map shows, in words: its best heads, or the largest by size where some are below 0, and the range."""
    low, high = table["value"].min(), table["value"].max()
    signed = low < 0
    order = table["value"].abs() if signed else table["value"]
    first = table.loc[order.sort_values(ascending=False, kind="stable").index[:3]]
    named = ", ".join(f"{row.name} {row.value:{'+' if signed else ''}.3g}" for row in first.itertuples(index=False))
    amount = f"mean of each head, n = {table['n'].iloc[0]}" if "n" in table.columns else "each head"
    layers, heads = table["layer"].max() + 1, table["head"].max() + 1
    return (
        f"{metric}: {amount}, {layers} layers by {heads} heads, layer 0 at the bottom; from {low:.3g} to {high:.3g}; "
        f"{'largest by size' if signed else 'highest'} are {named}."
    )
