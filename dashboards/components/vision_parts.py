"""The parts of the page on vision."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import cached, captions, judged
from dashboards.atlas import map_caption
from dashboards.components import address, caption_strip, condition_bars, head_map, notice
from dashboards.components.place import Place
from dashboards.plain import plain, shortened
from dashboards.reading import RunCard, open_run, run_table
from dashboards.suggested import command, of_model
from headscope.heads import Head
from headscope.runs import Run

SCORE = "vhd"
_MAPS = {
    "vhd": "change without the image (VHD)",
    "text_to_image": "attention of the text to the image",
    "localisation": "share of object words located",
    "image_centric": "share of words at which it is image-centric",
    "image_to_image": "attention of the image to itself",
}


def nothing(place: Place) -> None:
    """What to do where the chosen run knows nothing of images."""
    held = [card.name for card in place.cards if SCORE in card.scores]
    if held:
        what = "This run has not looked at images; choose one in the sidebar that has:"
        notice.elsewhere(what, held, alt="Runs that hold VHD")
    else:
        makes = command("heads", "vision", "--model", "zoo:scenes", "--out", place.runs / "vision")
        notice.empty("No run here has looked at images yet. This makes one:", makes)


def maps(runs: Path, card: RunCard, chosen: Head) -> None:
    """VHD, attention to the image, localisation and what else there is about the image, two in a line."""
    names = [name for name in _MAPS if name in card.scores]
    for start in range(0, len(names), 2):
        for column, name in zip(st.columns(2), names[start : start + 2], strict=False):
            with column, notice.guarded("One score of this run cannot be shown."):
                table = cached.score_map(runs, card.name, name)
                said = map_caption(_MAPS[name], table)
                head_map.show(table, title=_MAPS[name], alt_text=said, chosen=chosen, key=f"vision {card.name} {name}")


def written(run: Run) -> pd.DataFrame:
    """One caption of the run token by token, and the table of it; empty where the run keeps none."""
    st.subheader("VHD over the generated text")
    found = captions.saved_captions(run)
    if found.empty:
        st.info("This run keeps no captions.", icon=":material/info:")
        return found
    labels = {str(i): _label(i, row.caption, row.invented) for i, row in enumerate(found.itertuples())}
    left, right = st.columns([3, 1])
    with left:
        chosen = address.choose(
            "Caption", tuple(labels), name="caption", labels=labels, default=str(captions.first_telling(found))
        )
    caption = captions.saved_caption(run, found, int(chosen))
    image = captions.image_of(found["image_id"].iloc[int(chosen)])
    with right:
        by = caption_strip.coloured_by(caption, name="caption-by")
    return caption_strip.show(caption, by, image, key=f"{run.path.name} {chosen}")


def located(run: Run) -> None:
    """Which heads look at the object they name."""
    if "localisation" in run.table_names():
        st.subheader("Which heads look at the object they name")
        st.caption(
            "Share of object words at which the image token that the head attends to most lies in the object's box; "
            "“chance” is what looking anywhere finds, “elsewhere” what a fixed gaze finds."
        )
        with notice.guarded("Localisation cannot be shown."):
            st.dataframe(
                run_table(run, "localisation").head(20),
                hide_index=True,
                alt="The heads that find most objects, with intervals, chance and p values",
            )


def judgements(runs: Path, cards: Sequence[RunCard], card: RunCard) -> None:
    """POPE and CHAIR under each condition, in this run or another on the same model."""
    st.subheader("Does it make things up? POPE and CHAIR")
    names = judged.judged_runs(runs, cards, card)
    if not names:
        notice.empty(
            "No run on this model judges what it makes up. This does, with random controls:",
            command("eval", "chair", *of_model(card.model), "--with", "VHR(alpha=2)", "--out", runs / "chair"),
        )
        return
    first, second, third = st.columns(3)
    with first:
        name = address.choose("Run that judged", names, name="judged")
    with notice.guarded("These judgements cannot be shown."):
        table = judged.judged_of(open_run(runs, name))
        tasks = tuple(dict.fromkeys(table["task"]))
        with second:
            task = address.choose("Questions", tasks, name="judged-task", silent=True)
        metrics = tuple(dict.fromkeys(table.loc[table["task"] == task, "metric"]))
        with third:
            metric = address.choose("Metric", metrics, name="judged-metric", silent=True)
        bars = judged.bars_of(table, task, metric)
        rows = ", ".join(f"{row.condition} {row.mean:.3g}" for row in bars.itertuples())
        condition_bars.show(bars, title=f"{metric}, {task}", alt=f"{metric}: {rows}", key="vision: judged")
        st.caption("Whoever says less makes up less: read hallucination beside recall, length and the share of yes.")
        st.dataframe(
            table[table["task"] == task],
            hide_index=True,
            alt=f"All metrics of {plain(task)} by condition, with intervals",
        )


def _label(number: int, text: str, invented: str) -> str:
    made_up = f" (made up: {shortened(invented, 40)})" if invented.strip() else ""
    return f"{number}: {shortened(text, 60)}{made_up}"
