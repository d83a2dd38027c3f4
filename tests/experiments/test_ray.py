"""Cells done on a Ray cluster of two nodes are those of one process, whichever worker or node is killed meanwhile."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import psutil
import pytest

from experiments.executors import cluster as connection
from experiments.executors.labour import Labour
from experiments.executors.on_ray import on_ray
from headscope.errors import UsageError
from headscope.runs import Run
from tests.experiments.labouring import (
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

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.slow]

ME = psutil.Process()
STORE = 100_000_000
AT_WORK = "ray::RayWorker.do"


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with one_thread():
        yield asked_sweep()


@pytest.fixture(scope="module")
def cluster() -> Iterator[cluster_utils.Cluster]:
    """Two nodes of one CPU, as different machines would be."""
    before = {process.pid for process in ME.children(recursive=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
        )
        found.add_node(num_cpus=1, object_store_memory=STORE)
        started = [process for process in ME.children(recursive=True) if process.pid not in before]
        yield found
        found.shutdown()
    _, left = psutil.wait_procs(started, timeout=10)
    for process in left:
        process.kill()
    assert not left


def test_the_cells_are_the_same_with_a_worker_killed(asked, cluster, tmp_path):
    run = new_run(tmp_path / "run")
    with on_ray(asked.order, workers=2, address=cluster.address) as executor:
        found = done_with(executor, run, asked, lambda: kill_one(lambda: below(ME, AT_WORK)))
    assert_same(found, asked, run)
    assert not below(ME, "ray::RayWorker")


def test_the_cells_are_the_same_with_a_node_lost(asked, cluster, tmp_path):
    (lost,) = cluster.worker_nodes
    (raylet,) = lost.all_processes["raylet"]
    there = psutil.Process(raylet.process.pid)
    struck: list[psutil.Process] = []

    def begun() -> bool:
        return bool(struck or [one for one in below(there, "ray::RayWorker") if "load" not in one.cmdline()[0]])

    def strike() -> None:
        while not (at := below(there, AT_WORK)):
            time.sleep(0.01)
        struck.extend(at)
        cluster.remove_node(lost, allow_graceful=False)

    run = new_run(tmp_path / "run")
    with on_ray(asked.order, workers=2, address=cluster.address) as executor:
        found = done_with(executor, run, asked, strike, once=begun)
    assert_same(found, asked, run)
    assert not struck[0].is_running()


def test_a_node_without_the_model_says_so(asked, cluster, tmp_path):
    order = replace(asked.order, model={"model": "/nowhere/model", "device": "cpu", "dtype": "auto"})
    run = new_run(tmp_path / "run")
    with (
        on_ray(order, workers=1, address=cluster.address) as executor,
        pytest.raises(UsageError, match=r"^on node \d.*: there is no model folder /nowhere/model; give"),
    ):
        executor(run, asked.work, ignored)
    assert run.cell_keys() == ()


def test_a_cluster_without_room_for_a_worker_is_refused(asked, cluster):
    says = (
        r"no node of the Ray cluster has room for a worker of 1 CPU and 0.5 GPUs \(its \d nodes have 1 CPUs and 0 GPUs"
    )
    with pytest.raises(UsageError, match=says), on_ray(asked.order, num_gpus=0.5, address=cluster.address):
        pytest.fail("there is no GPU")


def test_a_worker_has_whole_gpus_or_a_part_of_one(asked):
    with (
        pytest.raises(UsageError, match=r"--num-gpus 1\.5: a worker has a whole number"),
        on_ray(asked.order, num_gpus=1.5),
    ):
        pytest.fail("there is no such GPU")


def test_addresses_at_which_nobody_answers(asked, monkeypatch):
    monkeypatch.setattr(connection, "_ANSWERED", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host, port = deaf.getsockname()
        for address, says in [
            (f"{host}:{port}", r"within 2 s; start one with `ray start --head`"),
            ("127.0.0.1:1", r"no Ray cluster answers at 127\.0\.0\.1:1 \(.*refused"),
            ("ray://head:10001", r"'ray://head:10001' is not of the form HOST:PORT"),
            ("head", r"'head' is not of the form HOST:PORT"),
        ]:
            with pytest.raises(UsageError, match=says), on_ray(asked.order, address=address):
                pytest.fail("nobody answers")


def test_without_ray_the_error_says_how_to_get_it(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    says = r"which is not installed: pip install 'headscope\[ray\]'"
    with pytest.raises(UsageError, match=says), Labour("ray").executor(asked.order):
        pytest.fail("there is no Ray")


MAIN = """
import json, sys, psutil
from contextlib import contextmanager
from experiments.cli import run
from experiments.executors import cluster

before = cluster.connected

@contextmanager
def watched(**options):
    with before(**options) as (ray, room):
        mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
        ports = {at.laddr.ip for one in mine for at in one.net_connections("inet") if at.status == "LISTEN"}
        yield ray, room
    left = [one.name() for one in psutil.wait_procs(mine[1:], timeout=20)[1]]
    print(json.dumps([sorted(ports), len(mine), left]), file=sys.stderr)

cluster.connected = watched
import experiments.executors.on_ray as on_ray
on_ray.connected = watched
sys.exit(run(sys.argv[1:]))
"""


def test_a_cluster_of_its_own_is_closed_to_others_and_ends_with_the_command(asked, tmp_path):
    out = tmp_path / "run"
    argv = [*SWEEP, "--out", str(out), "--json", "--executor", "ray", "--workers", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *argv], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    addresses, processes, left = json.loads(done.stderr.splitlines()[-1])
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert processes > 4
    assert left == []
    expected = pd.concat(asked.serial.values(), ignore_index=True)
    pd.testing.assert_frame_equal(Run.open(out).table("effects")[list(expected)], expected, check_exact=True)
    assert json.loads(done.stdout)["missing"] == []
