"""One head: all that the runs on its model know of it. The address names it, as in ?run=demo&head=L2H5."""

import streamlit as st

from dashboards import cached
from dashboards.components import downloads, head_choice, head_link, head_report, notice, recipe, score_choice
from dashboards.components.place import readable_run
from dashboards.head_facts import runs_of_model
from dashboards.reading import open_run
from dashboards.reproduce import head_recipe

st.title("Head")
place, card = readable_run()
with notice.guarded("This head cannot be shown."):
    score = score_choice.choose(place.runs, card)
    scores = cached.scores(place.runs, card.name, score)
    head = head_choice.choose(scores.heads, scores.top(1)[0])
    st.header(str(head))
    if card.model:
        head_link.to_attention(card.name, head, card.model)
    found = {name: cached.head_facts(place.runs, name, head) for name in runs_of_model(place.cards, card.name)}
    table = head_report.scores(found, head)
    head_report.samples(scores, head)
    head_report.removed(found, head, place.runs, card.model)
    head_report.tables(found, head)
    downloads.show(f"{card.name}-{head}", table, title=f"{head} in the runs of {card.model or card.name}")
    run = open_run(place.runs, card.name)
    recipe.show(head_recipe(run.path, head, run.facts))
