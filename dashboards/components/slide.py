"""A number on a slider, which stands in the address."""

import math

import streamlit as st

from dashboards.components import address


def choose(label: str, *, name: str, low: float, high: float, default: float, step: float) -> float:
    """A slider from `low` to `high`; what the address asks for beyond them is cut to the nearest."""
    key = f"choice: {name}"
    st.session_state[key] = min(max(_number(address.asked(name), default), low), high)
    address.put(name, f"{st.session_state[key]:g}")
    return float(st.slider(label, low, high, key=key, step=step, on_change=_take, args=(name, key)))


def _take(name: str, key: str) -> None:
    address.put(name, f"{st.session_state[key]:g}")


def _number(text: str | None, default: float) -> float:
    try:
        value = float(text or "")
    except ValueError:
        return default
    return value if math.isfinite(value) else default
