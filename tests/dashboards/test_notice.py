"""What goes wrong on a page is said there, and the rest of the page goes on."""

import pytest
from streamlit.testing.v1 import AppTest


def page(kind: str) -> None:
    import streamlit as st

    from dashboards.components import notice
    from headscope.errors import UsageError

    errors = {
        "request": UsageError("there is no head L9H9; name another"),
        "memory": MemoryError(),
        "allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        "file": FileNotFoundError("gone.parquet"),
        "bug": RuntimeError("something else"),
    }
    with notice.guarded("The heads cannot be shown."):
        raise errors[kind]
    st.write("the rest")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("request", "L9H9; name another"),
        ("memory", "Memory ran out"),
        ("allocator", "smaller model"),
        ("file", "gone.parquet"),
    ],
)
def test_what_failed_and_what_to_do(kind: str, says: str) -> None:
    shown = AppTest.from_function(page, args=(kind,)).run()
    assert not shown.exception
    assert shown.error[0].value == "The heads cannot be shown."
    assert says in shown.text[0].value
    assert shown.markdown[0].value == "the rest"


def test_a_mistake_of_ours_is_not_hidden() -> None:
    shown = AppTest.from_function(page, args=("bug",)).run()
    assert "something else" in shown.exception[0].message
