"""What views read, kept while the files stay as they are: by folder, newest time of change, and small arguments."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import atlas
from dashboards import head_facts as of_head
from dashboards.head_facts import HeadFacts
from dashboards.plain import sendable
from dashboards.reading import RunCard, open_run, run_cards, run_scores, run_table, stamp
from dashboards.sink_data import removal_of
from dashboards.sweep_results import together_of
from experiments.sinks.removal import Metric
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores


def cards(runs: Path) -> tuple[RunCard, ...]:
    """As `reading.run_cards`."""
    return _cards(str(runs), _stamps(runs))


def scores(runs: Path, run: str, name: str) -> HeadScores:
    """Head scores of a run."""
    path = open_run(runs, run).path
    return _scores(str(path), stamp(path), name)


def score_map(runs: Path, run: str, name: str) -> pd.DataFrame:
    """The scores as `atlas.map_table`."""
    path = open_run(runs, run).path
    return _score_map(str(path), stamp(path), name)


def table(runs: Path, run: str, name: str) -> pd.DataFrame:
    """A table of a run."""
    path = open_run(runs, run).path
    return _table(str(path), stamp(path), name)


def head_facts(runs: Path, run: str, head: Head) -> HeadFacts:
    """What a run knows of a head; all readers share it, and nobody may change it."""
    path = open_run(runs, run).path
    return _head_facts(str(path), stamp(path), head.layer, head.head)


def together(runs: Path, run: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """As `sweep_results.together_of`."""
    path = open_run(runs, run).path
    return _together(str(path), stamp(path))


def removal(runs: Path, run: str, metric: Metric) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """As `sink_data.removal_of`."""
    path = open_run(runs, run).path
    return _removal(str(path), stamp(path), metric)


def _stamps(runs: Path) -> tuple[tuple[str, int], ...]:
    if not runs.is_dir():
        return ()
    folders = (path for path in sorted(runs.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return tuple((sendable(path.name), _stamp(path)) for path in folders)


def _stamp(path: Path) -> int:
    try:
        return stamp(path)
    except OSError:  # it cannot be looked into, or is gone; its card says so
        return 0


@st.cache_data(max_entries=8, show_spinner=False)
def _cards(runs: str, stamps: tuple[tuple[str, int], ...]) -> tuple[RunCard, ...]:
    return run_cards(Path(runs))


@st.cache_data(max_entries=64, show_spinner=False)
def _scores(path: str, changed: int, name: str) -> HeadScores:
    return run_scores(Run(Path(path)), name)


@st.cache_data(max_entries=64, show_spinner=False)
def _score_map(path: str, changed: int, name: str) -> pd.DataFrame:
    return atlas.map_table(_scores(path, changed, name))


@st.cache_data(max_entries=64, show_spinner=False)
def _table(path: str, changed: int, name: str) -> pd.DataFrame:
    return run_table(Run(Path(path)), name)


@st.cache_resource(max_entries=2048, show_spinner=False)  # a copy for every reader would take longer than to read it
def _head_facts(path: str, changed: int, layer: int, head: int) -> HeadFacts:
    return of_head.head_facts(Run(Path(path)), Head(layer, head))


@st.cache_data(max_entries=64, show_spinner=False)
def _together(path: str, changed: int) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    return together_of(Run(Path(path)))


@st.cache_data(max_entries=64, show_spinner=False)
def _removal(path: str, changed: int, metric: Metric) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    return removal_of(Run(Path(path)), metric)
