"""Head atlas: a map of every score in a run; the head that is clicked is the one the other pages show."""

import streamlit as st

from dashboards import cached
from dashboards.components import downloads, head_choice, head_link, notice, recipe, score_choice, score_maps
from dashboards.components.place import readable_run
from dashboards.reading import open_run
from dashboards.reproduce import scores_recipe

st.title("Head atlas")
place, card = readable_run()
score = score_choice.choose(place.runs, card)
with notice.guarded("These scores cannot be shown."):
    table = cached.score_map(place.runs, card.name, score)
    scores = cached.scores(place.runs, card.name, score)
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    with left:
        head = head_choice.choose(scores.heads, scores.top(1)[0])
    with right:
        head_link.show(card.name, head)
    score_maps.show(place.runs, card, first=score, chosen=head)
    st.subheader("All heads by this score")
    st.dataframe(table, hide_index=True, alt="Every head with its score, interval and rank")
    downloads.show(f"{card.name}-{score}", table, title=f"{score} in {card.name}", sections=[("Map", scores.plot())])
    run = open_run(place.runs, card.name)
    recipe.show(scores_recipe(run.path, score, run.facts))
