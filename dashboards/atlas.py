"""Head scores as the table that a map is drawn from."""

import pandas as pd

from headscope.scores import HeadScores


def map_table(scores: HeadScores) -> pd.DataFrame:
    """A row for each head, the best first: layer, head, name, value, low, high, rank (1 is best), active, n."""
    table = scores.to_dataframe()[["layer", "head", "name", "value", "low", "high", "n"]]
    active = scores.activation_frequency()
    table["active"] = [float(active[row.layer, row.head]) for row in table.itertuples()]
    table = table.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)
    table.insert(4, "rank", table.index + 1)
    return table


def map_caption(metric: str, table: pd.DataFrame) -> str:
    """What a map shows, in words: its best heads and the range of values."""
    best = ", ".join(f"{row.name} {row.value:.3g}" for row in table.head(3).itertuples(index=False))
    low, high = table["value"].min(), table["value"].max()
    amount = f"mean of each head, n = {table['n'].iloc[0]}" if "n" in table.columns else "each head"
    layers, heads = table["layer"].max() + 1, table["head"].max() + 1
    return (
        f"{metric}: {amount}, {layers} layers by {heads} heads, layer 0 at the bottom; from {low:.3g} to {high:.3g}; "
        f"highest are {best}."
    )
