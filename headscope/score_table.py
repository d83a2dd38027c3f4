"""The head-score table: means of heads with intervals, of several models and metrics in one parquet file.

A row is one head under one metric of one model. The columns are those of `HeadScores.to_dataframe`; further ones are
kept as they are. The version of the schema stands in the file's own metadata, under the key `headscope`.
"""

import json
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import torch

from headscope.errors import UsageError
from headscope.files import write_new
from headscope.runs import Run
from headscope.score_columns import COLUMNS, ORIGIN, as_arrow, checked_rows
from headscope.scores import HeadScores

__all__ = [
    "COLUMNS",
    "RUN_TABLE",
    "SCHEMA",
    "head_table",
    "read_head_table",
    "save_head_table",
    "scores_of_table",
    "write_head_table",
]

SCHEMA = 1
"""Version of the table that `write_head_table` writes."""

RUN_TABLE = "head_scores"
"""Name of the table in a run."""

_KIND = "head scores"
_MOST_HEADS = 10**6
_NEXT = "write it with headscope.score_table.write_head_table, which checks a DataFrame and adds what is missing"


def head_table(scores: Iterable[HeadScores]) -> pd.DataFrame:
    """One table of several scores; UsageError if two of them say something about the same head, model and metric.

    A seed that is no whole number has no place in the table, and is left out.
    """
    tables = [_described(one).to_dataframe() for one in scores]
    if not tables:
        raise UsageError("a head-score table was asked for of no scores; give at least one HeadScores")
    typed = [checked_rows(as_arrow(table, "the scores"), "the scores") for table in tables]
    return checked_rows(as_arrow(pd.concat(typed, ignore_index=True), "the scores"), "the scores")


def write_head_table(path: str | Path, table: pd.DataFrame) -> None:
    """A new parquet file with the table; UsageError if it is no head-score table or the file exists."""
    checked = checked_rows(as_arrow(table, "the table"), "the table")
    arrow = as_arrow(checked, "the table")
    about = json.dumps({"table": _KIND, "schema": SCHEMA}).encode()
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"headscope": about})
    write_new(Path(path), lambda file: pyarrow.parquet.write_table(arrow, file))


def read_head_table(path: str | Path) -> pd.DataFrame:
    """The table in a file, `seed` as nullable integers.

    UsageError for a file that is missing, cut short or of another schema, and for columns, types, heads or intervals
    that cannot be: it names the first of them.
    """
    path = Path(path)
    return checked_rows(_read(path), str(path))


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
    chosen = checked_rows(as_arrow(table, source), source)
    for column, wanted in (("model", model), ("metric", metric)):
        if wanted is not None:
            chosen = chosen[chosen[column] == wanted]
    origins = [_origin(values) for values in chosen[list(ORIGIN)].drop_duplicates().itertuples(index=False)]
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


def _described(scores: HeadScores) -> HeadScores:
    """The scores with what the table says of them only, in the table's types."""
    meta = {key: str(scores.meta[key]) for key in ("model", "revision", "template") if scores.meta.get(key) is not None}
    seed = scores.meta.get("seed")
    whole = {"seed": int(seed)} if isinstance(seed, Integral) and not isinstance(seed, bool) else {}
    return HeadScores(scores.samples, scores.metric, meta | whole)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give the path of a head-score table (parquet)")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:120]
        raise UsageError(f"{path} is not a whole parquet file ({said}); fetch or compute it again") from error
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
    found = {name: None if pd.isna(value) else value for name, value in zip(ORIGIN, values, strict=True)}
    return found | {"seed": None if found["seed"] is None else int(found["seed"])}
