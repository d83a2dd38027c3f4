"""Which model to run, and leave to load it where that may take long or fetch files."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from dashboards import models
from dashboards.components import address
from dashboards.components.place import Place
from dashboards.models import Loaded
from dashboards.plain import plain

_AGREED = "model choice: agreed"


def choose(place: Place) -> str:
    """Name of a model of the zoo, of a run, or below `--models`; that of the chosen run at first."""
    names = models.model_names(place.settings, place.models)
    of_run = place.card.model if place.card is not None else ""
    return address.choose("Model", names, name="model", default=of_run if of_run in names else names[0])


@contextmanager
def borrow(place: Place, name: str) -> Iterator[Loaded]:
    """The model for this block; the page ends here until the reader has agreed to load what is not of the zoo."""
    agreed = st.session_state.setdefault(_AGREED, set())
    if models.needs_consent(name) and name not in agreed:
        st.info("This model is not loaded yet. Loading may take long, and fetches files that are not here.")
        if not st.button(f"Load {plain(name)}", type="primary"):
            st.stop()
        agreed.add(name)
    with models.borrowed(name, place.settings, place.models) as loaded:
        yield loaded
