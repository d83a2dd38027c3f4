"""Sinks: which tokens take attention and say little, in which heads, and what the model is without them."""

import streamlit as st

from dashboards import cached, sink_data
from dashboards.components import downloads, head_choice, head_link, notice, recipe, sink_parts
from dashboards.components.place import readable_run
from dashboards.reading import open_run
from dashboards.sink_recipe import sink_recipe

st.title("Sinks")
place, card = readable_run()
if not sink_data.shows_sinks(card):
    sink_parts.nothing(place.runs, place.cards)
with notice.guarded("What this run knows of sinks cannot be shown."):
    run, names, head = open_run(place.runs, card.name), sink_data.scores_of(card), None
    if names:
        scores = cached.scores(place.runs, card.name, names[-1])
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        with left:
            head = head_choice.choose(scores.heads, scores.top(1)[0])
        with right:
            head_link.show(card.name, head)
        sink_parts.maps(place.runs, card, head)
        table = sink_parts.tokens(run)
        sink_parts.norms(run)
        sink_parts.removal(run)
    else:
        table = cached.table(place.runs, card.name, "heads")
    sink_parts.filters(place.runs, place.cards, card, head)
    downloads.show(f"{card.name}-sinks", table, title=f"Sinks in {card.name}")
    recipe.show(sink_recipe(run.path, names, run.facts))
