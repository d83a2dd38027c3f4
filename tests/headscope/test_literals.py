"""Operators written as text read back as they were, and nothing else can be written."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope import Head, UsageError
from headscope.hooks import Where
from headscope.literals import parse_call, parse_calls
from interventions import Ablate


@dataclass(frozen=True)
class Scale:
    """An operator with every kind of field."""

    factor: float = 1.0
    layers: tuple[int, ...] | None = None
    name: str = ""
    on: bool = True

    def __post_init__(self) -> None:
        if self.factor > 100:
            raise UsageError(f"factor {self.factor} is too large; give at most 100")


@dataclass(frozen=True)
class Blank:
    """Takes nothing."""


KNOWN = {"Scale": Scale, "Blank": Blank, "Ablate": Ablate, "Head": Head, "Where": Where}


def test_a_call_is_the_value_it_describes():
    assert parse_call("Scale(factor=2, layers=(0, -1), name='a', on=False)", KNOWN) == Scale(2, (0, -1), "a", False)
    assert parse_call(" Scale( -0.5 , None )\n", KNOWN) == Scale(-0.5)
    assert parse_call("Ablate('L2H5, L3H0', 'uniform', phase=\"decode\")", KNOWN) == Ablate(
        [Head(2, 5), Head(3, 0)], "uniform", phase="decode"
    )


def test_several_calls_keep_their_order():
    assert parse_calls("Blank(), Scale(2)", KNOWN) == (Blank(), Scale(2))
    assert parse_calls("Scale(2)", KNOWN) == (Scale(2),)
    assert parse_calls("Blank(), Blank(),", KNOWN) == (Blank(), Blank())


@given(
    factor=st.floats(-1e9, 100, allow_nan=False),
    layers=st.none() | st.lists(st.integers(-5, 5), max_size=4).map(tuple),
    name=st.text(max_size=12),
    on=st.booleans(),
)
def test_a_repr_reads_back(factor, layers, name, on):
    value = Scale(factor, layers, name, on)
    assert parse_call(repr(value), KNOWN) == value
    assert parse_calls(f"{value!r}, {value!r}", KNOWN) == (value, value)


@pytest.mark.parametrize(
    "value",
    [
        Ablate("L0H1"),
        Ablate([Head(1, 2), (3, 4)], "uniform", phase="prefill", seed=3, stack="text"),
        Ablate(()),
        Where(heads=(Head(0, 0),), phase="decode", positions=(-1,)),
        Head(7, 11),
    ],
)
def test_operators_of_the_library_read_back(value):
    assert parse_call(repr(value), KNOWN) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Scael(2)", r"'Scael' is not known in 'Scael\(2\)'; known are: Ablate, Blank, Head, Scale, Where"),
        ("Scale(alpha=2)", "Scale has no 'alpha'; it takes: factor, layers, name, on"),
        ("Blank(x=1)", "Blank has no 'x'; it takes: nothing"),
        ("Scale(1, (), '', True, 5)", r"Scale cannot be made .*; it takes: factor, layers"),
        ("Scale(2, factor=3)", "multiple values"),
        ("Scale(factor=101)", "^factor 101 is too large; give at most 100$"),
        ("Ablate('L0H1', 'gone')", "gone"),
        ("Ablate('x')", "'x' is not a head"),
        ("Ablate(heads=3)", "Ablate cannot be made of what it was given"),
        ("Scale(factor=1, factor=2)", "Scale is given 'factor' twice"),
        ("Scale(", "cannot be read"),
        ("", "cannot be read"),
        ("Scale", "Scale is not a call of a name"),
        ("2", "2 is not a call of a name"),
        ("Scale()()", r"Scale\(\)\(\) is not a call of a name"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        parse_call(text, KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Scale(factor=__import__('os'))",
        "Scale(factor=Scale.__init__)",
        "Scale(name='a'.upper())",
        "Scale(factor=(lambda: 1)())",
        "Scale(factor=1 + 1)",
        "Scale(factor=2 ** 9)",
        "Scale(factor=~1)",
        "Scale(factor=-True)",
        "Scale(factor=+1)",
        "Scale(factor=1j)",
        "Scale(name=b'x')",
        "Scale(name=f'{1}')",
        "Scale(layers=...)",
        "Scale(layers=[1])",
        "Scale(layers={1: 2})",
        "Scale(layers=[i for i in (1,)])",
        "Scale(layers=(*(1, 2),))",
        "Scale(*(1, 2))",
        "Scale(**{'factor': 2})",
        "Scale(factor=alpha)",
        "Scale(factor=Scale)",
        "Scale(factor=(x := 1))",
        "Scale(factor=1 if True else 2)",
        "interventions.Scale(2)",
        "Scale(2); Scale(3)",
        "Scale(factor=" + "(" * 3000 + "1" + ")" * 3000 + ")",
        "Scale(factor=" + "9" * 5000 + ")",
        "Scale(name='\0')",
        "Scale(1)" + " " * 10_000,
    ],
)
def test_nothing_but_calls_and_literals_is_read(text):
    with pytest.raises(UsageError):
        parse_call(text, KNOWN)


def test_several_calls_are_each_checked():
    for text, message in {"Blank(), 3": "3 is not a call", "()": "holds no call", "Blank(), Gone()": "'Gone'"}.items():
        with pytest.raises(UsageError, match=message):
            parse_calls(text, KNOWN)
    with pytest.raises(UsageError, match=r"is not a call of a name"):
        parse_call("Blank(), Blank()", KNOWN)
