"""What a run knows of attention sinks: in texts, in images, and which heads are worth calibrating."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboards.reading import RunCard, damaged, open_run, run_table
from experiments.sinks.removal import Metric, Removal
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run

TEXT = ("first_token", "later_sinks")
IMAGE = ("sink_mass",)
_GAIN = {"layer", "head", "name", "gain", "se", "kept"}
_TOKENS = ("tokens", "sink_tokens")
_LAYERS = ("layers", "sinks_by_layer")


@dataclass(frozen=True)
class Filtered:
    """Heads that were calibrated one by one, and those kept, on samples that had no part in the choice."""

    heads: pd.DataFrame
    """A row a candidate: layer, head, name, gain, its standard error, whether it was kept."""
    held_out: pd.DataFrame
    """A row for each task and condition."""
    stability: pd.DataFrame


def scores_of(card: RunCard) -> tuple[str, ...]:
    """Scores about sinks that a run holds: of texts, or else of images and their captions."""
    return next((kind for kind in (TEXT, IMAGE) if set(kind) <= set(card.scores)), ())


def shows_sinks(card: RunCard) -> bool:
    """Whether a run holds anything for the page on sinks."""
    return bool(scores_of(card)) or is_filter(card)


def is_filter(card: RunCard) -> bool:
    """Whether a run chose heads for calibration."""
    return {"heads", "held_out_families", "stability"} <= set(card.tables)


def filter_runs(cards: Sequence[RunCard], card: RunCard) -> tuple[str, ...]:
    """Names of the runs on the same model that chose heads for calibration, the chosen run in front if it is one."""
    same = [one for one in cards if is_filter(one) and one.shares_model(card)]
    return tuple(sorted((one.name for one in same), key=lambda name: name != card.name))


def tokens_of(run: Run) -> pd.DataFrame:
    """Which tokens are sinks, the most frequent first; empty where none is."""
    return _first(run, _TOKENS)


def layers_of(run: Run) -> pd.DataFrame:
    """Layer by layer, how many sinks there are."""
    return _first(run, _LAYERS)


def removal_of(run: Run, metric: Metric) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Changes from the plain model without the sinks and without controls, and how much more the sinks matter.

    None where nothing was cut.
    """
    if "removal" not in run.table_names():
        return None
    with whole(run, "removal"):
        found = Removal(run_table(run, "removal"))
        rows = found.families(metric)
        apart = rows[rows["kind"] != "none"].drop(columns=["mean", "low", "high"])
        names = {"difference": "mean", "difference_low": "low", "difference_high": "high"}
        changes = apart.rename(columns=names)
        return (changes, found.contrasts(metric)) if len(changes) else None


def how_cut(run: Run) -> str:
    """`masked` or `zeroed`."""
    config = run.facts.get("config")
    how = config.get("how") if isinstance(config, dict) else None
    return "zeroed" if how == "zeroed" else "masked"


def filtered(runs: Path, name: str) -> Filtered:
    """Heads chosen for calibration; UsageError for a run that holds other tables under these names."""
    run = open_run(runs, name)
    heads, held_out = run_table(run, "heads"), run_table(run, "held_out_families")
    if not set(heads.columns) >= _GAIN or "task" not in held_out.columns:
        raise UsageError(f"{name} holds no gains of heads; a run of `headscope heads filter` does")
    if heads.empty:
        raise UsageError(f"{name} tried no head; give `headscope heads filter` some with --heads")
    with whole(run, "heads"):
        heads = heads.astype({"layer": int, "head": int, "gain": float, "se": float, "kept": bool})
    return Filtered(heads, held_out, run_table(run, "stability"))


def gain_map(heads: pd.DataFrame) -> pd.DataFrame:
    """Gains as a map is drawn from: layer, head, name, value and se, its standard error."""
    table = heads.rename(columns={"gain": "value"})[["layer", "head", "name", "value", "se"]]
    return table.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)


@contextmanager
def whole(run: Run, name: str) -> Iterator[None]:
    """A table whose columns are not what they should be is damaged, and said to be."""
    try:
        yield
    except HeadscopeError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise damaged(run, name, error) from error


def _first(run: Run, names: Sequence[str]) -> pd.DataFrame:
    name = next((name for name in names if name in run.table_names()), None)
    return pd.DataFrame() if name is None else run_table(run, name)
