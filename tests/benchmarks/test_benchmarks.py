"""Benchmarks at tiny sizes: rows come out, peers find what we find, and reports say nothing about the host."""

import getpass
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import engine, statistics
from benchmarks.machine import described
from benchmarks.report import written
from benchmarks.rows import Row, table
from benchmarks.sweep import Work, by_hook, measured, some_heads
from benchmarks.timing import least_seconds
from headscope import Head

TINY = Work("tiny", 2, 32, 2, prompts=2, tokens=8)
ROWS = [
    Row("a", "16", 1.04, 1.0, bar=1.05),
    Row("b", "16", 1.06, 1.0, bar=1.05, note="why"),
    Row("c", "2x8", 3.0, 1.0, 0.9, 1.1, bar=2.5, better="more", note="why"),
    Row("d", "2x8", 2.0, 1.0, bar=2.5, better="more"),
    Row("e", "2x8", 9.0),
]


def test_a_bar_is_met_from_the_right_side():
    assert [row.met for row in ROWS] == [True, False, True, False, None]


def test_the_table_has_a_line_a_row_and_each_note_once():
    lines = table(ROWS).splitlines()
    assert lines[2].split("|")[1:-1] == [f" {cell} " for cell in _padded(lines, "a", "16", "1.04", "1.00", "-", "-")]
    assert "b [1]" in lines[3]
    assert "NO" in lines[3]
    assert ">= 2.5" in lines[4]
    assert lines[len(ROWS) + 2 :] == ["", "[1] why"]


def _padded(lines: list[str], *cells: str) -> list[str]:
    widths = [len(part) - 2 for part in lines[0].split("|")[1:-1]]
    return [cell.ljust(width) for cell, width in zip((*cells, "<= 1.05", "yes"), widths, strict=True)]


def test_the_longer_way_takes_longer():
    def spin(times: int) -> None:
        for _ in range(times):
            torch.ones(100, 100) @ torch.ones(100, 100)

    seconds = least_seconds({"short": lambda: spin(10), "long": lambda: spin(1000)}, rounds=3)
    assert seconds["long"] > 10 * seconds["short"]


def test_timed_heads_reach_from_first_to_last():
    heads = [Head(layer, head) for layer in range(4) for head in range(2)]
    assert some_heads(heads, 3)[0] == heads[0]
    assert some_heads(heads, 3)[-1] == heads[-1]
    assert some_heads(heads, 99) == tuple(heads)


def test_reports_do_not_name_the_host_and_are_not_overwritten(tmp_path):
    machine = described()
    first, again = written(tmp_path, ROWS, machine), written(tmp_path, ROWS, machine)
    assert len({*first, *again}) == 4
    told = json.loads(first[1].read_text())
    assert [row["met"] for row in told["rows"]] == [row.met for row in ROWS]
    assert told["machine"]["cores"] >= 1
    assert table(ROWS) in first[0].read_text()
    for path in first:
        text = path.name + path.read_text()
        for secret in (platform.node(), str(Path.cwd()), str(Path.home()), f"/{getpass.getuser()}/"):
            assert secret not in text


@pytest.mark.slow
@pytest.mark.parametrize("work", [TINY, replace(TINY, prompts=4, shared=6, bar=7.0)], ids=["apart", "shared"])
def test_every_way_of_a_sweep_finds_the_same(work):
    found = measured(work, rounds=1, heads=3)
    assert set(found.seconds) == {"ours", "plain", "plain, last logits", "transformer_lens", "nnsight"}
    assert found.apart.pop("ours in float64") < 1e-9
    assert max(found.apart.values()) < 1e-3
    (row,) = found.rows()
    assert row.ours == found.seconds["plain"] / found.seconds["ours"]
    assert row.bar == work.bar


def test_heads_that_are_compared_differ():
    """Or else all ways would agree whatever head they take out."""
    model, ids = TINY.build(), TINY.ids()
    with torch.no_grad():
        without = torch.stack([by_hook(model.hf, ids)(head) for head in model.heads()])
    assert (without[:, None] - without[None]).abs().sum(-1).add(torch.eye(4)).min() > 1e-3


@pytest.mark.slow
def test_statistics_agree_with_full_patterns():
    rows = statistics.rows(128, rounds=1)
    assert [row.bar for row in rows] == [1.3, 2.0, 1.4]
    assert all(
        value is not None and value > 0 for row in rows[:2] for value in (row.ours, row.plain, row.transformer_lens)
    )
    assert rows[0].note.count("top keys that differ 0 of") == 2


@pytest.mark.slow
def test_rows_of_the_engine():
    rows = engine.rows(128, rounds=1, new_tokens=2)
    assert {row.bar for row in rows} == {None, 1.05, 1.4}
    assert all(row.plain == 1 and row.ours > 0 for row in rows)
