"""Which operators, with which settings: sliders and lists, or the text that they make, written by hand."""

from collections.abc import Sequence

import streamlit as st

from dashboards.components import address, number, several, slide
from dashboards.operators import OPERATORS, SETTINGS, Count, Heads, Pick, Setting, Slide, Value, about, written
from dashboards.plain import plain
from headscope.heads import Head

_FEW = 4
_EXAMPLE = "Ablate('L1H1', mode='uniform'), Scale('L2H0', 1.5)"


def choose(heads: Sequence[Head], default: Head, *, sees_images: bool) -> str:
    """The operators as text; empty where none is chosen."""
    if address.switch("Write the operators as text", name="by-hand"):
        return address.write("Operators", name="with", default=_EXAMPLE, most=2000).strip()
    first = "VHR" if sees_images else "Ablate"
    help = "In force one after another, in this order."
    chosen = several.choose("Operators", OPERATORS, name="operators", default=(first,), help=help, most=_FEW)
    return ", ".join(_operator(name, heads, default) for name in chosen)


def _operator(name: str, heads: Sequence[Head], default: Head) -> str:
    with st.container(border=True):
        st.caption(f"**{name}**: {plain(about(name))}")
        columns = st.columns(len(SETTINGS[name]), vertical_alignment="bottom")
        values: dict[str, Value] = {}
        for column, setting in zip(columns, SETTINGS[name], strict=True):
            with column:
                values[setting.name] = _setting(f"{name}.{setting.name}", setting, heads, default)
    return written(name, values)


def _setting(name: str, setting: Setting, heads: Sequence[Head], default: Head) -> Value:
    label = name.replace(".", ": ")
    if isinstance(setting, Slide):
        low, high = setting.low, setting.high
        return slide.choose(label, name=name, low=low, high=high, default=setting.default, step=setting.step)
    if isinstance(setting, Count):
        return number.choose(label, name=name, low=setting.low, high=setting.high, default=setting.default)
    if isinstance(setting, Pick):
        return address.choose(label, setting.options, name=name, silent=True)
    assert isinstance(setting, Heads)
    first = (str(default),) if setting.needed else ()
    help = None if setting.needed else "None: all that the operator would take."
    return several.choose(
        label, tuple(map(str, heads)), name=name, default=first, read=lambda text: str(Head.parse(text)), help=help
    )
