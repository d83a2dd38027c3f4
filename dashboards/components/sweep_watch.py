"""Sweeps that were started here: how far they are, what they say, stop and resume."""

import streamlit as st

from dashboards import models, started
from dashboards.components import address, notice
from dashboards.components.place import Place
from dashboards.plain import plain
from dashboards.started import Started
from dashboards.sweep_progress import Progress, read_progress
from dashboards.sweep_state import State, state_of
from experiments.timing import duration

_EVERY = 2.0
"""Seconds between two looks at a sweep that runs."""


def show(place: Place) -> bool:
    """The sweep that the address asks for, else the newest; False where none was started here."""
    names = tuple(one.name for one in started.all_started(place.runs))
    if not names:
        return False
    st.subheader("Sweeps started here")
    name = address.choose("Sweep", names, name="sweep")
    with notice.guarded("This sweep cannot be shown."):
        state = state_of(place.runs, started.read_started(place.runs, name))
        st.fragment(_watch, run_every=_EVERY if state == "running" else None)(place, name, state)
    return True


def _watch(place: Place, name: str, before: State) -> None:
    with notice.guarded("This sweep cannot be shown."):
        begun = started.read_started(place.runs, name)
        state = state_of(place.runs, begun)
        if state != before:
            st.rerun()  # the whole page, whose list of runs it may have changed
        progress = read_progress(place.runs / name, before=begun.before)
        _said(name, state, progress)
        with notice.guarded("This did not work."):
            _buttons(place, begun, state)
        lines = started.last_lines(place.runs, name)
        if lines:
            with st.expander("The last lines it has written", expanded=state != "finished"):
                st.code(lines, language=None, wrap_lines=True)


def _said(name: str, state: State, progress: Progress) -> None:
    share = min(1.0, progress.done / progress.planned) if progress.planned else 0.0
    cells = (
        f"{progress.done} of {progress.planned} cells done" if progress.planned else "preparing, no cells planned yet"
    )
    left = f", about {duration(progress.left)} left" if state == "running" and progress.left is not None else ""
    st.progress(share, text=f"{plain(name)}: {cells}{left}")
    if state == "running":
        st.info("It is running.", icon=":material/hourglass_top:")
    elif state == "finished":
        st.success("It is finished.", icon=":material/check:")
    elif state == "stopped":
        st.warning("It was stopped. What is done is kept; resume it to go on from there.", icon=":material/stop:")
    else:
        st.error(
            "Its process ended before it was done. The last lines below say why; what is done is kept, and resuming "
            "goes on from there.",
            icon=":material/error:",
        )


def _buttons(place: Place, begun: Started, state: State) -> None:
    if state == "running":
        if st.button("Stop the sweep", icon=":material/stop:", key="sweep: stop"):  # Stop alone is the page's own
            started.stop(place.runs, begun.name)
            st.rerun()
    elif state == "finished":
        shown = place.card is not None and place.card.name == begun.name
        if not shown and st.button("Show its results", icon=":material/grid_on:", key="sweep: results"):
            address.put("run", begun.name)
            st.rerun()
    elif st.button("Resume", type="primary", icon=":material/play_arrow:", key="sweep: resume"):
        source = models.source_of(begun.asked.model, place.settings, place.models)
        started.start(place.runs, begun.name, begun.asked, source, resume=True)
        st.rerun()
