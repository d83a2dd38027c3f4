"""Links between the pages that show one head; run and head stand in the address."""

import streamlit as st

from dashboards.plain import plain
from headscope.heads import Head


def show(run: str, head: Head) -> None:
    """To the page of the head."""
    st.page_link(
        "views/head.py",
        label=f"All that is known of {plain(head)}",
        icon=":material/arrow_forward:",
        query_params={"run": run, "head": str(head)},
    )


def to_attention(run: str, head: Head, model: str) -> None:
    """To what the head attends to."""
    st.page_link(
        "views/attention.py",
        label=f"What {plain(head)} attends to",
        icon=":material/visibility:",
        query_params={"run": run, "head": str(head), "model": model},
    )
