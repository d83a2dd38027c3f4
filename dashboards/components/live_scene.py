"""A scene read now: the caption a model writes about it and every head's VHD; only when the reader asks for it."""

import streamlit as st
from PIL import Image

from dashboards import captions, models
from dashboards.captions import LIVE, Caption
from dashboards.components import address, caption_strip, notice, number
from dashboards.components.place import Place
from dashboards.plain import plain

_ASKED = "live scene: asked"
_KINDS = {"violating": "usual partners never together", "usual": "usual partners together"}


def show(place: Place) -> tuple[int, bool] | None:
    """Which scene, the button, and what was read; the scene's number and kind where it was."""
    st.subheader("A scene read now")
    if LIVE not in models.model_names(place.settings, place.models):
        st.info(f"The model {plain(LIVE)} is not there, so nothing can be read now.", icon=":material/info:")
        return None
    first, second, third = st.columns([1, 1, 1], vertical_alignment="bottom")
    with first:
        which = number.choose("Scene", name="scene", low=0, high=captions.SCENES - 1, default=0)
    with second:
        kind = address.choose("Objects", tuple(_KINDS), name="prior", labels=_KINDS, silent=True)
    asked = (which, kind == "violating")
    with third:
        if st.button("Write a caption and read its heads", icon=":material/play_arrow:", key="live scene: read"):
            st.session_state[_ASKED] = asked
    if st.session_state.get(_ASKED) != asked:
        image = captions.image_of(f"{kind}/0/{which}")
        if image is not None:
            st.image(image, caption=f"Scene {which}", width=200, alt=f"Scene {which}")
        return None
    with notice.guarded("This scene cannot be read."):
        with models.borrowed(LIVE, place.settings, place.models) as loaded:
            caption, image = _read(loaded, *asked)
        caption_strip.show(caption, caption_strip.coloured_by(caption, name="by"), image, key="live")
    return asked


@st.cache_data(max_entries=32, show_spinner="Writing a caption and reading its heads")
def _read(_loaded: models.Loaded, number: int, violating: bool) -> tuple[Caption, Image.Image]:
    return captions.live_caption(_loaded.model, number, violating=violating)
