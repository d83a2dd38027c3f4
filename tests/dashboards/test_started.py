"""Sweeps as processes: what may be asked, what is started, and what is never ended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from dashboards import started
from dashboards.asked_sweep import AskedSweep, read_asked
from dashboards.started import all_started, last_lines, process_of, read_started, start, stop
from dashboards.sweep_progress import Progress, cells_done, read_progress
from dashboards.sweep_state import state_of
from headscope.errors import UsageError
from headscope.runs import Run
from headscope.zoo import zoo_names

needle = pytest.mark.skipif("zoo:needle" not in zoo_names(), reason="zoo:needle is not trained")
LONG = AskedSweep("zoo:needle", lengths="512", depths=20, repeats=20)
SMALL = AskedSweep("zoo:needle", lengths="64", depths=2, repeats=2, draws=2)


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    """A folder of runs; what was started there is ended with the test, however it ends."""
    yield tmp_path
    for one in all_started(tmp_path):
        if process_of(tmp_path, one) is not None:
            stop(tmp_path, one.name)


def ended(runs: Path, name: str, *, patience: float = 300.0) -> str:
    """What has become of a sweep once its process is gone."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        state = state_of(runs, read_started(runs, name))
        if state != "running":
            return state
        time.sleep(0.1)
    raise AssertionError(f"still running: {last_lines(runs, name)}")


def recorded(runs: Path, name: str, **facts: object) -> Path:
    """A record as a file, whoever wrote it."""
    folder = runs / ".dashboard" / name
    folder.mkdir(parents=True)
    begun = {"name": name, "asked": asdict(SMALL), "pid": 1, "born": 0.0, "before": 0, "stopped": False}
    (folder / "sweep.json").write_text(json.dumps(begun | facts))
    return folder


def recorded_process(runs: Path, name: str, pid: int) -> None:
    """A record of a live process, once the system knows its words: for a moment after its start there are none."""
    process = psutil.Process(pid)
    until = time.monotonic() + 20
    while not process.cmdline() and time.monotonic() < until:
        time.sleep(0.01)
    recorded(runs, name, pid=pid, born=process.create_time())


def test_the_words_hold_no_option_in_disguise(tmp_path):
    words = AskedSweep("--trust", lengths=" 64").words("--json", tmp_path / "run", resume=True)
    assert words[:2] == ["ablate", "sweep"]
    assert "--model=--json" in words
    assert f"--out={tmp_path / 'run'}" in words
    assert words[-1] == "--resume"
    assert "--json" not in words


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"task": "/etc/passwd.jsonl"}, "task '/etc/passwd.jsonl' is not known"),
        ({"metric": "none"}, "use one of loss"),
        ({"of": "groups"}, "use one of heads, pairs, layers"),
        ({"depths": 0}, "a whole number from 1"),
        ({"repeats": 10**9}, "a whole number from 1"),
        ({"lengths": "64 --out=/tmp"}, "not a list of positive whole numbers"),
        ({"lengths": "1," * 99}, "at most 100"),
    ],
)
def test_what_cannot_be_asked(asked, says):
    with pytest.raises(UsageError, match=says):
        AskedSweep(**{"model": "zoo:needle", **asked})


def test_settings_come_back_from_a_file():
    assert read_asked(asdict(LONG)) == LONG
    with pytest.raises(UsageError, match="not the settings of a sweep"):
        read_asked({**asdict(LONG), "command": "rm"})
    with pytest.raises(UsageError, match="not the settings of a sweep"):
        read_asked([])
    for wrong in ({"depths": True}, {"repeats": "4; rm"}, {"model": 3}, {"lengths": None}):
        with pytest.raises(UsageError, match="which is no"):
            read_asked({**asdict(LONG), **wrong})


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", ".hidden", "", "-rf", "a\nb", "x" * 81, "..", "a b"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a sweep"):
        start(tmp_path, name, SMALL, "zoo:needle")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="choose another name"):
        start(tmp_path, "taken", SMALL, "zoo:needle")


def test_records_elsewhere_are_not_used(tmp_path):
    away = recorded(tmp_path / "away", "one").parent
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".dashboard").symlink_to(away)
    with pytest.raises(UsageError, match="is a link"):
        read_started(tmp_path / "runs", "one")
    with pytest.raises(UsageError, match="is a link"):
        start(tmp_path / "runs", "two", SMALL, "zoo:needle")


def test_damaged_records_are_left_out(tmp_path):
    recorded(tmp_path, "whole")
    (recorded(tmp_path, "torn") / "sweep.json").write_text('{"pid"')
    recorded(tmp_path, "negative", pid=-1)
    recorded(tmp_path, "asks", asked={"model": "x"})
    recorded(tmp_path, "endless", pid=float("inf"))
    recorded(tmp_path, "huge", born=10**400)
    recorded(tmp_path, "unborn", born=float("nan"))
    assert [one.name for one in all_started(tmp_path)] == ["whole"]
    with pytest.raises(UsageError, match="no record of a sweep"):
        read_started(tmp_path, "torn")
    with pytest.raises(UsageError, match="pid is -1"):
        read_started(tmp_path, "negative")


def test_a_process_that_is_not_the_sweeps_is_never_ended(tmp_path):
    mine = psutil.Process()
    recorded(tmp_path, "number", pid=mine.pid, born=mine.create_time() - 100)
    recorded(tmp_path, "born", pid=mine.pid, born=mine.create_time())
    for name in ("number", "born"):
        assert process_of(tmp_path, read_started(tmp_path, name)) is None
        assert state_of(tmp_path, read_started(tmp_path, name)) == "died"
        with pytest.raises(UsageError, match="nothing to stop"):
            stop(tmp_path, name)
    assert mine.is_running()


