"""What to sweep, and the button that starts it as a process of its own."""

import streamlit as st

from dashboards import models, started
from dashboards.asked_sweep import CHOICES, LIMITS, AskedSweep
from dashboards.components import address, notice, number
from dashboards.components.place import Place
from dashboards.plain import plain
from dashboards.reproduce import Recipe
from dashboards.sweep_recipe import asked_recipe
from headscope.errors import HeadscopeError

_FIRST_MODEL = "zoo:needle"
_LABELS = {"task": "Task", "of": "Taken out at once", "mode": "Removed means", "metric": "Measured of the answer"}
_NUMBERS = {
    "depths": ("Depths", 5),
    "repeats": ("Prompts each", 4),
    "needles": ("Facts in a text", 2),
    "prompts": ("Prompts", 32),
    "top": ("Top k at once", 3),
    "draws": ("Random controls", 5),
    "seed": ("Seed", 1),
}
_OF_TASK = {"needle": ("depths", "repeats", "needles"), "choices": ("prompts",)}
_LENGTHS = "128"


def show(place: Place, *, expanded: bool) -> Recipe | None:
    """All settings, each of which stands in the address, and the button; how to do the same without the dashboard."""
    with st.expander("Start a sweep", icon=":material/play_arrow:", expanded=expanded), notice.guarded("Not started."):
        model = _model(place)
        chosen = {name: _choice(column, name) for column, name in zip(st.columns(4), CHOICES, strict=True)}
        numbers = (*_OF_TASK.get(chosen["task"], ("prompts",)), "top", "draws", "seed")
        given = {name: _number(column, name) for column, name in zip(st.columns(len(numbers)), numbers, strict=True)}
        lengths, name = _lengths(chosen["task"]), _name(place)
        st.caption(
            "The sweep is a process of its own: it goes on when this page is closed, and can be stopped and taken up "
            "again here. What it says at its start tells how long it will take."
        )
        asked = AskedSweep(model, lengths=lengths, **chosen, **given)  # type: ignore[arg-type]
        source = models.source_of(model, place.settings, place.models)
        if st.button("Start", type="primary", icon=":material/play_arrow:", key="sweep: start"):
            started.start(place.runs, name, asked, source)
            address.put("sweep", name)
            address.put("sweep-name", "")
            st.rerun()
        return asked_recipe(asked.words(source, place.runs / name))
    return None


def _model(place: Place) -> str:
    names = models.model_names(place.settings, place.models)
    default = _FIRST_MODEL if _FIRST_MODEL in names else names[0]
    return address.choose("Model to take heads out of", names, name="sweep-model", default=default, silent=True)


def _choice(column: st.delta_generator.DeltaGenerator, name: str) -> str:
    with column:
        return address.choose(_LABELS[name], CHOICES[name], name=f"sweep-{name}", silent=True)


def _number(column: st.delta_generator.DeltaGenerator, name: str) -> int:
    label, default = _NUMBERS[name]
    low, high = LIMITS[name]
    with column:
        return number.choose(label, name=f"sweep-{name}", low=low, high=high, default=default)


def _lengths(task: str) -> str:
    if task not in ("needle", "choices"):
        return _LENGTHS
    label, help = f"Lengths (empty: {_LENGTHS})", "Tokens of the prompts, such as 128,256."
    return address.line(label, name="sweep-lengths", help=help, most=100) or _LENGTHS


def _name(place: Place) -> str:
    free = _free(place)
    typed = address.line(f"Name of the run (empty: {free})", name="sweep-name", most=80)
    st.caption(f"The results will be in {plain(place.runs / (typed or free))}")
    return typed or free


def _free(place: Place) -> str:
    """A name that no folder has, and no sweep that was started here."""
    taken = {one.name for one in started.all_started(place.runs)}
    try:
        taken |= {path.name for path in place.runs.iterdir()}
    except OSError as error:
        raise HeadscopeError(f"{place.runs} cannot be read ({error}); make the folder first") from error
    return next(f"sweep-{i}" for i in range(1, len(taken) + 2) if f"sweep-{i}" not in taken)
