"""How to get what is shown without the dashboard."""

import streamlit as st

from dashboards.plain import sendable
from dashboards.reproduce import Recipe


def show(recipe: Recipe) -> None:
    """The command line and the Python, to copy; they are shown and never run."""
    with st.expander("Reproduce this", icon=":material/terminal:"):
        if recipe.command:
            st.caption("On the command line")
            st.code(sendable(recipe.command), language="bash", wrap_lines=True)
        st.caption("In Python")
        st.code(sendable(recipe.python), language="python", wrap_lines=True)
