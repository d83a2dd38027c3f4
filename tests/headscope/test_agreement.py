"""One analysis, three backends, the same numbers: the table of the documentation, measured again."""

from functools import cache

import pytest

from tests.headscope.agreement import (
    BACKENDS,
    BAR,
    BEGIN,
    END,
    FAMILIES,
    MEASURES,
    PAGE,
    READINGS,
    Cell,
    applies,
    measured,
    page_table,
)

REFUSED = {("qwen2_vl", "transformer_lens"): "it has no adapter for this architecture"}


@cache
def cells(family: str) -> tuple[Cell, ...]:
    return tuple(measured(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_backends_agree_or_refuse_with_the_reason(family):
    found = cells(family)
    assert len(found) == len(BACKENDS) * sum(applies(family, measure) for measure in MEASURES)
    for cell in found:
        reason = REFUSED.get((family, cell.backend))
        if reason is not None:
            assert reason in cell.refused
        else:
            assert not cell.refused
            assert cell.difference is not None
            assert cell.difference <= BAR, cell


@pytest.mark.parametrize("family", FAMILIES)
def test_what_agrees_is_not_nothing(family):
    edits = [cell for cell in cells(family) if cell.measure not in READINGS and not cell.refused]
    assert edits
    for cell in edits:
        assert cell.effect is not None
        assert cell.effect > 0.05, cell


def test_the_documentation_shows_what_is_measured():
    shown = PAGE.read_text("utf-8").split(BEGIN)[1].split(END)[0].strip().splitlines()
    table = page_table([cell for family in FAMILIES for cell in cells(family)]).splitlines()
    assert shown[:2] == table[:2]
    for told, found in zip(shown[2:], table[2:], strict=True):
        for a, b in zip(told.split("|"), found.split("|"), strict=True):
            for x, y in zip(a.split("/"), b.split("/"), strict=True):
                try:  # rounding differs between machines, its size does not
                    assert float(x) <= BAR
                    assert float(y) <= BAR
                except ValueError:
                    assert x.strip() == y.strip()
