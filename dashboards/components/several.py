"""Several of a list; they stand in the address with commas between."""

from collections.abc import Callable, Sequence

import streamlit as st

from dashboards.components import address
from dashboards.plain import plain, shortened


def choose(
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: Sequence[str] = (),
    read: Callable[[str], str] = str,
    help: str | None = None,
    most: int | None = None,
) -> tuple[str, ...]:
    """A multiselect; what the address asks for in vain is said and left out. None at all is written as `-`."""
    wanted = address.asked(name)
    parts = default if wanted is None else [part.strip() for part in wanted.split(",") if part.strip() not in ("", "-")]
    known = [_read(read, part) for part in parts]
    if strange := [part for part, one in zip(parts, known, strict=True) if one not in options]:
        st.warning(f"The address asks for {name} “{plain(shortened(strange[0]))}”, which is not here; it is left out.")
    key = f"choice: {name}"
    st.session_state[key] = list(dict.fromkeys(one for one in known if one in options))[:most]
    _put(name, st.session_state[key])
    found = st.multiselect(
        label, options, key=key, on_change=_take, args=(name, key), help=help, max_selections=most, placeholder="none"
    )
    return tuple(found)


def _take(name: str, key: str) -> None:
    _put(name, st.session_state[key])


def _put(name: str, values: Sequence[str]) -> None:
    address.put(name, ",".join(values) or "-")


def _read(read: Callable[[str], str], part: str) -> str | None:
    try:
        return read(part)
    except ValueError:
        return None
