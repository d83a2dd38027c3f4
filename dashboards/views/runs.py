"""Runs: which there are, what one of them holds, and how two of them differ."""

import streamlit as st

from dashboards.components import compare_runs, recipe, run_contents, run_list
from dashboards.components.place import here, readable_run
from dashboards.reproduce import runs_recipe

st.title("Runs")
place = here()
if place.cards:
    run_list.show(place.cards)
place, card = readable_run()
st.subheader("The chosen run")
run_contents.show(place.runs, card)
st.subheader("Two runs side by side")
other = compare_runs.show(place.runs, card, place.cards)
recipe.show(runs_recipe(place.runs, card.name, other))
