"""Progress: a bar in a terminal, now and then a line elsewhere, nothing where it is not wanted."""

import os
import pty
import sys
import termios
from types import SimpleNamespace

import pytest

from headscope import progress
from headscope.progress import progress_bar, with_progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def work(clock, counts_and_seconds, *, total: int, done: int = 0, shown: bool = True) -> None:
    with progress_bar(total, "heads", shown=shown, done=done) as update:
        for count, seconds in counts_and_seconds:
            clock(seconds)
            update(count)


def test_a_line_every_tenth_with_the_time_that_is_left(clock, capsys):
    work(clock, [(5, 6.0)] * 20, total=100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert lines[0] == "heads: 10 of 100 (10%), 12 s, about 108 s left"
    assert lines[-1] == "heads: 100 of 100 (100%), 120 s"


def test_what_was_done_before_says_nothing_of_the_time_that_is_left(clock, capsys):
    work(clock, [(10, 30.0)], total=100, done=50)
    assert capsys.readouterr().err == "heads: 60 of 100 (60%), 30 s, about 120 s left\n"


def test_slow_work_is_heard_of_every_half_minute(clock, capsys):
    work(clock, [(1, 16.0)] * 4, total=1000)
    assert capsys.readouterr().err.splitlines() == [
        "heads: 2 of 1000 (0%), 32 s, about 15968 s left",
        "heads: 4 of 1000 (0%), 64 s, about 15936 s left",
    ]


def test_quick_work_and_work_nobody_watches_is_silent(clock, capsys):
    work(clock, [(10, 0.1)] * 10, total=100)
    work(clock, [(1, 60.0)] * 10, total=10, shown=False)
    assert capsys.readouterr() == ("", "")


def test_items_pass_through_and_are_counted(clock, capsys):
    seen = []
    for item in with_progress("ab", "letters", shown=True):
        seen.append(item)
        clock(10)
    assert seen == ["a", "b"]
    assert capsys.readouterr().err.splitlines()[-1] == "letters: 2 of 2 (100%), 20 s"


def test_in_a_terminal_there_is_a_bar(monkeypatch):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress_bar(4, "heads", shown=True, done=1) as update:
            update(3)
        terminal.flush()
        shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert "heads:  25%" in shown
    assert "1/4" in shown


def test_a_bar_in_a_notebook_although_it_has_no_terminal(clock, capsys, monkeypatch):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    work(clock, [(1, 0.1)] * 3, total=3)
    assert "3/3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={})))
    work(clock, [(1, 0.1)] * 3, total=3)
    assert capsys.readouterr().err == ""
