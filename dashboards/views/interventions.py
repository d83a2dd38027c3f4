"""Interventions: what a model writes plain and under operators, side by side, and where the two part."""

import streamlit as st

from dashboards.components import (
    attention_parts,
    downloads,
    intervention_parts,
    model_choice,
    notice,
    number,
    operator_form,
    recipe,
)
from dashboards.components.place import here
from dashboards.intervention_recipe import intervention_recipe

st.title("Interventions")
place = here()
of_model, of_prompt, of_length = st.columns([2, 2, 1])
with of_model:
    name = model_choice.choose(place)
with notice.guarded("This cannot be written."), model_choice.borrow(place, name) as loaded:
    with of_prompt:
        example, key = attention_parts.sample(loaded.model, place)
    with of_length:
        new_tokens = number.choose("Most tokens", name="tokens", low=1, high=128, default=32)
    head = attention_parts.telling_head(loaded.model, place)
    text = operator_form.choose(loaded.model.heads(), head, sees_images=loaded.model.sees_images)
    st.code(text or "(no operator)", language="python", wrap_lines=True)
    intervention_parts.prompt(example)
    before, after, steps = intervention_parts.answers(loaded, name, example, key, text, new_tokens)
    words = intervention_parts.texts(before, after, new_tokens)
    intervention_parts.logits(steps)
    downloads.show("interventions", steps, title=f"{name} under {text}", sections=[("Word by word", words)])
    recipe.show(intervention_recipe(name, example, text, new_tokens))
