"""Tables as parquet files, whole or absent; what cannot be kept or read is a UsageError."""

from pathlib import Path

import pandas as pd
import pyarrow

from headscope.errors import UsageError
from headscope.files import write_new


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A new file with the table; UsageError if the name is taken or the table mixes types in a column."""
    try:
        write_new(path, lambda file: table.to_parquet(file))
    except UsageError:
        raise
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(
            f"the table for {path.name} cannot be kept as parquet ({error}); use one type in each column"
        ) from error


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file; UsageError if the file is cut short or no parquet."""
    try:
        return pd.read_parquet(path)
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file could not be opened at all
            raise
        raise UsageError(f"{path} is not a whole parquet file ({error}); remove it and compute it again") from error
