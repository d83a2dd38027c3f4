"""The dashboard's frame: pages, and a sidebar with the runs. Run by Streamlit; see `headscope dashboard`."""

import sys

import streamlit as st

from dashboards.components import place
from dashboards.icon import icon
from dashboards.settings import read_settings

st.set_page_config(page_title="headscope", page_icon=icon(), layout="wide")
page = st.navigation(
    [
        st.Page("views/runs.py", title="Runs", icon=":material/list:", default=True),
        st.Page("views/atlas.py", title="Head atlas", icon=":material/grid_on:"),
        st.Page("views/head.py", title="Head", icon=":material/center_focus_strong:"),
        st.Page("views/attention.py", title="Attention", icon=":material/visibility:"),
        st.Page("views/retrieval.py", title="Retrieval", icon=":material/search:"),
        st.Page("views/sinks.py", title="Sinks", icon=":material/filter_alt:"),
        st.Page("views/vision.py", title="Vision", icon=":material/image:"),
        st.Page("views/interventions.py", title="Interventions", icon=":material/tune:"),
        st.Page("views/ablations.py", title="Ablations", icon=":material/content_cut:"),
        st.Page("views/probes.py", title="Probes", icon=":material/sensors:"),
    ]
)
place.choose(read_settings(sys.argv[1:]))
page.run()
