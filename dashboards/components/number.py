"""A whole number that stands in the address."""

import re

import streamlit as st

from dashboards.components import address

_DIGITS = re.compile(r"[0-9]{1,18}")
"""No more than a number on any page has; Python refuses to read thousands of them."""


def choose(label: str, *, name: str, low: int, high: int, default: int, help: str | None = None) -> int:
    """A field for numbers from `low` to `high`; what the address asks for beyond them is cut to the nearest."""
    wanted = address.asked(name)
    value = int(wanted) if wanted is not None and _DIGITS.fullmatch(wanted) else default
    key = f"choice: {name}"
    st.session_state[key] = min(max(value, low), high)
    address.put(name, str(st.session_state[key]))
    return int(st.number_input(label, low, high, key=key, on_change=_take, args=(name, key), help=help, step=1))


def _take(name: str, key: str) -> None:
    address.put(name, str(int(st.session_state[key])))
