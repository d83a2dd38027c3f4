"""The head-score table: means of heads with intervals, of several models and metrics in one parquet file.

A row is one head under one metric of one model. The columns are those of `HeadScores.to_dataframe`; further ones are
kept as they are. The version of the schema stands in the file's own metadata, under the key `headscope`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import torch

from headscope.errors import UsageError
from headscope.files import write_new
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores

SCHEMA = 1
"""Version of the table that `write_head_table` writes."""

RUN_TABLE = "head_scores"
"""Name of the table in a run."""

_KIND = "head scores"
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

_ORIGIN = ("model", "revision", "metric", "seed", "template")
_KEY = [*_ORIGIN, "layer", "head"]
_FILLED = ("layer", "head", "name", "metric", "value", "n")
_TOLERANCE = 1e-6  # a mean kept in float32 may lie that far outside an interval worked out in float64
_MOST_HEADS = 10**6
_NEXT = "write it with headscope.score_table.write_head_table, which checks a DataFrame and adds what is missing"


def head_table(scores: Iterable[HeadScores]) -> pd.DataFrame:
    """One table of several scores; UsageError if two of them say something about the same head, model and metric."""
    tables = [one.to_dataframe() for one in scores]
    if not tables:
        raise UsageError("a head-score table was asked for of no scores; give at least one HeadScores")
    typed = [_checked(_as_arrow(table, "the scores"), "the scores") for table in tables]
    return _checked(_as_arrow(pd.concat(typed, ignore_index=True), "the scores"), "the scores")


def write_head_table(path: str | Path, table: pd.DataFrame) -> None:
    """A new parquet file with the table; UsageError if it is no head-score table or the file exists."""
    checked = _checked(_as_arrow(table, "the table"), "the table")
    arrow = _as_arrow(checked, "the table")
    about = json.dumps({"table": _KIND, "schema": SCHEMA}).encode()
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"headscope": about})
    write_new(Path(path), lambda file: pyarrow.parquet.write_table(arrow, file))


def read_head_table(path: str | Path) -> pd.DataFrame:
    """The table in a file, `seed` as nullable integers.

    UsageError for a file that is missing, cut short or of another schema, and for columns, types, heads or intervals
    that cannot be: it names the first of them.
    """
    path = Path(path)
    return _checked(_read(path), str(path))


def save_head_table(run: Run, scores: Iterable[HeadScores]) -> None:
    """Keeps the scores as the head-score table of a run, unless it has one."""
    if RUN_TABLE not in run.table_names():
        write_head_table(run.path / f"{RUN_TABLE}.parquet", head_table(scores))


def scores_of_table(
    table: pd.DataFrame, *, model: str | None = None, metric: str | None = None, source: str = "a head-score table"
) -> HeadScores:
    """The means of one model and metric in a table as HeadScores with a single sample.

    Heads that the table leaves out count as heads that do not exist. The samples behind the means are not in a table, so
    intervals cannot be computed again: those of the table stay in the table, and `meta` says so. UsageError lists what
    there is where the table has scores of several models, metrics, seeds or templates.
    """
    chosen = _checked(_as_arrow(table, source), source)
    for column, wanted in (("model", model), ("metric", metric)):
        if wanted is not None:
            chosen = chosen[chosen[column] == wanted]
    origins = [_origin(values) for values in chosen[list(_ORIGIN)].drop_duplicates().itertuples(index=False)]
    if len(origins) != 1:
        there = table[["model", "metric"]].drop_duplicates().itertuples(index=False)
        listed = "; ".join(f"model {one.model!r}, metric {one.metric!r}" for one in there)
        raise UsageError(
            f"{source} has {len(origins)} sets of scores of model {model or 'any'!r} and metric {metric or 'any'!r}, one "
            f"is needed; it has: {listed}. Name a model and a metric, or take the rows you mean from the table"
        )
    origin, counts = origins[0], chosen["n"].unique().tolist()
    layers, heads = (int(chosen[axis].max()) + 1 for axis in ("layer", "head"))
    if layers * heads > _MOST_HEADS:
        raise UsageError(f"{source} names heads up to L{layers - 1}H{heads - 1}, more than any model has; correct them")
    grid = torch.full((1, layers, heads), torch.nan, dtype=torch.float64)
    grid[0, chosen["layer"].tolist(), chosen["head"].tolist()] = torch.tensor(chosen["value"].tolist()).double()
    meta = {key: origin[key] for key in ("model", "revision", "seed", "template")}
    kept = "one sample: the means of a table; its intervals and n stay in the table and were not computed again"
    return HeadScores(
        grid, origin["metric"], meta | {"n": counts[0] if len(counts) == 1 else None, "source": source, "samples": kept}
    )


def _checked(table: Any, source: str) -> pd.DataFrame:
    """The table with its columns in order and in their types; UsageError says what is wrong in `source`."""
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UsageError(f"{source} has no column {', '.join(missing)}; a head-score table has {', '.join(COLUMNS)}")
    typed = {name: _typed(table[name], name, source) for name in COLUMNS}
    frame = pyarrow.table(typed).to_pandas(types_mapper={_WHOLE: pd.Int64Dtype()}.get)
    for name in _FILLED:
        if frame[name].isna().any():
            raise UsageError(f"{source} has no {name} in row {frame[name].isna().idxmax()}; fill it in")
    frame = frame.astype({"layer": "int64", "head": "int64", "n": "int64"})
    _check_rows(frame, source)
    others = [name for name in table.column_names if name not in COLUMNS]
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


def _as_arrow(table: pd.DataFrame, source: str) -> Any:
    try:
        return pyarrow.Table.from_pandas(table, preserve_index=False)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(f"{source} mixes types in a column ({error}); use one type in each") from error


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give the path of a head-score table (parquet)")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{path} is not a whole parquet file ({error}); fetch or compute it again") from error
    _check_schema((table.schema.metadata or {}).get(b"headscope"), path)
    return table


def _check_schema(about: bytes | None, path: Path) -> None:
    if about is None:
        raise UsageError(f"{path} does not say that it is a head-score table, nor of which schema; {_NEXT}")
    try:
        facts = json.loads(about)
    except ValueError:
        facts = None
    schema = facts.get("schema") if isinstance(facts, dict) and facts.get("table") == _KIND else None
    if type(schema) is not int or schema < 1:
        raise UsageError(f"{path} says it is {about.decode(errors='replace')[:80]}, not a head-score table; {_NEXT}")
    if schema > SCHEMA:
        raise UsageError(f"{path} has schema {schema}, this headscope reads up to {SCHEMA}; update headscope")


def _origin(values: Any) -> dict[str, Any]:
    found = {name: None if pd.isna(value) else value for name, value in zip(_ORIGIN, values, strict=True)}
    return found | {"seed": None if found["seed"] is None else int(found["seed"])}
