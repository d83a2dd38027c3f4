"""Columns of the head-score table, their types, and what every row has to hold to."""

from typing import Any

import pandas as pd
import pyarrow

from headscope.errors import UsageError
from headscope.heads import Head

_TEXT, _WHOLE, _NUMBER = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
_COLUMNS = {
    "model": _TEXT,
    "revision": _TEXT,
    "layer": _WHOLE,
    "head": _WHOLE,
    "name": _TEXT,
    "metric": _TEXT,
    "value": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "n": _WHOLE,
    "seed": _WHOLE,
    "template": _TEXT,
}
COLUMNS = tuple(_COLUMNS)
"""Columns that every head-score table has, in this order."""

ORIGIN = ("model", "revision", "metric", "seed", "template")
"""What tells two sets of scores apart."""

_KEY = [*ORIGIN, "layer", "head"]
_FILLED = ("layer", "head", "name", "metric", "value", "n")
_TOLERANCE = 1e-6  # a mean kept in float32 may lie that far outside an interval worked out in float64


def checked_rows(table: Any, source: str) -> pd.DataFrame:
    """The table with its columns in order and in their types; UsageError says what is wrong in `source`."""
    there = list(table.column_names)
    missing = [name for name in COLUMNS if name not in there]
    if missing:
        raise UsageError(f"{source} has no column {', '.join(missing)}; a head-score table has {', '.join(COLUMNS)}")
    typed = {name: _typed(table[name], name, source) for name in COLUMNS}
    frame = pyarrow.table(typed).to_pandas(types_mapper={_WHOLE: pd.Int64Dtype()}.get)
    for name in _FILLED:
        if frame[name].isna().any():
            raise UsageError(f"{source} has no {name} in row {frame[name].isna().idxmax()}; fill it in")
    frame = frame.astype({"layer": "int64", "head": "int64", "n": "int64"})
    _check_rows(frame, source)
    others = [name for name in there if name not in COLUMNS]
    return pd.concat([frame, table.select(others).to_pandas()], axis=1) if others else frame


def _check_rows(frame: pd.DataFrame, source: str) -> None:
    if frame.empty:
        raise UsageError(f"{source} has no rows; a head-score table has one for each head")
    room = _TOLERANCE * frame["value"].abs().clip(lower=1)
    inside = (frame["low"] - room <= frame["value"]) & (frame["value"] <= frame["high"] + room)
    finite = ~frame[["value", "low", "high"]].isin([float("inf"), float("-inf")]).any(axis=1)
    names = [str(Head(layer, head)) for layer, head in zip(frame["layer"], frame["head"], strict=True)]
    rules = {
        "has a negative layer or head; count from 0": (frame["layer"] >= 0) & (frame["head"] >= 0),
        "has a name that is not its layer and head; write L5H3": frame["name"] == names,
        "has an n below 1; n is the number of samples behind the value": frame["n"] >= 1,
        "has an infinite value or interval; give finite numbers": finite,
        "has one end of an interval only; give both or none": frame["low"].isna() == frame["high"].isna(),
        "has its value outside low to high": inside | frame["low"].isna() | frame["high"].isna(),
        "stands there twice, for the same model, metric, seed and template; keep one": ~frame.duplicated(_KEY),
    }
    for said, fine in rules.items():
        if not fine.all():
            row = int((~fine).to_numpy().argmax())
            raise UsageError(f"{source}: {frame['name'][row]} ({frame['metric'][row]}, row {row}) {said}")


def _typed(column: Any, name: str, source: str) -> Any:
    wanted = _COLUMNS[name]
    fits = {
        _TEXT: _is_text,
        _WHOLE: lambda kind: pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind),
        _NUMBER: lambda kind: pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind),
    }[wanted]
    try:
        if pyarrow.types.is_null(column.type) or fits(column.type):
            return column.cast(wanted)  # a fraction where a whole number belongs does not cast
    except pyarrow.ArrowInvalid:
        pass
    raise UsageError(f"{source}: the column {name} holds {column.type}, a head-score table has {wanted} there")


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def as_arrow(table: pd.DataFrame, source: str) -> Any:
    """The table as Arrow holds it; UsageError for a column with values of several types."""
    try:
        return pyarrow.Table.from_pandas(table, preserve_index=False)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(f"{source} mixes types in a column, or has one twice ({error}); mend it") from error
