"""Two runs side by side: what was asked differently, and how far their scores agree."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboards.plain import sendable
from headscope.errors import UsageError
from headscope.scores import HeadScores


def flat_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a run says of itself as text, nested keys joined by dots; the self-check is left to its own table."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if key == "self_check":
            continue
        if isinstance(value, Mapping) and value:
            flat |= {sendable(f"{key}.{inner}"): _said(entry) for inner, entry in value.items()}
        else:
            flat[sendable(key)] = _said(value)
    return flat


def differing(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> pd.DataFrame:
    """A row for each fact in which two runs differ."""
    a, b = flat_facts(first), flat_facts(second)
    keys = [key for key in a | b if a.get(key) != b.get(key)]
    columns = {"fact": keys, names[0]: [a.get(key, "") for key in keys], names[1]: [b.get(key, "") for key in keys]}
    return pd.DataFrame(columns)


def agreement(a: HeadScores, b: HeadScores, k: int) -> dict[str, float]:
    """Pearson's r over heads and the Jaccard index of the top k; UsageError for models of different shape."""
    most = min(len(a.heads), len(b.heads))
    if not 1 <= k <= most:
        raise UsageError(f"k is {k}, but {most} heads can be compared; use a k from 1 to {most}")
    return {"r": a.correlation(b), "overlap": a.overlap(b, k)}


def _said(value: Any) -> str:
    return sendable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
