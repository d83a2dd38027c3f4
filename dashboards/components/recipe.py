"""How to get what is shown without the dashboard."""

import streamlit as st

from dashboards.reproduce import Recipe


def show(recipe: Recipe) -> None:
    """The command line and the Python, to copy; they are shown and never run."""
    with st.expander("Reproduce this", icon=":material/terminal:"):
        if recipe.command:
            st.caption("On the command line")
            st.code(recipe.command, language="bash", wrap_lines=True)
        st.caption("In Python")
        st.code(recipe.python, language="python", wrap_lines=True)
