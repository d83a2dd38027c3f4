"""Rows of a run's table that are about one head, read without making a table of all the others."""

from collections.abc import Sequence

import pandas as pd
import pyarrow
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

from dashboards.reading import damaged
from headscope.files import file_name
from headscope.heads import Head
from headscope.runs import Run


def rows_of_head(run: Run, name: str, head: Head) -> pd.DataFrame | None:
    """Rows with the head's `layer` and `head`, or else its name such as `L2H5` as `name`, `unit` or `head`.

    None for a table that names no heads, of which only the end of the file is read; UsageError for a damaged one.
    """
    try:
        with ParquetFile(run.path / file_name(name, ".parquet")) as file:
            naming = _naming(file.schema_arrow.names)
            if not naming:
                return None
            table = file.read(use_threads=False)
        return table.filter(_is_of(table, naming, head)).to_pandas().reset_index(drop=True)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(run, name, error) from error


def _naming(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that say which head a row is about."""
    if {"layer", "head"} <= set(columns):
        return ("layer", "head")
    return next(((column,) for column in ("name", "unit", "head") if column in columns), ())


def _is_of(table: pyarrow.Table, naming: Sequence[str], head: Head) -> pyarrow.ChunkedArray:
    if len(naming) == 2:
        return pc.and_(pc.equal(table["layer"], head.layer), pc.equal(table["head"], head.head))
    return pc.equal(table[naming[0]].cast(pyarrow.string()), str(head))
