"""What is shown, to keep: as CSV, parquet or a web page."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboards import export
from headscope.figures.page import Section


def show(name: str, table: pd.DataFrame, *, title: str, sections: Sequence[Section] = (), key: str = "") -> None:
    """Three buttons; files are made when one is pressed. The page holds `sections`, then the table."""
    whole = [*sections, ("All numbers", table)]
    kinds = {
        "CSV": (f"{name}.csv", "text/csv", partial(export.as_csv, table)),
        "Parquet": (f"{name}.parquet", "application/vnd.apache.parquet", partial(export.as_parquet, table)),
        "HTML": (f"{name}.html", "text/html", partial(export.as_html, title, whole)),
    }
    with st.container(horizontal=True):
        for label, (file, mime, made) in kinds.items():
            st.download_button(
                label,
                made,
                file,
                mime,
                key=f"download: {key or name} {label}",
                on_click="ignore",
                icon=":material/download:",
            )
