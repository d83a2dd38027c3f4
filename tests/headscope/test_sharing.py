"""Cells are done once, by whoever comes first, and come back in order."""

import threading

import pandas as pd
import pytest

from headscope.runs import Run
from headscope.sharing import do_cells, each_sample

KEYS = ["c", "a", "b"]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "run", command="test", config={})


def table(key: str) -> pd.DataFrame:
    return pd.DataFrame({"key": [key, key], "value": [1.0, 2.0]})


class Doing:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, keys):
        self.calls.append(list(keys))
        for key in keys:
            yield key, table(key)


def nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("kept", [False, True])
def test_every_cell_once_in_the_order_asked_for(run, kept):
    do, told = Doing(), []
    found = do_cells(run if kept else None, KEYS, do, update=lambda key, table: told.append((key, len(table))))
    assert list(found) == KEYS
    assert do.calls == [["c"], ["a"], ["b"]]
    assert told == [("c", 2), ("a", 2), ("b", 2)]
    assert run.cell_keys() == (("a", "b", "c") if kept else ())
    for key in KEYS:
        pd.testing.assert_frame_equal(found[key], table(key))


def test_what_is_there_is_not_done_again_and_what_is_spoilt_is(run):
    for key in KEYS:
        run.save_cell(key, table(key))
    (run.path / "cells" / "a.parquet").write_bytes(b"")
    table("b").head(1).to_parquet(run.path / "cells" / "b.parquet")
    do = Doing()
    found = do_cells(run, KEYS, do, columns=("value",), rows=dict.fromkeys(KEYS, 2), update=nothing)
    assert do.calls == [["a"], ["b"]]
    assert [len(found[key]) for key in KEYS] == [2, 2, 2]


def test_cells_that_go_together_are_done_in_one_call(run):
    do = Doing()
    do_cells(
        run, ["a1", "a2", "a3", "b1"], do, together=lambda t, key: key[0] == t[0][0] and len(t) < 2, update=nothing
    )
    assert do.calls == [["a1", "a2"], ["a3"], ["b1"]]


def test_what_another_is_at_is_left_to_it_and_done_if_it_ends_without(run):
    claimed, go_on = threading.Event(), threading.Event()

    def other():
        with run.claim("c") as mine:
            assert mine
            claimed.set()
            go_on.wait(10)

    holder = threading.Thread(target=other)
    holder.start()
    claimed.wait(10)
    calls = []

    def do(keys):
        calls.append(list(keys))
        if keys == ["b"]:
            go_on.set()
        for key in keys:
            yield key, table(key)

    assert list(do_cells(run, KEYS, do, update=nothing)) == KEYS
    holder.join()
    assert calls == [["a"], ["b"], ["c"]]


def test_what_another_has_written_meanwhile_is_what_counts(run):
    def do(keys):
        for key in keys:
            run.save_cell(key, table("other"))
            yield key, table(key)

    found = do_cells(run, ["a"], do, update=nothing)
    assert found["a"]["key"].tolist() == ["other", "other"]


def test_a_refusal_of_a_kept_cell_comes_before_anything_is_done(run):
    run.save_cell("b", table("b"))
    do = Doing()

    def refuse(key, _):
        raise ValueError(key)

    with pytest.raises(ValueError, match="b"):
        do_cells(run, KEYS, do, update=refuse)
    assert do.calls == []


def test_samples_in_batches_of_whatever_size_come_back_once_and_in_order(run):
    sizes, calls = [3, 9, 5, 9, 1], []

    def measure(places):
        calls.append(sorted(places))
        return pd.DataFrame({"sample": list(places), "square": [place**2 for place in places]})

    whole = each_sample(None, sizes, measure, key="s ", batch_tokens=10, update=nothing)
    assert whole["square"].tolist() == [0, 1, 4, 9, 16]
    run.save_cell("s 00003", measure([3, 0]))
    run.save_cell("s 00000", measure([0]))  # from a process with other batches; its samples overlap
    calls.clear()
    told = []
    again = each_sample(run, sizes, measure, key="s ", batch_tokens=18, update=told.append)
    assert calls == [[1, 2], [4]]
    assert sum(told) == len(sizes)
    pd.testing.assert_frame_equal(again, whole)
