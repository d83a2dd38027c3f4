"""Vision: which heads need the image, token by token, what is made up, and what interventions do to that."""

import streamlit as st

from dashboards import cached
from dashboards.components import (
    downloads,
    head_choice,
    head_link,
    live_scene,
    notice,
    recipe,
    vision_parts,
)
from dashboards.components.place import here
from dashboards.judged import judged_runs
from dashboards.reading import open_run
from dashboards.vision_recipe import vision_recipe

st.title("Vision")
place = here()
card = place.card
run, facts = None, {}
if card is not None and card.problem:
    notice.trouble("This run cannot be read; choose another in the sidebar.", card.problem)
elif card is None or not (vision_parts.SCORE in card.scores or judged_runs(place.runs, (card,), card)):
    vision_parts.nothing(place)
else:
    with notice.guarded("What this run saw cannot be shown."):
        run = open_run(place.runs, card.name)
        facts = run.facts
        if vision_parts.SCORE in card.scores:
            scores = cached.scores(place.runs, card.name, vision_parts.SCORE)
            left, right = st.columns([3, 2], vertical_alignment="bottom")
            with left:
                head = head_choice.choose(scores.heads, scores.top(1)[0])
            with right:
                head_link.show(card.name, head)
            vision_parts.maps(place.runs, card, head)
            with notice.guarded("The captions of this run cannot be shown."):
                table = vision_parts.written(run)
                downloads.show(f"{card.name}-caption", table, title=f"A caption in {card.name}")
            vision_parts.located(run)
        vision_parts.judgements(place.runs, place.cards, card)
scene = live_scene.show(place)
recipe.show(vision_recipe(None if run is None else run.path, facts, scene))
