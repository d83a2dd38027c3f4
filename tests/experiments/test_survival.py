"""Nothing that is finished is ever lost: sweeps are killed, run by two processes, cut into shards, left without disk."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from headscope.merging import merge_runs
from headscope.runs import Run

pytestmark = pytest.mark.slow

KILLS = 20
CELLS = 4 * 30
ROOT = Path(__file__).parents[2]


class Sweeper:
    """Starts sweeps, waits for them and kills them."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "tests.experiments.sweeper"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def start(self, out: Path, shard: str = "0/1") -> int:
        return int(self._ask(f"{out} {shard}"))

    def wait(self, pid: int) -> int:
        return int(self._ask(f"wait {pid}"))

    def run(self, out: Path, shard: str = "0/1") -> int:
        return self.wait(self.start(out, shard))

    def _ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def sweeper() -> Iterator[Sweeper]:
    sweeper = Sweeper()
    yield sweeper
    sweeper.process.communicate()


@pytest.fixture(scope="module")
def whole(sweeper, tmp_path_factory) -> Run:
    """An uninterrupted sweep."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert sweeper.run(out) == 0
    return Run.open(out)


def finished(out: Path) -> dict[str, str]:
    """Digests of the cells that are there, each of which must be whole."""
    if not (out / "run.json").is_file():
        return {}
    run = Run.open(out)
    assert all(len(run.cell(key)) for key in run.cell_keys())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (out / "cells").glob("*.parquet")}


def done_units(out: Path) -> list[str]:
    """A line for every unit that any process has done so far."""
    log = Path(f"{out}.log")
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line for line in lines if line.split()[1:] not in ([], ["whole"])]


def wait_for_units(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(done_units(out)) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def assert_same(run: Run, whole: Run) -> None:
    assert run.cell_keys() == whole.cell_keys()
    for name in ("effects", "units"):
        pd.testing.assert_frame_equal(run.table(name), whole.table(name), check_exact=True)
    assert run.facts["status"] == "finished"
    assert not [path for path in run.path.rglob("*") if path.suffix in (".part", ".lock")]


def test_the_whole_has_every_cell_once(whole):
    (plan,) = whole.plans().values()
    assert len(plan["cells"]) == len(whole.cell_keys()) == CELLS
    assert len(done_units(whole.path)) == len(plan["units"]) * plan["samples"]


def test_a_sweep_killed_twenty_times_is_as_if_it_had_never_been(sweeper, whole, tmp_path):
    out, moments = tmp_path / "run", random.Random(0)
    per_cell = len(whole.plans()["sweep"]["units"]) // 4
    killed, lost, before = 0, [], {}
    for kills_left in range(KILLS, 0, -1):
        units_before = len(done_units(out))
        left = per_cell * (CELLS - len(before))
        pid = sweeper.start(out)
        # Early enough that a busy machine, which sends the signal late, finds work left for all kills that are to come.
        wait_for_units(out, units_before + moments.randrange(left // (2 * kills_left)))
        time.sleep(moments.uniform(0, 0.05))
        os.kill(pid, signal.SIGKILL)
        killed += sweeper.wait(pid) == -signal.SIGKILL
        after = finished(out)
        assert before.items() <= after.items()
        lost.append(len(done_units(out)) - units_before - per_cell * (len(after) - len(before)))
        before = after
    assert killed == KILLS
    assert 0 < len(finished(out)) < CELLS
    assert 0 <= min(lost) <= max(lost) <= per_cell
    assert sweeper.run(out) == 0
    assert_same(Run.open(out), whole)


def test_two_processes_share_one_folder_and_do_nothing_twice(sweeper, whole, tmp_path):
    out = tmp_path / "run"
    pids = [sweeper.start(out), sweeper.start(out)]
    assert [sweeper.wait(pid) for pid in pids] == [0, 0]
    assert_same(Run.open(out), whole)
    done = Counter(line.split()[0] for line in done_units(out))
    assert sum(done.values()) == len(done_units(whole.path))
    assert set(done) == set(map(str, pids)), "one of them did nothing"
    assert len(Run.open(out).facts["resumed"]) == 1


def test_what_a_killed_process_had_claimed_is_done_by_the_other(sweeper, whole, tmp_path):
    out = tmp_path / "run"
    pids = [sweeper.start(out), sweeper.start(out)]
    wait_for_units(out, 2 * CELLS)
    os.kill(pids[0], signal.SIGKILL)
    assert [sweeper.wait(pid) for pid in pids] == [-signal.SIGKILL, 0]
    assert_same(Run.open(out), whole)


def test_shards_of_one_folder_and_the_last_puts_them_together(sweeper, whole, tmp_path):
    out = tmp_path / "run"
    for shard, missing in (("1/3", 80), ("0/3", 40)):
        assert sweeper.run(out, shard) == 0
        assert f"{missing} of {CELLS} cells are still missing" in Path(f"{out}.err").read_text()
        assert (Run.open(out).table_names(), Run.open(out).facts["status"]) == ((), "partial")
    assert sweeper.run(out, "2/3") == 0
    assert_same(Run.open(out), whole)


def test_shards_of_several_folders_merged_are_the_whole(sweeper, whole, tmp_path):
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        sweeper.run(part, f"{i}/3")
    merged = merge_runs(parts[::-1], tmp_path / "merged")
    assert (merged.facts["status"], merged.missing_cells()) == ("merged", ())
    assert sweeper.run(merged.path) == 0
    assert done_units(merged.path) == []
    assert_same(Run.open(merged.path), whole)


def test_cells_that_cannot_be_read_are_moved_aside_and_done_again(sweeper, whole, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole.path, out)
    for name in ("effects", "units"):
        (out / f"{name}.parquet").unlink()
    cut, empty, other, short = sorted((out / "cells").glob("*.parquet"))[:4]
    cut.write_bytes(cut.read_bytes()[:-30])
    empty.write_bytes(b"")
    pd.DataFrame({"unit": ["L0H0"]}).to_parquet(other)
    pd.read_parquet(short).head(1).to_parquet(short)
    assert sweeper.run(out) == 0
    assert_same(Run.open(out), whole)
    assert sorted((out / "cells").glob("*.bad")) == [
        path.with_name(path.name + ".bad") for path in (cut, empty, other, short)
    ]
    said = Path(f"{out}.err").read_text().splitlines()
    assert len(said) == 4
    assert all("cannot be used" in line and "done again" in line for line in said)
    assert len(done_units(out)) == 4 * 8


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "run"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_keeps_what_is_finished_and_a_resumed_run_goes_on(sweeper, whole, small_disk):
    out = small_disk
    assert sweeper.run(out) == 1
    kept = finished(out)
    assert 0 < len(kept) < CELLS
    assert not list(out.rglob("*.part"))
    (said,) = (line for line in Path(f"{out}.err").read_text().splitlines() if line.startswith("HeadscopeError"))
    assert "no room to write" in said
    assert "MiB are free there" in said
    assert "finished cells are kept" in said
    assert "--resume" in said
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    assert sweeper.run(out) == 0
    assert kept.items() <= finished(out).items()
    assert_same(Run.open(out), whole)
