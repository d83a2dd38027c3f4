"""What a page says where it has nothing to show; text from files is shown as text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import streamlit as st

from dashboards.plain import sendable
from headscope.costs import is_out_of_memory
from headscope.errors import HeadscopeError


def empty(text: str, command: str) -> None:
    """Why there is nothing here, and the command that changes that."""
    st.info(text, icon=":material/info:")
    st.code(command, language="bash", wrap_lines=True)


def elsewhere(text: str, runs: Sequence[str], *, alt: str) -> None:
    """Why there is nothing here, and the runs that have it."""
    st.info(text, icon=":material/info:")
    st.dataframe({"run": runs}, hide_index=True, alt=alt)


def trouble(what: str, message: str) -> None:
    """What failed, in the page's words, and below it the message, which says what to do."""
    st.error(what, icon=":material/error:")
    st.text(sendable(message))


@contextmanager
def guarded(what: str = "This part cannot be shown.") -> Iterator[None]:
    """A request that cannot be met becomes a message; the rest of the page goes on."""
    try:
        yield
    except HeadscopeError as error:
        trouble(what, str(error))
    except OSError as error:
        trouble(what, f"{error}; check that the file is there and can be read")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        trouble(what, "Memory ran out; take a shorter prompt or a smaller model, and close what else needs memory.")
