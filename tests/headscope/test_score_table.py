"""The head-score table comes back from its file as it was, and whatever is no such table is refused with the reason."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from headscope.errors import UsageError
from headscope.runs import Run
from headscope.score_table import (
    COLUMNS,
    head_table,
    read_head_table,
    save_head_table,
    scores_of_table,
    write_head_table,
)
from headscope.scores import HeadScores


def scores(metric: str = "copying", seed: int | None = 0, **meta: object) -> HeadScores:
    values = torch.rand(20, 2, 3, generator=torch.Generator().manual_seed(int(seed or 0)))
    return HeadScores(values, metric, {"model": "m", "revision": "r1", "seed": seed, "template": "t", **meta})


@pytest.fixture
def table() -> pd.DataFrame:
    return head_table([scores(), scores("sink", None, model="other", template=None)])


@pytest.fixture
def path(tmp_path, table):
    write_head_table(tmp_path / "t.parquet", table)
    return tmp_path / "t.parquet"


def test_models_and_metrics_share_a_file_and_come_back_the_same(path, table):
    read = read_head_table(path)
    pd.testing.assert_frame_equal(read, table)
    assert tuple(read.columns) == COLUMNS == tuple(scores().to_dataframe().columns)
    assert len(read) == 12
    mine = read[read["metric"] == "copying"]
    plain = scores().to_dataframe()
    for column in ("value", "low", "high", "n", "name", "layer", "head"):
        assert mine[column].tolist() == plain[column].tolist()
    assert read["seed"].tolist() == [0] * 6 + [pd.NA] * 6
    assert json.loads(pyarrow.parquet.read_schema(path).metadata[b"headscope"]) == {"table": "head scores", "schema": 1}


def test_what_the_table_has_no_type_for_is_written_out_or_left_out():
    odd = head_table([scores(seed=None, model=Path("models") / "x", revision=5, note={"a": 1}), scores("b", seed=True)])
    assert odd["model"].tolist() == ["models/x"] * 6 + ["m"] * 6
    assert odd["revision"][0] == "5"
    assert odd["seed"].isna().all()
    assert head_table([scores(seed=np.int64(3))])["seed"].tolist() == [3] * 6


def test_other_tools_read_it_as_plain_parquet(path, table):
    plain = pyarrow.parquet.read_table(path).to_pydict()
    assert plain["seed"] == [0] * 6 + [None] * 6
    assert plain["value"] == table["value"].tolist()
    assert pd.read_parquet(path)["seed"].dtype == "Int64"


def test_further_columns_are_kept(tmp_path, table):
    write_head_table(tmp_path / "t.parquet", table.assign(q=0.5, note="x"))
    read = read_head_table(tmp_path / "t.parquet")
    assert tuple(read.columns) == (*COLUMNS, "q", "note")
    assert read["note"].tolist() == ["x"] * 12


def test_means_become_scores_and_say_that_intervals_stay_behind(path):
    read = read_head_table(path)
    found = scores_of_table(read, metric="copying", source="t.parquet")
    assert torch.equal(found.values, torch.tensor([read["value"][:6].tolist()]).reshape(2, 3).double())
    assert found.n == 1
    assert found.top(3) == scores().top(3)
    assert {k: found.meta[k] for k in ("model", "revision", "seed", "template", "n", "source")} == {
        "model": "m", "revision": "r1", "seed": 0, "template": "t", "n": 20, "source": "t.parquet"
    }  # fmt: skip
    assert "not computed again" in found.meta["samples"]
    found.save(path.with_name("means.safetensors"))  # JSON can hold all that is said of them
    with pytest.raises(UsageError, match=r"has 2 sets of scores .*model 'm', metric 'copying'; model 'other'"):
        scores_of_table(read)
    with pytest.raises(UsageError, match="has 0 sets of scores of model 'gone'"):
        scores_of_table(read, model="gone")


def test_heads_that_a_table_leaves_out_do_not_exist(table):
    hybrid = table[(table["metric"] == "copying") & (table["name"] != "L0H1")]
    found = scores_of_table(hybrid)
    assert [str(head) for head in found.heads] == ["L0H0", "L0H2", "L1H0", "L1H1", "L1H2"]
    far = hybrid.assign(layer=[10**8, *hybrid["layer"][1:]], name=[f"L{10**8}H0", *hybrid["name"][1:]])
    with pytest.raises(UsageError, match="names heads up to L100000000H2, more than any model has"):
        scores_of_table(far)


def test_a_run_keeps_the_same_file(tmp_path):
    with Run.create(tmp_path / "run", command="c", config={}) as run:
        save_head_table(run, [scores(), scores("sink")])
        save_head_table(run, [scores("later")])  # the first stays
    assert set(read_head_table(tmp_path / "run" / "head_scores.parquet")["metric"]) == {"copying", "sink"}
    assert len(run.table("head_scores")) == 12


def changed(table: pd.DataFrame, row: int, **values) -> pd.DataFrame:
    changed = table.astype(dict.fromkeys(values, object))
    for name, value in values.items():
        changed.loc[row, name] = value
    return changed.infer_objects()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"layer": -1, "name": "L-1H1"}, r"L-1H1 \(copying, row 1\) has a negative layer or head"),
        ({"name": "L5H3"}, "has a name that is not its layer and head"),
        ({"n": 0}, "has an n below 1"),
        ({"value": None}, "the table has no value in row 1"),
        ({"metric": None}, "the table has no metric in row 1"),
        ({"value": float("inf"), "high": float("inf")}, "has an infinite value"),
        ({"low": 0.99}, "has its value outside low to high"),
        ({"low": None}, "has one end of an interval only"),
        ({"head": 0, "name": "L0H0"}, "stands there twice"),
        ({"layer": 0.5}, "the column layer holds double, a head-score table has int64 there"),
        ({"value": "0.5"}, "mixes types in a column"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path, table, values, said):
    with pytest.raises(UsageError, match=said):
        write_head_table(tmp_path / "t.parquet", changed(table, 1, **values))
    assert not list(tmp_path.iterdir())


def test_a_table_without_intervals_is_one(tmp_path, table):
    bare = table.assign(low=float("nan"), high=float("nan"), seed=None, model=None)
    write_head_table(tmp_path / "t.parquet", bare)
    assert read_head_table(tmp_path / "t.parquet")["low"].isna().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns=["low", "seed"]), "has no column low, seed; a head-score table has model, revision"),
        (lambda t: t.assign(value=t["value"].astype(str)), "the column value holds .*string, .* has double there"),
        (lambda t: t.assign(head=t["head"] == 0), "the column head holds bool"),
        (lambda t: t.assign(model=5), "the column model holds int64, a head-score table has string"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_columns_that_are_missing_or_of_another_type(tmp_path, table, change, said):
    with pytest.raises(UsageError, match=said):
        write_head_table(tmp_path / "t.parquet", change(table))
    # The same holds for a file that another program wrote.
    about = {b"headscope": b'{"table": "head scores", "schema": 1}'}
    arrow = pyarrow.Table.from_pandas(change(table), preserve_index=False).replace_schema_metadata(about)
    pyarrow.parquet.write_table(arrow, tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=rf"other\.parquet.*{said}"):
        read_head_table(tmp_path / "other.parquet")


def test_a_column_that_comes_twice(tmp_path, table):
    double = pd.concat([table, table[["value"]]], axis=1)
    with pytest.raises(UsageError, match=r"or has one twice \(Duplicate column names"):
        write_head_table(tmp_path / "t.parquet", double)
    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.append_column("value", arrow["value"])
    about = {b"headscope": b'{"table": "head scores", "schema": 1}'}
    pyarrow.parquet.write_table(arrow.replace_schema_metadata(about), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"is not a whole parquet file \(Multiple matches.*value"):
        read_head_table(tmp_path / "t.parquet")


def test_numbers_of_other_widths_and_words_from_a_dictionary_are_taken(tmp_path, table):
    narrow = table.astype(
        {"layer": "int8", "head": "uint16", "value": "float32", "metric": "category", "seed": "float64"}
    )
    write_head_table(tmp_path / "t.parquet", narrow)
    read = read_head_table(tmp_path / "t.parquet")
    assert read.dtypes.equals(table.dtypes)
    assert read.drop(columns="value").equals(table.drop(columns="value"))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (None, "does not say that it is a head-score table, nor of which schema; write it with"),
        (b'{"table": "head scores", "schema": 2}', "has schema 2, this headscope reads up to 1; update headscope"),
        (b'{"table": "head scores", "schema": "1"}', "says it is .* not a head-score table"),
        (b'{"table": "head scores", "schema": true}', "not a head-score table"),
        (b'{"table": "answers", "schema": 1}', "not a head-score table"),
        (b"[1]", "not a head-score table"),
        (b"\xff", "not a head-score table"),
    ],
)
def test_schemas_that_are_unknown(tmp_path, table, about, said):
    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({} if about is None else {b"headscope": about})
    pyarrow.parquet.write_table(arrow, tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=said):
        read_head_table(tmp_path / "t.parquet")


def test_files_that_are_none(tmp_path, path):
    with pytest.raises(UsageError, match="there is no file"):
        read_head_table(tmp_path / "gone.parquet")
    whole = path.read_bytes()
    for data in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-4]):
        (tmp_path / "cut.parquet").write_bytes(data)
        with pytest.raises(UsageError, match="is not a whole parquet file"):
            read_head_table(tmp_path / "cut.parquet")
    with pytest.raises(UsageError, match="exists and results are never overwritten"):
        write_head_table(path, read_head_table(path))


def test_a_table_of_no_scores_and_of_the_same_twice():
    with pytest.raises(UsageError, match="asked for of no scores"):
        head_table([])
    with pytest.raises(UsageError, match="stands there twice"):
        head_table([scores(), scores()])
