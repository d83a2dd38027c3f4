"""What a sweep has found: effects with intervals, and the costliest at once beside random ones."""

from collections.abc import Sequence

import pandas as pd

from dashboards.reading import RunCard, damaged, run_table
from experiments.compare import Comparison
from experiments.over_controls import over_controls
from headscope.errors import HeadscopeError, UsageError
from headscope.heads import Head
from headscope.runs import Run

_NUMBERS = ("effect", "low", "high", "n", "p", "q")


def is_sweep(card: RunCard) -> bool:
    """Whether a run holds the effects of a sweep."""
    return {"units", "effects"} <= set(card.tables)


def sweeps(cards: Sequence[RunCard]) -> tuple[RunCard, ...]:
    """The runs that do."""
    return tuple(card for card in cards if is_sweep(card))


def effects_of(run: Run) -> pd.DataFrame:
    """A row for each unit, the largest effect first: unit, effect, low, high, n, p, q; UsageError for other tables."""
    table = run_table(run, "units")
    lacking = [name for name in ("unit", *_NUMBERS) if name not in table.columns]
    if lacking or table.empty:
        raise UsageError(f"the effects of {run.path.name} have no {lacking[0] if lacking else 'rows'}; sweep again")
    try:
        return table.astype(dict.fromkeys(_NUMBERS, float) | {"unit": str})[["unit", *_NUMBERS]]
    except (TypeError, ValueError) as error:
        raise damaged(run, "units", error) from error


def effect_map(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects as a map is drawn from (layer, head, name, value, low, high, n); empty if units are more than a head."""
    try:
        heads = [Head.parse(unit) for unit in effects["unit"]]
    except HeadscopeError:
        return pd.DataFrame(columns=["layer", "head", "name", "value", "low", "high", "n"])
    place = {"layer": [head.layer for head in heads], "head": [head.head for head in heads]}
    values = effects.rename(columns={"effect": "value"})[["value", "low", "high", "n"]].reset_index(drop=True)
    return pd.DataFrame({**place, "name": list(map(str, heads))}).join(values).assign(n=lambda t: t["n"].astype(int))


def effect_bars(effects: pd.DataFrame, most: int = 15) -> pd.DataFrame:
    """The largest effects as `causal_bars` draws them."""
    shown = effects.head(most)
    return shown.rename(columns={"unit": "condition", "effect": "mean"}).assign(kind="treatment")


def together_of(run: Run) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Conditions of the costliest at once (families), and how far beyond their controls; None where none was tried."""
    if "together" not in run.table_names():
        return None
    found = Comparison(run_table(run, "together"))
    try:
        return found.families(), over_controls(found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise damaged(run, "together", error) from error


def mode_of(run: Run) -> str:
    """What taken out means: a mode of `Ablate`; empty where the run does not say."""
    config = run.facts.get("config")
    mode = config.get("mode") if isinstance(config, dict) else None
    return mode if isinstance(mode, str) else ""


def metric_of(run: Run) -> str:
    """What was measured of the answer."""
    config = run.facts.get("config")
    metric = config.get("metric") if isinstance(config, dict) else None
    return metric if isinstance(metric, str) else "the metric"
