"""The parts of the page on retrieval heads."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from dashboards import cached
from dashboards.atlas import map_caption
from dashboards.components import address, condition_bars, figure, head_map, notice
from dashboards.reading import RunCard, open_run
from dashboards.retrieval_data import SCORE, answers_of, causal_runs, families_of, how_removed, with_head
from dashboards.sink_data import whole
from dashboards.suggested import command, of_model
from headscope.figures import frequency_scatter, length_depth_map, score_histogram
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores


def nothing(runs: Path, cards: Sequence[RunCard]) -> None:
    """What to do where the chosen run holds no retrieval scores; ends the page."""
    held = [card.name for card in cards if SCORE in card.scores]
    if held:
        what = "This run holds no retrieval scores; choose one in the sidebar that does:"
        notice.elsewhere(what, held, alt="Runs that hold retrieval scores")
    else:
        makes = command("heads", "retrieval", "--model", "zoo:needle", "--out", runs / "retrieval")
        notice.empty("No run here holds retrieval scores yet. This makes one:", makes)
    st.stop()


def heads(runs: Path, card: RunCard, scores: HeadScores, head: Head) -> None:
    """The map, how many heads retrieve, and how steadily."""
    table = cached.score_map(runs, card.name, SCORE)
    head_map.show(
        table,
        title=scores.metric,
        alt_text=map_caption(scores.metric, table),
        chosen=head,
        key=f"retrieval {card.name}",
    )
    left, right = st.columns(2)
    with left:
        figure.show(score_histogram(scores), alt="How many heads have which score", key="retrieval: histogram")
    with right:
        said = "How often each head copies at all, against its mean score"
        figure.show(frequency_scatter(scores), alt=said, key="retrieval: frequency")


def places(run: Run, scores: HeadScores, head: Head) -> None:
    """Where the model answers, and where the head copies, by length and depth."""
    st.subheader("By length and depth")
    with notice.guarded("Answers by length and depth cannot be shown."):
        name, answers = answers_of(run)
        with whole(run, name):
            of_answers = length_depth_map(answers)
            of_head = length_depth_map(with_head(answers, scores, head), str(head))
        left, right = st.columns(2)
        with left:
            said = "Share of answers that are right, by length of the prompt and depth of the needle"
            figure.show(of_answers, alt=said, key="retrieval: answers")
        with right:
            said = f"Mean score of {head}, by length of the prompt and depth of the needle"
            figure.show(of_head, alt=said, key="retrieval: head")


def causes(runs: Path, cards: Sequence[RunCard], card: RunCard) -> None:
    """What the model answers without heads, beside random others, in this run or another on the same model."""
    st.subheader("Without them")
    names = causal_runs(runs, cards, card)
    if not names:
        words = ("--top", "5", "--from", runs / card.name, "--out", runs / "without-top-5")
        notice.empty(
            "No run on this model removes heads beside controls. This does, for the five best of this run:",
            command("ablate", "heads", *of_model(card.model), *words),
        )
        return
    name = address.choose("Run with removed heads", names, name="removed")
    with notice.guarded("These conditions cannot be shown."):
        run = open_run(runs, name)
        table, how = families_of(run), how_removed(run.facts)
        said = "Share of answers that are right under each condition; dotted: nothing edited; bars of controls in blue"
        with whole(run, "families"):
            n = f"; n = {table['n'].iloc[0]:g} prompts" if "n" in table else ""
            said += f"{f'; removed: {how}' if how else ''}{n}"
            condition_bars.show(table, title="answers right", alt=said, key="causal")
