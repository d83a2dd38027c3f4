"""The parts of the page on attention."""

import hashlib
from contextlib import suppress

import pandas as pd
import streamlit as st

from dashboards import attention, cached, prompts
from dashboards.atlas import map_caption
from dashboards.attention import Prompt, Reading
from dashboards.components import address, figure, head_map, number, score_choice, token_map
from dashboards.components.place import Place
from dashboards.models import Loaded
from dashboards.prompts import Example
from dashboards.reading import open_run
from headscope.errors import HeadscopeError, UsageError
from headscope.figures import attention_overlay
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.samples import Sample

_OWN = "my own"
_NEW_TOKENS = 32
_PART = 480


def sample(model: HookedModel, place: Place) -> tuple[Example, str]:
    """The prompt to look at, and a key that tells it from all others."""
    same = place.card is not None and place.card.model == model.name and not place.card.problem
    task = prompts.task_of(open_run(place.runs, place.card.name).facts) if place.card and same else None
    found = prompts.examples(model, task)
    label = address.choose("Prompt", (*found, _OWN), name="prompt")
    if label != _OWN:
        return found[label], f"{task!r} {label}"
    text = address.write("Text", name="text", default="The secret number of the green house is 7 .")
    image = st.file_uploader("Image", ["png", "jpg", "jpeg", "webp"]) if model.sees_images else None
    if model.sees_images and image is None:
        raise UsageError("your own question needs an image; choose a file above, or one of the example scenes")
    content = None if image is None else image.getvalue()
    return prompts.own(model, text, content), f"own {text} {hashlib.sha256(content or b'').hexdigest()}"


def telling_head(model: HookedModel, place: Place) -> Head:
    """The best head of the chosen run's first score where the run was made on this model, else the first head."""
    card = place.card
    if card is not None and card.model == model.name and card.scores:
        with suppress(HeadscopeError):  # damaged scores are no reason to show nothing; the run's own page says it
            best = cached.scores(place.runs, card.name, score_choice.telling(card)).top(1)[0]
            return best if best in model.heads() else model.heads()[0]
    return model.heads()[0]


def prompt(model: HookedModel, name: str, example: Example, key: str) -> Prompt:
    """The prompt in tokens, with the model's own answer behind it if the reader wants it."""
    help = f"Behind the prompt, what the model writes next: up to {_NEW_TOKENS} tokens, greedily."
    wanted = address.switch("Answer", name="answer", help=help)
    return _prompt(model, example, name, key, _NEW_TOKENS if wanted else 0)


def query(prompt: Prompt) -> int:
    """Which token's attention."""
    last = len(prompt.texts) - 1
    return number.choose(
        "Token that attends",
        name=token_map.NAME,
        low=0,
        high=last,
        default=prompt.n_prompt - 1,
        help="Counted from 0; the same as a click on a token.",
    )


def reading(loaded: Loaded, name: str, sample: Sample, key: str, prompt: Prompt, query: int) -> Reading:
    """The rows of that token in all heads."""
    return _reading(loaded, sample, name, key, prompt.answer, query)


def tokens(prompt: Prompt, reading: Reading, head: Head) -> pd.DataFrame:
    """The token map; long prompts in parts."""
    table = attention.token_table(
        prompt, reading.row(head), reading.sinks_at(head.layer), reading.query, columns=6 if figure.narrow() else 12
    )
    shown = _part(table, reading.query)
    best = table.nlargest(3, "weight")
    most = ", ".join(f"“{row.text}” at {row.place} ({row.weight:.2f})" for row in best.itertuples())
    needle = " Blue frames mark the needle." if "needle" in prompt.groups else ""
    sinks = " ✕ marks sinks." if table["sink"].any() else ""
    said = (
        f"{head} at token {reading.query}, “{prompt.texts[reading.query]}”: most on {most}. Deeper colour is more "
        f"attention, a thick frame marks the token that attends.{needle}{sinks} A click asks for another token."
    )
    token_map.show(shown, alt_text=said, key=f"{head} {reading.query}")
    return table


def overlay(sample: Sample, prompt: Prompt, reading: Reading, head: Head) -> None:
    """The same row over the pixels of the image."""
    assert prompt.layout is not None
    places = prompt.layout.places
    sinks = reading.sinks_at(head.layer)[places]
    title = f"{head} at token {reading.query}"
    drawn = attention_overlay(sample.images[0], prompt.layout, reading.row(head)[places], sinks=sinks, title=title)
    share = float(reading.row(head)[places].sum())
    said = f"{title}: {share:.0%} of its attention is on the image, brighter is more"
    said += f"; crosses mark {int(sinks.sum())} sinks" if sinks.any() else "; no token of the image is a sink here"
    left, right = st.columns([2, 3])
    with left:
        st.image(sample.images[0], caption="The image", width="stretch", alt="The image alone")
    with right:
        figure.show(drawn, alt=said, key="attention: overlay")


def all_heads(prompt: Prompt, reading: Reading, head: Head) -> None:
    """What every head has on a part of the prompt, from the same token."""
    st.subheader("All heads from this token")
    sinks = tuple(reading.sinks.any(0).nonzero().flatten().tolist())
    groups = {"first token": (0,), **prompt.groups} | ({"sinks of any layer": sinks} if sinks else {})
    group = address.choose("Attention on", tuple(groups), name="on", default=_telling(groups))
    table = reading.mass_on(groups[group])
    title = f"attention on {group}, {len(groups[group])} tokens"
    head_map.show(table, title=title, alt_text=map_caption(title, table), chosen=head, key="attention")


def _telling(groups: dict[str, tuple[int, ...]]) -> str:
    return next((name for name in ("needle", "image") if name in groups), "first token")


def _part(table: pd.DataFrame, query: int) -> pd.DataFrame:
    parts = -(-len(table) // _PART)
    if parts == 1:
        return table
    of_query = int((table["place"] <= query).sum() - 1) // _PART
    part = number.choose(f"Part of {parts}", name="part", low=1, high=parts, default=of_query + 1)
    shown = table.iloc[(part - 1) * _PART : part * _PART].copy()
    shown["line"] -= shown["line"].min()
    return shown


@st.cache_data(max_entries=32, show_spinner="Reading the prompt")
def _prompt(_model: HookedModel, _example: Example, name: str, key: str, new_tokens: int) -> Prompt:
    return attention.read_prompt(_model, _example.sample, new_tokens=new_tokens, stop=_example.stop)


@st.cache_data(max_entries=16, show_spinner="Reading attention")
def _reading(_loaded: Loaded, _sample: Sample, name: str, key: str, answer: tuple[int, ...], query: int) -> Reading:
    return attention.read_rows(_loaded.model, _sample, answer, query, _loaded.sinks)
