"""Ablations: start a sweep, watch it, stop it, resume it; and what heads taken out one by one are worth."""

import streamlit as st

from dashboards.components import downloads, notice, recipe, sweep_form, sweep_parts, sweep_watch
from dashboards.components.place import here
from dashboards.reading import open_run
from dashboards.sweep_recipe import sweep_recipe
from dashboards.sweep_results import effects_of, is_sweep

st.title("Ablations")
place = here()
watched = sweep_watch.show(place)
card = place.card
shown = card is not None and not card.problem and is_sweep(card)
asked = sweep_form.show(place, expanded=not (watched or shown))
if card is not None and card.problem:
    notice.trouble("This run cannot be read; choose another in the sidebar.", card.problem)
elif card is None or not shown:
    sweep_parts.nothing(place)
else:
    with notice.guarded("This sweep's results cannot be shown."):
        st.subheader("What each is worth")
        run = open_run(place.runs, card.name)
        table = effects_of(run)
        sweep_parts.effects(card, run, table)
        sweep_parts.together(run)
        downloads.show(f"{card.name}-effects", table, title=f"Effects in {card.name}")
        asked = sweep_recipe(run.path, run.facts)
if asked is not None:
    recipe.show(asked)
