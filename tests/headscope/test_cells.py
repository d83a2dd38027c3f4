"""Cells are kept once, claimed by one process at a time, and done again where they cannot be read."""

import errno
import logging
import os
import signal
import time

import pandas as pd
import pytest

from headscope import files
from headscope.cells import Cells
from headscope.errors import HeadscopeError, UsageError

TABLE = pd.DataFrame({"unit": ["L0H0", "L0H1"], "value": [1.0, float("nan")]})


@pytest.fixture
def cells(tmp_path) -> Cells:
    return Cells(tmp_path / "cells")


def test_the_first_to_write_a_cell_wins(cells):
    assert cells.save("a", TABLE) is True
    assert cells.save("a", TABLE.assign(value=5.0)) is False
    pd.testing.assert_frame_equal(cells.finished("a"), TABLE)
    with pytest.raises(UsageError, match="never overwritten"):
        cells.save("a", TABLE.rename(columns={"value": "other"}))
    assert cells.keys() == ("a",)


def test_a_table_that_cannot_be_kept_is_no_cell(cells):
    with pytest.raises(UsageError, match="cannot be kept as parquet"):
        cells.save("mixed", pd.DataFrame({"x": [1, "a", object()]}))
    assert list(cells.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "Parquet magic bytes not found"),
        (lambda path: path.write_bytes(b""), "size is 0 bytes"),
        (lambda path: path.write_text("unit,value\n"), "arquet"),
        (lambda path: TABLE[["unit"]].to_parquet(path), "it has no column 'value'"),
        (lambda path: TABLE.head(1).to_parquet(path), "it has 1 rows, not 2"),
    ],
    ids=["cut", "empty", "text", "columns", "rows"],
)
def test_a_cell_that_cannot_be_used_is_said_moved_aside_and_done_again(cells, caplog, spoil, why):
    cells.save("a", TABLE)
    path = cells.path("a")
    spoil(path)
    spoilt = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert cells.finished("a", columns=("unit", "value"), rows=2) is None
    (said,) = (record.getMessage() for record in caplog.records)
    assert str(path) in said
    assert why in said
    assert "\n" not in said
    assert (cells.folder / "a.parquet.bad").read_bytes() == spoilt
    assert "a" not in cells
    assert cells.save("a", TABLE) is True
    pd.testing.assert_frame_equal(cells.finished("a", columns=("unit",), rows=2), TABLE)


def test_a_broken_cell_is_replaced_by_one_that_comes(cells):
    cells.folder.mkdir()
    cells.path("a").write_bytes(b"")
    assert cells.save("a", TABLE) is True
    pd.testing.assert_frame_equal(cells.finished("a"), TABLE)


def test_a_cell_that_may_not_be_read_stays_where_it_is(cells, monkeypatch):
    cells.save("a", TABLE)

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(pd, "read_parquet", refused)
    with pytest.raises(PermissionError):
        cells.finished("a")
    assert "a" in cells


def test_a_claim_keeps_others_out_until_it_ends(cells):
    with cells.claim("a") as mine:
        assert mine
        with cells.claim("a") as other, cells.claim("b") as free:
            assert (other, free) == (False, True)
    with cells.claim("a") as again:
        assert again
        cells.save("a", TABLE)
    with cells.claim("a") as finished:
        assert not finished
    assert [path.name for path in cells.folder.iterdir()] == ["a.parquet"]


def test_a_claim_of_a_killed_process_is_free_at_once(cells):
    heard, said = os.pipe()
    pid = os.fork()
    if not pid:
        with cells.claim("a") as mine:
            os.write(said, b"mine" if mine else b"not mine")
            time.sleep(60)
        os._exit(0)
    assert os.read(heard, 8) == b"mine"
    with cells.claim("a") as mine:
        assert not mine
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(heard)
    os.close(said)
    assert list(cells.folder.iterdir()), "what the killed process held is still there"
    cells.clean()
    assert list(cells.folder.iterdir()) == []
    with cells.claim("a") as mine:
        assert mine


def test_where_files_cannot_be_locked_everybody_is_let_through(cells, monkeypatch):
    from headscope import locks

    monkeypatch.setattr(locks, "fcntl", None)
    with cells.claim("a") as mine, cells.claim("a") as other:
        assert mine
        assert other
        assert cells.save("a", TABLE)
        assert not cells.save("a", TABLE)


def test_what_is_being_written_is_not_cleaned_away(cells):
    cells.folder.mkdir()
    stale = cells.folder / ".0123.part"
    stale.write_text("what a killed process was writing")
    seen = []

    def write(path):
        path.write_text("mine")
        cells.clean()
        seen.extend(file.name for file in cells.folder.iterdir())

    files.write_new(cells.folder / "x", write)
    assert not stale.exists()
    assert len(seen) == 1
    assert (cells.folder / "x").read_text() == "mine"


def test_plans_say_what_is_missing_and_refuse_other_work(cells):
    about = {"metric": "loss", "units": {"L0H0": ["L0H0"]}}
    cells.plan("sweep", ["b", "a"], about)
    cells.plan("sweep", ("b", "a"), about)
    assert cells.plans() == {"sweep": {"cells": ["b", "a"], **about}}
    assert cells.missing() == ("b", "a")
    cells.save("b", TABLE)
    assert cells.missing() == ("a",)
    with pytest.raises(UsageError, match=r"cells of other work \(cells, metric differ"):
        cells.plan("sweep", ["b"], about | {"metric": "kl"})
    (cells.folder / "sweep.plan.json").write_text("[1]")
    with pytest.raises(UsageError, match="is not a plan of cells"):
        cells.missing()


def test_a_full_disk_says_what_was_written_what_is_free_and_what_to_do(cells):
    cells.save("a", TABLE)

    def full(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HeadscopeError, match=r"no room to write .*b\.parquet .*No space left.*MiB are free.*--resume"):
        files.write_new(cells.path("b"), full)
    assert cells.keys() == ("a",)
    assert [path.name for path in cells.folder.iterdir()] == ["a.parquet"]


def test_other_errors_of_the_disk_keep_their_names(cells):
    def broken(path):
        raise OSError(errno.EIO, "a bad sector")

    with pytest.raises(OSError, match="a bad sector") as caught:
        files.write_new(cells.path("b"), broken)
    assert not isinstance(caught.value, HeadscopeError)
