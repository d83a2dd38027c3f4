"""Cells done by other processes are the cells that one process does, whoever is killed meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import psutil
import pytest

from experiments.cli import run as headscope
from experiments.commands.judging_order import JudgingSettings, conditions_of
from experiments.executors import child
from experiments.executors.failures import Failures
from experiments.executors.labour import Labour
from experiments.executors.order import Order, model_order
from experiments.executors.processes import processes
from experiments.executors.working import Worker
from experiments.judging_work import judging_work
from headscope import HookedModel
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run
from headscope.sharing import Work, do_work
from tests.experiments.labouring import (
    SETTINGS,
    SWEEP,
    Asked,
    asked_sweep,
    assert_same,
    below,
    done_with,
    ignored,
    kill_one,
    new_run,
    one_thread,
)
from tests.experiments.test_cli import printed

ME = psutil.Process()
WORKER = "experiments.executors.process_worker"


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with one_thread():
        yield asked_sweep()


def test_a_worker_that_knows_an_order_only_as_text_finds_the_same(asked):
    worker = Worker(asked.order.text(), threads=1)
    keys = list(asked.work.keys[:3])
    found = dict(worker.do(json.dumps(asked.work.told), keys))
    assert list(found) == keys
    for key in keys:
        pd.testing.assert_frame_equal(found[key], asked.serial[key], check_exact=True)


def test_a_worker_asks_what_it_was_told_under_the_same_conditions():
    asked = {"split": "random", "annotations": None, "images": None, "per_image": 1, "limit": 3, "seed": 0}
    settings = JudgingSettings("pope", {**asked, "prior": "violating"}, ("VHR(alpha=2)",), 1, 4, 512)
    facts = {key: getattr(settings, key) for key in settings.__dataclass_fields__}
    order = Order("eval", model_order("zoo:scenes", device="cpu", dtype="auto"), facts)
    with one_thread():
        model = HookedModel.load("zoo:scenes", device="cpu")
        conditions = conditions_of(model, settings.operators, settings.draws)
        task = settings.tasks()["random"]
        work = judging_work(model, task, conditions, name="random", max_new_tokens=4, batch_tokens=512).work
        here = do_work(None, work, ignored)
        there = dict(Worker(order.text()).do(json.dumps(dict(work.told)), list(work.keys)))
    assert len(here) == len(conditions) == 3
    for key, table in here.items():
        pd.testing.assert_frame_equal(there[key], table, check_exact=True)


@pytest.mark.parametrize(
    ("change", "differs"),
    [({"weights": "0" * 64}, "weights"), ({"sha256": ""}, "sha256"), ({"seed": 9, "metric": "kl"}, "seed, metric")],
)
def test_a_worker_with_another_model_or_other_prompts_does_nothing(asked, change, differs):
    worker = Worker(asked.order.text(), place="on node 10.0.0.7: ")
    told = json.dumps({**asked.work.told, **change})
    with pytest.raises(UsageError, match=rf"on node 10\.0\.0\.7: the work made here .* \({differs} differ\)"):
        worker.work(told)


def test_a_worker_without_the_model_says_where_it_lacks_it(asked):
    order = replace(asked.order, model={"model": "/nowhere/model", "device": "cpu", "dtype": "auto"})
    with pytest.raises(UsageError, match=r"on node 10\.0\.0\.7: there is no model folder /nowhere/model"):
        Worker(order.text(), place="on node 10.0.0.7: ").load()


def test_an_order_names_folders_in_full_and_holds_no_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "hay.txt").write_text("hay")
    settings = replace(SETTINGS, asking=replace(SETTINGS.asking, haystack=(tmp_path / "hay.txt").relative_to(tmp_path)))
    order = Order.read(Order("sweep", model_order("mine", device=None), settings.facts()).text())
    assert order.model == {"model": str(tmp_path / "mine"), "device": None}
    assert order.settings["asking"]["haystack"] == str(tmp_path / "hay.txt")
    assert model_order("gpt2")["model"] == "gpt2"
    with pytest.raises(TypeError, match="object is not text"):
        Order("sweep", {"model": object()}, {}).text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("local", 2, None, None), "--workers 2 is given, and --executor local is one process"),
        (("processes", 2, 0.5, None), "--num-gpus 0.5 is an option of --executor ray"),
        (("local", None, None, "auto"), "--ray-address auto is an option of --executor ray"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Labour(*options)


def test_failures_are_counted_by_cell_and_those_of_starting_in_a_row():
    failures = Failures()
    for _ in range(2):
        failures.note(["a", "b"], "no ink")
        failures.note([], "no model")
    failures.started()
    failures.note([], "no model")
    failures.note(["c"], "no ink")
    with pytest.raises(
        HeadscopeError, match="failed 3 times at 'b'; the last one said: no paper; finished cells are kept"
    ):
        failures.note(["b"], "no paper")
    failures.note([], "no model")
    with pytest.raises(HeadscopeError, match="failed 3 times before their first cell; the last one said: no model"):
        failures.note([], "no model")


DYING = """
import json, sys
sys.stdin.readline()
print(json.dumps({"ready": True}), flush=True)
told = json.loads(sys.stdin.readline())["told"]
print(json.dumps({"at": told["poison"]}), flush=True)
sys.exit("out of paper")
"""


def test_a_cell_that_kills_every_worker_ends_it_with_their_last_words(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", DYING))
    work = Work(("a", "b"), asked.work.do, told={"poison": ["b"]})
    run = new_run(tmp_path / "run")
    with (
        processes(asked.order, workers=1) as executor,
        pytest.raises(HeadscopeError, match=r"failed 3 times at 'b'; .* out of paper \(exit code 1\)"),
    ):
        executor(run, work, ignored)
    assert not below(ME, "out of paper")


def test_workers_need_the_folder_of_a_run(asked):
    with processes(asked.order) as executor, pytest.raises(UsageError, match="none was given"):
        executor(None, asked.work, ignored)


@pytest.mark.slow
def test_processes_find_the_same_with_one_of_them_killed(asked, tmp_path):
    run = new_run(tmp_path / "run")
    with processes(asked.order, workers=2) as executor:
        found = done_with(executor, run, asked, lambda: kill_one(lambda: below(ME, WORKER)))
    assert_same(found, asked, run)
    assert not below(ME, WORKER)


@pytest.mark.slow
def test_what_a_worker_refuses_is_the_commands_refusal(asked, tmp_path):
    order = replace(asked.order, model={"model": "/nowhere/model", "device": "cpu", "dtype": "auto"})
    run = new_run(tmp_path / "run")
    with (
        processes(order, workers=1) as executor,
        pytest.raises(UsageError, match="there is no model folder /nowhere/model"),
    ):
        executor(run, asked.work, ignored)
    assert run.cell_keys() == ()


MAIN = "from experiments.cli import main; main()"


@pytest.mark.slow
def test_a_stopped_command_leaves_no_worker_and_a_resumed_one_no_trace(asked, tmp_path, capsys):
    out = tmp_path / "run"
    argv = [*SWEEP, "--out", str(out), "--resume"]
    for end in (signal.SIGTERM, signal.SIGKILL):
        before = len(Run.open(out).cell_keys()) if out.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *argv, "--executor", "processes", "--workers", "2"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (out / "cells").is_dir() or len(Run.open(out).cell_keys()) < before + 2:
            assert process.poll() is None
            time.sleep(0.02)
        workers = below(psutil.Process(process.pid), WORKER)
        process.send_signal(end)
        _, said = process.communicate()
        assert workers
        psutil.wait_procs(workers, timeout=20)
        assert not [worker for worker in workers if worker.is_running()]
        if end == signal.SIGTERM:
            assert process.returncode == 130
            assert "the same command with --resume goes on" in said
            assert Run.open(out).facts["status"] == "failed"
    assert headscope([*argv, "--json"]) == 0
    assert printed(capsys)["missing"] == []
    run = Run.open(out)
    expected = pd.concat(asked.serial.values(), ignore_index=True)
    pd.testing.assert_frame_equal(run.table("effects")[list(expected)], expected, check_exact=True)
    assert run.facts["status"] == "finished"
    assert not [path for path in out.rglob("*") if path.suffix in (".part", ".lock")]
