"""What is shown, as files: a table as CSV or parquet, tables and figures as one web page."""

from collections.abc import Sequence
from io import BytesIO

import pandas as pd

from headscope.figures import report
from headscope.figures.page import Section


def as_csv(table: pd.DataFrame) -> bytes:
    """The table as CSV in UTF-8."""
    return table.to_csv(index=False).encode("utf-8")


def as_parquet(table: pd.DataFrame) -> bytes:
    """The table as parquet, its types kept."""
    file = BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def as_html(title: str, sections: Sequence[Section]) -> bytes:
    """One page that needs no network; see `headscope.figures.report`."""
    return report(title, sections).encode("utf-8")
