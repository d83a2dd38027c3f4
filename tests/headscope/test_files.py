"""Files are whole or absent, and names stay in their folder."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from headscope.errors import UsageError
from headscope.files import file_name, json_text, names_in, write_new, write_over


def half(path):
    path.write_text("half")
    raise RuntimeError("killed")


@pytest.mark.parametrize("write", [write_new, write_over])
def test_nothing_is_left_of_a_write_that_fails(tmp_path, write):
    with pytest.raises(RuntimeError, match="killed"):
        write(tmp_path / "a.txt", half)
    assert list(tmp_path.iterdir()) == []


def test_new_never_overwrites_and_over_does(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_new(path, lambda file: file.write_text("first"))
    with pytest.raises(UsageError, match=r"a\.txt exists and results are never overwritten"):
        write_new(path, lambda file: file.write_text("second"))
    assert path.read_text() == "first"
    write_over(path, lambda file: file.write_text("third"))
    assert path.read_text() == "third"
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]


def test_the_slower_of_two_writers_is_refused(tmp_path):
    path = tmp_path / "a.txt"

    def slow(file):
        path.write_text("other")  # arrives while this one is writing
        file.write_text("mine")

    with pytest.raises(UsageError, match="never overwritten"):
        write_new(path, slow)
    assert path.read_text() == "other"


@pytest.mark.parametrize("taken", [False, True])
def test_folders_without_hard_links_work_too(tmp_path, monkeypatch, taken):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.txt"

    def write(file):
        file.write_text("mine")
        if taken:
            path.write_text("other")

    if taken:
        with pytest.raises(UsageError, match="never overwritten"):
            write_new(path, write)
    else:
        write_new(path, write)
    assert path.read_text() == ("other" if taken else "mine")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", ["a/b", "..", "../a", "a\\b", "", ".", "a..b", "nul\0"])
def test_names_cannot_leave_their_folder(name):
    with pytest.raises(UsageError, match="cannot name a file"):
        file_name(name, ".parquet")


def test_names_cannot_be_too_long():
    with pytest.raises(UsageError, match="takes 300 characters"):
        file_name("x" * 300, ".parquet")


@pytest.mark.parametrize("name", ["L5H3, zero", "top 5 | seed=0", "100 %", ".hidden", "größe", "a:b?*<>"])
def test_odd_names_come_back(tmp_path, name):
    path = tmp_path / file_name(name, ".parquet")
    assert path.name.isascii()
    assert not set('|:?*<>"') & set(path.name)
    path.touch()
    assert names_in(tmp_path, ".parquet") == (name,)


def test_json_holds_what_results_are_made_of():
    value = {"path": Path("a"), "score": np.float32(0.5), "dtype": torch.bfloat16, "nested": {"pair": (1, 2)}}
    assert json.loads(json_text(value, "meta")) == {
        "path": "a",
        "score": 0.5,
        "dtype": "torch.bfloat16",
        "nested": {"pair": [1, 2]},
    }


@pytest.mark.parametrize("bad", [{1, 2}, float("nan"), object(), {(1, 2): 3}, {"deep": [float("inf")]}])
def test_json_names_the_entry_it_cannot_hold(bad):
    with pytest.raises(UsageError, match=r"meta\['second'\] cannot be written as JSON"):
        json_text({"first": 1, "second": bad}, "meta")
