"""Where the reader is: the folder of runs and the run chosen in the sidebar."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboards import cached
from dashboards.components import address, figure, notice
from dashboards.plain import plain
from dashboards.reading import RunCard
from dashboards.settings import Settings
from dashboards.suggested import command
from headscope.errors import UsageError

_KEY = "place"


@dataclass(frozen=True)
class Place:
    """What every page starts from; `card` is None where there is no run to choose."""

    settings: Settings
    cards: tuple[RunCard, ...]
    card: RunCard | None

    @property
    def runs(self) -> Path:
        """The folder of run folders."""
        return self.settings.runs

    @property
    def models(self) -> tuple[str, ...]:
        """Models that runs were made on."""
        return tuple(dict.fromkeys(card.model for card in self.cards if card.model))


def choose(settings: Settings) -> None:
    """The sidebar: which folder, and which of its runs."""
    with st.sidebar:
        try:
            cards = cached.cards(settings.runs)
        except UsageError:
            cards = ()
        card = None
        if cards:
            names = {one.name: one for one in cards}
            labels = {one.name: f"{one.name} (damaged)" if one.problem else one.name for one in cards}
            card = names[address.choose("Run", tuple(names), name="run", labels=labels)]
        st.caption(f"{len(cards)} {'run' if len(cards) == 1 else 'runs'} in {plain(settings.runs)}")
    if card is not None and figure.narrow():
        st.caption(f"Run: {plain(card.name)}")  # the sidebar, which says it otherwise, is folded away
    st.session_state[_KEY] = Place(settings, cards, card)


def here() -> Place:
    """The place chosen in this run of the page."""
    return st.session_state[_KEY]


def readable_run() -> tuple[Place, RunCard]:
    """The chosen run; where there is none or it is damaged the page says so, with what to do, and ends."""
    place = here()
    if place.card is None:
        what = "There are no runs here yet." if place.runs.is_dir() else "The folder of runs does not exist yet."
        notice.empty(f"{what} This makes a first one:", command("demo", "--out", place.runs / "demo"))
        st.stop()
    if place.card.problem:
        notice.trouble("This run cannot be read; choose another in the sidebar.", place.card.problem)
        st.stop()
    return place, place.card
