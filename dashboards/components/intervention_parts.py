"""The parts of the page on interventions."""

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboards import edited
from dashboards.components import figure
from dashboards.edited import Written
from dashboards.models import Loaded
from dashboards.plain import plain
from dashboards.prompts import Example
from headscope.errors import UsageError
from headscope.figures.layout import KINDS, lay_out
from headscope.figures.layout import plain as as_label
from interventions.named import parse_interventions

_NOTHING = "(nothing)"


def answers(
    loaded: Loaded, model: str, example: Example, key: str, text: str, new_tokens: int
) -> tuple[Written, Written, pd.DataFrame]:
    """Both answers, and the steps of the plain one."""
    if not text:
        raise UsageError("no operator is chosen; choose one above, or write one as text")
    before = _plain(loaded, example, model, key, new_tokens)
    after, steps = _under(loaded, example, before, model, key, text, new_tokens)
    return before, after, steps


def prompt(example: Example) -> None:
    """The prompt, folded up, and the image that it is about."""
    with st.expander("The prompt", icon=":material/notes:"):
        st.text(example.sample.prompt)
    if example.sample.images:
        st.image(example.sample.images[0], caption="The image", width=220, alt="The image that the prompt is about")


def texts(before: Written, after: Written, new_tokens: int) -> pd.DataFrame:
    """The two answers side by side, and where they differ."""
    for column, title, one in zip(st.columns(2), ("Plain", "With operators"), (before, after), strict=True):
        with column:
            st.subheader(title)
            st.code(one.text.strip() or _NOTHING, language=None, wrap_lines=True)
            ended = "It ended by itself" if one.ended else f"Cut off at {new_tokens} tokens"
            st.caption(f"{ended}; {len(one.tokens)} {'token' if len(one.tokens) == 1 else 'tokens'}.")
    table = edited.word_table(before.text, after.text)
    st.subheader("Word by word")
    if table.empty or (table["change"] == "same").all():
        st.info("Both wrote the same words.", icon=":material/equal:")
        return table
    st.markdown(" ".join(_marked(row.plain, row.edited) for row in table.itertuples()))
    changed = int((table["change"] != "same").sum())
    st.caption(f"{changed} of {len(table)} places differ. Struck through: plain only. Bold: with operators only.")
    return table


def logits(steps: pd.DataFrame) -> None:
    """How far expectations part at each step of the plain answer."""
    st.subheader("In what is expected next")
    most = steps.loc[steps["kl"].idxmax()]
    said = (
        f"Divergence of what the model expects at each step of the plain answer, KL(plain, with operators) in nats; mean "
        f"{steps['kl'].mean():.3g}, most {most['kl']:.3g} at step {most['step']}, where the plain answer writes "
        f"“{most['token']}”. Both stand behind the same words there, so later steps show the operators and not what was "
        "written before."
    )
    figure.show(divergence_bars(steps), alt=said, key="interventions: kl")
    st.dataframe(
        steps,
        hide_index=True,
        column_config={
            "kl": st.column_config.NumberColumn("KL", format="%.3g"),
            "plain": st.column_config.NumberColumn("p, plain", format="%.3f"),
            "edited": st.column_config.NumberColumn("p, with operators", format="%.3f"),
            "top_plain": st.column_config.TextColumn("likeliest, plain", width="medium"),
            "top_edited": st.column_config.TextColumn("likeliest, with operators", width="medium"),
        },
        alt="Each step of the plain answer: its token, the divergence, and the likeliest tokens on both sides",
    )


def divergence_bars(steps: pd.DataFrame) -> go.Figure:
    """A bar a step."""
    hover = [
        f"{as_label(row.token)}<br>plain: {as_label(row.top_plain)}<br>with operators: {as_label(row.top_edited)}"
        for row in steps.itertuples()
    ]
    bars = go.Bar(
        x=[f"{row.step} {as_label(row.token)}" for row in steps.itertuples()],
        y=steps["kl"].tolist(),
        customdata=hover,
        hovertemplate="%{customdata}<br>KL <b>%{y:.3g}</b><extra></extra>",
        marker={"color": KINDS["treatment"]},
    )
    drawn = lay_out([bars], "divergence by step", "KL(plain || with operators), behind the plain answer", height=320)
    drawn.update_xaxes(type="category", showgrid=False)
    drawn.update_yaxes(title="nats", rangemode="tozero", exponentformat="e")
    return drawn


def _marked(before: str, after: str) -> str:
    """A place as Markdown, the words themselves escaped."""
    if before == after:
        return plain(before)
    old = f":red-background[~~{plain(before)}~~]" if before else ""
    new = f":green-background[**{plain(after)}**]" if after else ""
    return f"{old} {new}".strip()


@st.cache_data(max_entries=4, show_spinner="Writing the plain answer")
def _plain(_loaded: Loaded, _example: Example, model: str, key: str, new_tokens: int) -> Written:
    return edited.write(_loaded.model, _example.sample, new_tokens=new_tokens, stop=_example.stop)


@st.cache_data(max_entries=16, show_spinner="Writing under the operators")
def _under(
    _loaded: Loaded, _example: Example, _before: Written, model: str, key: str, text: str, new_tokens: int
) -> tuple[Written, pd.DataFrame]:
    operators, sample = parse_interventions(text), _example.sample
    after = edited.write(_loaded.model, sample, operators, new_tokens=new_tokens, stop=_example.stop)
    steps = len(_before.steps)
    forced = edited.write(_loaded.model, sample, operators, new_tokens=steps, forced=_before.tokens)
    if forced.steps.isnan().any():
        raise UsageError("under these operators the model's numbers overflow (NaN); take smaller factors")
    return after, edited.step_table(_loaded.model, _before, forced.steps)
