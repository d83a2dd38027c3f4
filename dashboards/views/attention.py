"""Attention: what a token of a prompt attends to in one head, over the text and over an image; one row at a time."""

import streamlit as st

from dashboards.components import attention_parts, downloads, head_choice, model_choice, notice, recipe
from dashboards.components.place import here
from dashboards.reproduce import attention_recipe

st.title("Attention")
place = here()
of_model, of_prompt = st.columns(2)
of_head, of_token, of_answer = st.columns([2, 2, 1], vertical_alignment="bottom")
with of_model:
    name = model_choice.choose(place)
with notice.guarded("This cannot be shown."), model_choice.borrow(place, name) as loaded:
    with of_prompt:
        example, key = attention_parts.sample(loaded.model, place)
    with of_answer:
        prompt = attention_parts.prompt(loaded.model, name, example, key)
    with of_head:
        head = head_choice.choose(loaded.model.heads(), attention_parts.telling_head(loaded.model, place))
    with of_token:
        query = attention_parts.query(prompt)
    sample = example.sample
    reading = attention_parts.reading(loaded, name, sample, key, prompt, query)
    table = attention_parts.tokens(prompt, reading, head)
    if prompt.layout is not None:
        attention_parts.overlay(sample, prompt, reading, head)
    attention_parts.all_heads(prompt, reading, head)
    downloads.show(f"attention-{head}-{query}", table, title=f"Attention of {head} at token {query}")
    recipe.show(attention_recipe(name, sample.prompt, head, query, images=bool(sample.images)))
