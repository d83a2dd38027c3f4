"""Retrieval: which heads copy the needle, where in the text, and what the model can do without them."""

import streamlit as st

from dashboards import cached
from dashboards.components import downloads, head_choice, head_link, notice, recipe, retrieval_parts
from dashboards.components.place import readable_run
from dashboards.reading import open_run
from dashboards.reproduce import retrieval_recipe
from dashboards.retrieval_data import SCORE

st.title("Retrieval")
place, card = readable_run()
if SCORE not in card.scores:
    retrieval_parts.nothing(place.runs, place.cards)
with notice.guarded("This run's retrieval scores cannot be shown."):
    scores, run = cached.scores(place.runs, card.name, SCORE), open_run(place.runs, card.name)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        head = head_choice.choose(scores.heads, scores.top(1)[0])
    with right:
        head_link.show(card.name, head)
    retrieval_parts.heads(place.runs, card, scores, head)
    retrieval_parts.places(run, scores, head)
    retrieval_parts.causes(place.runs, place.cards, card)
    downloads.show(f"{card.name}-retrieval", scores.to_dataframe(), title=f"Retrieval heads in {card.name}")
    recipe.show(retrieval_recipe(run.path, head, run.facts))
