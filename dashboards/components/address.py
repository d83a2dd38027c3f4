"""Choices that stand in the address of the page, so that a reload or a shared link shows the same.

The address is what counts: a widget shows what it says and writes what the reader picks. Going to another page clears the
address, so the last choices are kept in the session as well.
"""

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from dashboards.plain import plain, shortened

_KEPT = "address: kept"


def asked(name: str) -> str | None:
    """What the address asks for under a name, or else what was last chosen in this session."""
    return st.query_params.get(name) or st.session_state.get(_KEPT, {}).get(name)


def put(name: str, value: str) -> None:
    """Write a choice into the address."""
    if not value:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != value:
        st.query_params[name] = value
    st.session_state[_KEPT] = st.session_state.get(_KEPT, {}) | {name: value}


def choose(
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: str | None = None,
    labels: Mapping[str, str] | None = None,
    read: Callable[[str], str] = str,
    silent: bool = False,
    help: str | None = None,
) -> str:
    """A selectbox whose choice is `name` in the address; what the address asks for in vain is said and replaced.

    `read` turns what the address says into an option. `options` must not be empty. With `silent` the default, which must
    then be the same for all readers, is not written into the address.
    """
    fallback = options[0] if default is None else default
    wanted = asked(name)
    value = fallback if wanted is None else _read(read, wanted)
    if value is None or value not in options:
        if st.query_params.get(name):
            st.warning(
                f"The address asks for {name} “{plain(shortened(wanted))}”, which is not here; another is shown."
            )
        value = fallback
    put(name, "" if silent and value == fallback else value)
    key = f"choice: {name}"
    st.session_state[key] = value
    return str(
        st.selectbox(
            label,
            options,
            key=key,
            format_func=lambda option: (labels or {}).get(option, option),
            on_change=_take,
            args=(name, key),
            help=help,
        )
    )


def switch(label: str, *, name: str, help: str | None = None) -> bool:
    """A toggle that stands in the address as 1 or 0."""
    key = f"choice: {name}"
    st.session_state[key] = asked(name) == "1"
    put(name, "1" if st.session_state[key] else "")
    return st.toggle(label, key=key, on_change=_take, args=(name, key), help=help)


def line(label: str, *, name: str, help: str | None = None, most: int = 200) -> str:
    """A line of text that stands in the address; empty at first."""
    key = f"choice: {name}"
    st.session_state[key] = (asked(name) or "")[:most]
    return st.text_input(label, key=key, on_change=_take, args=(name, key), help=help, max_chars=most)


def write(label: str, *, name: str, default: str, help: str | None = None, most: int = 4000) -> str:
    """A text field whose text stands in the address."""
    key = f"choice: {name}"
    st.session_state[key] = (asked(name) or default)[:most]
    put(name, st.session_state[key])
    return st.text_area(label, key=key, on_change=_take, args=(name, key), help=help, max_chars=most)


def _take(name: str, key: str) -> None:
    value = st.session_state[key]
    put(name, str(int(value)) if isinstance(value, bool) else str(value))


def _read(read: Callable[[str], str], wanted: str) -> str | None:
    try:
        return read(wanted)
    except ValueError:
        return None
