"""Parts of one run become one run; parts of different runs do not."""

import logging

import pandas as pd
import pytest

from experiments.cli import run as command_line
from headscope.errors import UsageError
from headscope.merging import merge_runs
from headscope.runs import Run
from tests.experiments.test_cli import printed

KEYS = ["a", "b", "c"]


def table(value: float) -> pd.DataFrame:
    return pd.DataFrame({"unit": ["L0H0", "L0H1"], "value": [value, float("nan")]})


def part(path, keys, *, shard="1/2", command="ablate sweep", k=1, plan=KEYS, **facts) -> Run:
    run = Run.create(path, command=command, config={"k": k, "shard": shard}, seeds=[7])
    run.update(model={"name": "zoo:needle", "revision": None}, commit="abc", **facts)
    run.plan("sweep", plan, {"metric": "loss"})
    for key in keys:
        run.save_cell(key, table(float(KEYS.index(key))))
    run.finish()
    return run


def test_the_merged_run_has_every_cell_and_says_where_from(tmp_path):
    first, second = part(tmp_path / "1", ["c", "a"]), part(tmp_path / "2", ["b", "a"], shard="2/2")
    merged = merge_runs([second.path, first.path], tmp_path / "all")
    assert merged.cell_keys() == ("a", "b", "c")
    assert merged.cells()["value"].dropna().tolist() == [0.0, 1.0, 2.0]
    assert (merged.path / "cells" / "a.parquet").read_bytes() == (first.path / "cells" / "a.parquet").read_bytes()
    facts = merged.facts
    assert (facts["status"], facts["command"], facts["config"], facts["seeds"], facts["commit"]) == (
        *("merged", "ablate sweep", {"k": 1}, [7]),
        "abc",
    )
    assert facts["model"]["name"] == "zoo:needle"
    assert [source["run"] for source in facts["merged"]] == ["2", "1"]
    assert merged.plans() == first.plans()
    resumed = Run.create(merged.path, command="ablate sweep", config={"k": 1, "shard": "1/1"}, resume=True)
    assert resumed.missing_cells() == ()


def test_what_is_still_missing_is_named(tmp_path, capsys):
    parts = [part(tmp_path / "1", ["c"]), part(tmp_path / "2", [], shard="2/2")]
    merged = merge_runs([run.path for run in parts], tmp_path / "all")
    assert merged.missing_cells() == ("a", "b")
    assert merged.facts["status"] == "partial"
    argv = ["runs", "merge", *(str(run.path) for run in parts), "--out"]
    assert command_line([*argv, str(tmp_path / "again")]) == 0
    assert "2 are still missing: a; b. Run the other shards" in capsys.readouterr().out
    assert command_line([*argv, str(tmp_path / "json"), "--json"]) == 0
    assert printed(capsys) == {"out": str(tmp_path / "json"), "cells": 1, "missing": ["a", "b"], "status": "partial"}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"command": "heads retrieval"}, "'command' is 'ablate sweep' there and 'heads retrieval' here"),
        ({"k": 2}, "'k' is 1 there and 2 here"),
    ],
)
def test_parts_of_different_runs_are_refused(tmp_path, other, says):
    runs = part(tmp_path / "1", ["a"]), part(tmp_path / "2", ["b"], **other)
    with pytest.raises(UsageError, match=f"1 and .*2 are not parts of one run: .*{says}"):
        merge_runs([run.path for run in runs], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(("key", "value"), [("commit", "def"), ("model", {"name": "zoo:scenes"}), ("seeds", [8])])
def test_parts_made_by_other_code_or_of_other_models_are_refused(tmp_path, key, value):
    runs = part(tmp_path / "1", ["a"]), part(tmp_path / "2", ["b"])
    runs[1].update(**{key: value})
    with pytest.raises(UsageError, match=f"'{key}' is .* there and .* here"):
        merge_runs([run.path for run in runs], tmp_path / "all")


def test_parts_of_other_cells_are_refused(tmp_path):
    runs = part(tmp_path / "1", ["a"]), part(tmp_path / "2", ["b"], plan=["a", "b"])
    with pytest.raises(
        UsageError, match=r"hold different cells under 'sweep': 'cells' is .*'c'\] there and .*'b'\] here"
    ):
        merge_runs([run.path for run in runs], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_two_tables_for_one_cell_are_refused(tmp_path):
    first, second = part(tmp_path / "1", ["a"]), part(tmp_path / "2", ["b"])
    second.save_cell("a", table(0.5))
    with pytest.raises(UsageError, match=r"1 and .*2 hold different tables for the cell 'a'"):
        merge_runs([first.path, second.path], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_cell_that_cannot_be_read_is_taken_from_another_part_or_missing(tmp_path, caplog):
    first, second = part(tmp_path / "1", ["a", "b"]), part(tmp_path / "2", ["a", "c"])
    for key in ("a", "b"):
        (first.path / "cells" / f"{key}.parquet").write_bytes(b"cut")
    with caplog.at_level(logging.WARNING):
        merged = merge_runs([first.path, second.path], tmp_path / "all")
    assert (merged.cell_keys(), merged.missing_cells()) == (("a", "c"), ("b",))
    assert [record.getMessage()[:18] for record in caplog.records] == ["warning: left out:"] * 2
    assert (first.path / "cells" / "b.parquet").read_bytes() == b"cut"


def test_folders_that_are_no_runs_and_runs_without_cells(tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        merge_runs([tmp_path], tmp_path / "all")
    with pytest.raises(UsageError, match="no run is given"):
        merge_runs([], tmp_path / "all")
    empty = part(tmp_path / "1", [])
    with pytest.raises(UsageError, match="holds a finished cell"):
        merge_runs([empty.path], tmp_path / "all")
    full = part(tmp_path / "2", ["a"])
    with pytest.raises(UsageError, match="is not an empty folder"):
        merge_runs([full.path], full.path)


def test_the_list_of_runs_with_and_without_its_name(tmp_path, capsys):
    part(tmp_path / "1", ["a"])
    rows = []
    for argv in (["runs", str(tmp_path), "--json"], ["runs", "list", str(tmp_path), "--json"]):
        assert command_line(argv) == 0
        rows.append(printed(capsys))
    assert rows[0] == rows[1]
    assert [(row["run"], row["status"], row["model"]) for row in rows[0]] == [("1", "partial", "zoo:needle")]
