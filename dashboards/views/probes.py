"""Probes: what can be read in which layers or heads, beside controls; and two probes side by side."""

import streamlit as st

from dashboards.components import downloads, notice, probe_parts, recipe
from dashboards.components.place import readable_run
from dashboards.probe_recipe import probe_recipe
from dashboards.probed import COMMAND
from dashboards.reading import open_run

st.title("Probes")
place, card = readable_run()
if card.command != COMMAND:
    probe_parts.nothing(place)
    st.stop()
with notice.guarded("These probes cannot be shown."):
    found = probe_parts.results(place.runs, card.name)
    key = probe_parts.choose(found)
    result, run = found[key], open_run(place.runs, card.name)
    table = probe_parts.score(f"{card.name} {key}", result)
    probe_parts.shares(run, key)
    probe_parts.compared(place, card.name, key, result)
    downloads.show(f"{card.name}-probe", table, title=f"{key} in {card.name}", sections=[("Figure", result.plot())])
    recipe.show(probe_recipe(run.path, key, run.facts))