def test_the_time_left_is_told_by_the_cells_of_this_process(tmp_path):
    now = time.time()
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.plan("sweep", [f"c{i}" for i in range(8)], {})
    for i in range(4):
        path = run.path / "cells" / f"c{i}.parquet"
        path.touch()
        os.utime(path, (now - 1000 if i == 0 else now - 10 * (4 - i),) * 2)
    found = read_progress(run.path, before=1)
    assert (found.done, found.planned, cells_done(run.path)) == (4, 8, 4)
    assert found.left == pytest.approx(10 * 4 - 10, abs=2)
    assert read_progress(run.path, before=3).left is None, "one cell tells no speed"
    assert read_progress(tmp_path / "nothing") == Progress(0, 0)


def test_a_sweep_that_dies_at_once_says_why(folder):
    begun = start(folder, "lost", replace(SMALL, model="zoo:needle"), str(folder / "no-such-model"))
    assert begun.asked.model == "zoo:needle"
    assert ended(folder, "lost") == "died"
    assert "no-such-model" in last_lines(folder, "lost").replace("\n", "")
    assert last_lines(folder, "lost", lines=1).count("\n") == 0


def test_a_process_without_a_record_is_not_left_behind(tmp_path, monkeypatch):
    begun = []
    launch = subprocess.Popen

    def watched(*words, **options):
        begun.append(launch(*words, **options))
        (tmp_path / ".dashboard" / "one" / "sweep.json").mkdir()  # so that no record can be written over it
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    with pytest.raises(OSError, match=r"sweep\.json"):
        start(tmp_path, "one", SMALL, "zoo:needle")
    assert begun[0].wait(30) != 0


def test_a_sweep_that_ended_just_before_it_was_stopped_stays_finished(tmp_path):
    with Run.create(tmp_path / "one", command="ablate sweep", config={}):
        pass
    words = [sys.executable, "-c", "import time; time.sleep(60)", "sweep", f"--out={tmp_path / 'one'}"]
    with subprocess.Popen(words) as late:  # a process whose run is written, and which has not left yet
        recorded_process(tmp_path, "one", late.pid)
        stop(tmp_path, "one")
        late.wait(30)
    assert Run.open(tmp_path / "one").facts["status"] == "finished"
    assert state_of(tmp_path, read_started(tmp_path, "one")) == "finished"


_LEFT_BEHIND = """
import subprocess, sys, time
print(subprocess.Popen(sys.argv[1:]).pid, flush=True)
time.sleep(60)
"""


def test_a_process_whose_end_nobody_notices_is_stopped_at_once(tmp_path):
    words = [sys.executable, "-c", "import time; time.sleep(60)", "sweep", f"--out={tmp_path / 'one'}"]
    with subprocess.Popen([sys.executable, "-c", _LEFT_BEHIND, *words], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        recorded_process(tmp_path, "one", pid)
        begun = time.monotonic()
        stop(tmp_path, "one")
        assert time.monotonic() - begun < 5
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert state_of(tmp_path, read_started(tmp_path, "one")) == "stopped"
        parent.kill()


def test_a_sweep_with_cells_missing_is_not_finished(tmp_path):
    recorded(tmp_path, "one")
    with Run.create(tmp_path / "one", command="ablate sweep", config={}) as run:
        run.plan("sweep", ["a", "b"], {})
    assert Run.open(tmp_path / "one").facts["status"] == "partial"
    assert state_of(tmp_path, read_started(tmp_path, "one")) == "died"


@needle
def test_a_sweep_is_started_found_again_and_stopped(folder):
    begun = start(folder, "long", LONG, "zoo:needle")
    process = psutil.Process(begun.pid)
    assert os.getsid(begun.pid) != os.getsid(0), "what ends the dashboard does not end the sweep"
    again = read_started(folder, "long")
    assert again == begun
    assert state_of(folder, again) == "running"
    with pytest.raises(UsageError, match="'long' is still running"):
        start(folder, "other", SMALL, "zoo:needle")
    impostor = replace(again, name="other")
    assert process_of(folder, impostor) is None, "it writes to another folder"
    stop(folder, "long")
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert state_of(folder, read_started(folder, "long")) == "stopped"
    assert started.read_started(folder, "long").stopped


@needle
@pytest.mark.slow
def test_a_sweep_that_was_killed_is_resumed_to_its_end(folder):
    asked = replace(SMALL, repeats=4, lengths="64,96,128")
    begun = start(folder, "killed", asked, "zoo:needle")
    until = time.monotonic() + 120
    while cells_done(folder / "killed") < 1 and time.monotonic() < until:
        time.sleep(0.02)
    process = process_of(folder, begun)
    assert process is not None, last_lines(folder, "killed")
    process.kill()
    assert ended(folder, "killed") == "died"
    before = cells_done(folder / "killed")
    assert before >= 1
    assert Run.open(folder / "killed").facts["status"] == "running", "nobody could note its end"
    again = start(folder, "killed", asked, "zoo:needle", resume=True)
    assert again.before == before
    assert ended(folder, "killed") == "finished", last_lines(folder, "killed")
    run = Run.open(folder / "killed")
    assert {"units", "together"} <= set(run.table_names())
    assert len(run.facts["resumed"]) == 1
