"""A run keeps what it is given, refuses what would lose something, and resumes where it stopped."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from headscope.errors import UsageError
from headscope.runs import Run
from headscope.scores import HeadScores

CONFIG = {"k": 5, "lengths": (256, 512), "model": {"name": "zoo:needle"}}
TABLE = pd.DataFrame({"condition": ["none", "top 5"], "score": [1.0, 0.5], "n": [3, 3]})


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", command="ablate", config=CONFIG, seeds=(0, 1))


def test_run_json_says_what_was_done(run):
    facts = json.loads((run.path / "run.json").read_text("utf-8"))
    assert facts["schema"] == 1
    assert (facts["command"], facts["status"], facts["model"], facts["seeds"]) == ("ablate", "running", None, [0, 1])
    assert facts["config"] == {"k": 5, "lengths": [256, 512], "model": {"name": "zoo:needle"}}
    age = datetime.now(UTC) - datetime.fromisoformat(facts["created"])
    assert 0 <= age.total_seconds() < 60
    assert facts["versions"]["torch"] == torch.__version__
    assert "commit" in facts
    assert Run.open(str(run.path)).facts == facts


def test_existing_folders_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"run exists and is not an empty folder; give another --out, or --resume"):
        Run.create(run.path, command="ablate", config=CONFIG)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not an empty folder"):
        Run.create(tmp_path / "file", command="ablate", config=CONFIG)
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", command="ablate", config={}).facts["config"] == {}


def test_folders_without_a_run_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere is not a run: it has no run\.json"):
        Run.open(tmp_path / "nowhere")
    file = tmp_path / "run.json"
    file.write_text('{"schema": 1, "comm')
    with pytest.raises(UsageError, match=r"run\.json is not JSON"):
        Run.open(tmp_path)
    file.write_text("[]")
    with pytest.raises(UsageError, match="holds list, not a mapping"):
        Run.open(tmp_path)
    file.write_text('{"schema": 99}')
    with pytest.raises(UsageError, match="has schema 99"):
        Run.open(tmp_path)
    file.write_text("{}")
    with pytest.raises(UsageError, match="has schema None"):
        Run.open(tmp_path)


def test_facts_are_added_and_settled_ones_stay(run):
    run.update(model={"id": "zoo:needle", "revision": "abc"}, folder=Path("x"), share=np.float32(0.5))
    assert run.facts["model"] == {"id": "zoo:needle", "revision": "abc"}
    assert (run.facts["folder"], run.facts["share"], run.facts["command"]) == ("x", 0.5, "ablate")
    with pytest.raises(UsageError, match="'config' was settled"):
        run.update(config={})
    with pytest.raises(UsageError, match=r"run\['bad'\] cannot be written as JSON"):
        run.update(bad=float("nan"))
    assert "bad" not in run.facts


def test_finish_notes_status_and_time(run):
    run.finish()
    assert run.facts["status"] == "finished"
    assert 0 <= run.facts["wall_s"] < 60


def test_with_block_notes_how_it_ended(tmp_path):
    with Run.create(tmp_path / "good", command="x", config={}) as run:
        assert run.facts["status"] == "running"
    assert run.facts["status"] == "finished"

    def fail():
        with Run.create(tmp_path / "bad", command="x", config={}):
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert Run.open(tmp_path / "bad").facts["status"] == "failed"
    assert Run.open(tmp_path / "bad").facts["error"] == "KeyboardInterrupt: stop"


def test_tables_and_scores_come_back_and_are_not_overwritten(run):
    run.save_table("by condition", TABLE)
    pd.testing.assert_frame_equal(run.table("by condition"), TABLE)
    scores = HeadScores(torch.rand(3, 2, 2), "score", {"model": "toy"})
    run.save_scores("retrieval", scores)
    assert torch.equal(run.scores("retrieval").samples, scores.samples)
    assert (run.table_names(), run.score_names()) == (("by condition",), ("retrieval",))
    with pytest.raises(UsageError, match="never overwritten"):
        run.save_table("by condition", TABLE.head(1))
    with pytest.raises(UsageError, match="never overwritten"):
        run.save_scores("retrieval", scores)
    assert len(run.table("by condition")) == 2


def test_missing_results_list_what_there_is(run):
    with pytest.raises(UsageError, match="no 'x' there; it has: nothing yet"):
        run.table("x")
    run.save_table("a", TABLE)
    with pytest.raises(UsageError, match="no 'x' there; it has: a"):
        run.table("x")
    with pytest.raises(UsageError, match="no 'x'"):
        run.scores("x")
    with pytest.raises(UsageError, match="no 'x'"):
        run.cell("x")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ""])
def test_names_stay_inside_the_run(run, name):
    for use in (run.table, run.scores, run.cell, run.has_cell):
        with pytest.raises(UsageError, match="cannot name a file inside a run"):
            use(name)
    with pytest.raises(UsageError, match="cannot name a file inside a run"):
        run.save_cell(name, TABLE)


def test_tables_that_parquet_cannot_hold_leave_nothing(run):
    with pytest.raises(UsageError, match=r"mixed\.parquet cannot be kept as parquet"):
        run.save_table("mixed", pd.DataFrame({"x": [1, "a", object()]}))
    assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]


def test_cut_files_are_named(run):
    run.save_table("a", TABLE)
    file = run.path / "a.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"a\.parquet is not a whole parquet file"):
        run.table("a")


def test_cells_are_kept_one_by_one(run):
    assert run.cells().empty
    assert not run.has_cell("top 5|seed=0")
    run.save_cell("top 5|seed=0", TABLE)
    run.save_cell("none", TABLE.assign(score=[0.0, 0.25]))
    assert run.has_cell("top 5|seed=0")
    assert run.cell_keys() == ("none", "top 5|seed=0")
    assert run.cells()["score"].tolist() == [0.0, 0.25, 1.0, 0.5]
    pd.testing.assert_frame_equal(run.cell("top 5|seed=0"), TABLE)
    assert not run.save_cell("none", TABLE)
    assert run.finished_cell("none")["score"].tolist() == [0.0, 0.25]
    with pytest.raises(UsageError, match="never overwritten"):
        run.save_cell("none", TABLE.drop(columns="n"))


def test_a_killed_sweep_resumes_without_loss(run):
    run.save_cell("a", TABLE)
    (run.path / "cells" / ".0123.part").write_text("what a killed process was writing")
    run.finish("failed", error="RuntimeError: out of memory")
    created = run.facts["created"]
    again = Run.create(run.path, command="ablate", config=CONFIG, resume=True)
    assert [key for key in ("a", "b") if not again.has_cell(key)] == ["b"]
    assert not list(run.path.rglob("*.part"))
    assert (again.facts["status"], again.facts["error"]) == ("running", None)
    again.save_cell("b", TABLE)
    again.finish()
    assert len(again.cells()) == 4
    assert again.facts["created"] == created
    assert len(again.facts["resumed"]) == 1
    assert again.facts["resumed"][0]["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (CONFIG | {"k": 10}, "'k' was 5 and is 10 now"),
        (CONFIG | {"new": 1}, "'new' was absent and is 1 now"),
        ({"k": 5, "lengths": [256, 512]}, r"'model' was {'name': 'zoo:needle'} and is absent now"),
    ],
)
def test_resuming_with_other_settings_names_them(run, config, said):
    with pytest.raises(UsageError, match=said):
        Run.create(run.path, command="ablate", config=config, resume=True)
    assert "resumed" not in run.facts


def test_resuming_with_other_settings_names_all_of_them_in_short(tmp_path):
    task = "Needle(lengths=(128,), depths=5, repeats=4, needles=1, haystack=None, seed={})"
    Run.create(tmp_path / "run", command="heads", config={"a": 1, "same": 2, "task": task.format(1)})
    with pytest.raises(UsageError) as caught:
        Run.create(tmp_path / "run", command="ablate", config={"same": 2, "task": task.format(2), "b": 3}, resume=True)
    message = str(caught.value)
    assert "'command' was 'heads' and is 'ablate' now" in message
    assert "'a' was 1 and is absent now" in message
    assert "'b' was absent and is 3 now" in message
    assert "'task' was ...=None, seed=1)' and is ...=None, seed=2)' now" in message
    assert "same'" not in message


def test_shards_go_into_one_folder(tmp_path):
    first = Run.create(tmp_path / "run", command="ablate sweep", config={"k": 1, "shard": "1/2"}, resume=True)
    second = Run.create(tmp_path / "run", command="ablate sweep", config={"k": 1, "shard": "2/2"}, resume=True)
    assert first == second
    assert len(second.facts["resumed"]) == 1


def test_a_run_whose_planned_cells_are_missing_is_partial(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.plan("sweep", ["a", "b"], {"of": "heads"})
        run.save_cell("a", TABLE)
    assert run.facts["status"] == "partial"
    assert run.missing_cells() == ("b",)
    with Run.create(tmp_path / "run", command="x", config={}, resume=True) as run:
        run.save_cell("b", TABLE)
    assert run.facts["status"] == "finished"


def test_updates_at_the_same_time_are_all_kept(run):
    def note(name: str) -> None:
        for i in range(30):
            Run.open(run.path).update(**{f"{name}{i}": i})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(note, "abc"))
    facts = run.facts
    assert [facts[f"{name}{i}"] for name in "abc" for i in range(30)] == [*range(30)] * 3


def test_an_error_is_not_hidden_by_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail():
        with Run.create(tmp_path / "run", command="x", config={}):
            monkeypatch.setattr(os, "replace", full)
            raise ValueError("what went wrong")

    with pytest.raises(ValueError, match="what went wrong"):
        fail()
    monkeypatch.undo()
    assert Run.open(tmp_path / "run").facts["status"] == "running"


def test_one_process_at_a_time_assembles(run):
    order = []

    def other():
        with run.assembling():
            order.append("second")

    with run.assembling():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_resume_starts_what_never_started_but_no_foreign_folder(tmp_path):
    assert Run.create(tmp_path / "new", command="x", config={}, resume=True).facts["status"] == "running"
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".0123.part").write_text('{"sche')
    assert Run.create(tmp_path / "killed", command="x", config={}).facts["status"] == "running"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="is not a run"):
        Run.create(tmp_path / "other", command="x", config={}, resume=True)


def test_notebook_view_escapes(tmp_path):
    run = Run.create(tmp_path / "run", command="<script>x</script>", config={"a": "<b>"})
    run.save_table("table", TABLE)
    html = run._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "table" in html
