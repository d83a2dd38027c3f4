"""Files go in and out on the command line: every format, what a run keeps of it, and one sentence for what cannot be."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.cli import run
from head_analysis import read_score_file
from headscope.exports import read_headvis
from headscope.runs import Run
from headscope.score_table import head_table, read_head_table, write_head_table
from headscope.scores import HeadScores
from headscope.zoo import zoo_names

FIXTURES = Path(__file__).parents[1] / "fixtures"
MISTRAL = str(FIXTURES / "retrieval_head_mistral-7b-v0.2.json.gz")
TEXT = "The baker found the lamp near the mill . The baker"
needs_zoo = pytest.mark.skipif("zoo:needle" not in zoo_names(), reason="zoo:needle is not trained")


def scores(metric: str, seed: int = 0) -> HeadScores:
    values = torch.rand(6, 4, 8, generator=torch.Generator().manual_seed(seed))
    return HeadScores(values, metric, {"model": "zoo:needle", "seed": seed})


@pytest.fixture
def two(tmp_path) -> str:
    """Folder of a run with two kinds of scores of zoo:needle, made up."""
    with Run.create(tmp_path / "two", command="made", config={}, model={"name": "zoo:needle"}) as kept:
        kept.save_scores("copying", scores("copying"))
        kept.save_scores("sink", scores("sink", 1))
    return str(tmp_path / "two")


def printed(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


# -- in ----------------------------------------------------------------------------------------------------------------


def test_importing_gates_of_key_value_heads(tmp_path, out, capsys):
    path = tmp_path / "gates.tsv"
    path.write_text("1.0\t0.25\n0.5\t0.0\n")
    assert run(["heads", "import", str(path), "--query-heads", "4", "--model-name", "M", "--out", out, "--json"]) == 0
    found = printed(capsys)
    assert [row["name"] for row in found["heads"][:2]] == ["L0H0", "L0H1"]
    kept = Run.open(out)
    assert kept.facts["config"] == {"file": "gates.tsv", "format": "duo-attention"}
    assert kept.scores("retrieval").values.tolist() == [[1, 1, 0.25, 0.25], [0.5, 0.5, 0, 0]]
    assert read_head_table(Path(out) / "head_scores.parquet")["model"].unique().tolist() == ["M"]


def test_importing_what_content_does_not_tell(tmp_path, out, refused, capsys):
    path = tmp_path / "heads.json"
    path.write_text('{"0-0": [0.2879446992], "0-1": [0.0604512998], "1-0": [0.35519861], "1-1": [0.88374888]}')
    refused(["heads", "import", str(path), "--out", out], 2, "heads.json", "--format): headkv")
    assert not Path(out).exists()
    assert run(["heads", "import", str(path), "--format", "headkv", "--json"]) == 0
    assert printed(capsys)["metric"] == "retrieval-reasoning score"
    refused(["heads", "import", str(path), "--format", "csv"], 2, "csv")
    refused(["heads", "import", MISTRAL, "--query-heads", "32"], 2, "query heads are given")
    write_head_table(tmp_path / "t.parquet", head_table([scores("copying")]))
    refused(["heads", "import", str(tmp_path / "t.parquet"), "--model-name", "M"], 2, "leave --model-name out")
    refused(["heads", "import", str(tmp_path / "t.parquet"), "--query-heads", "8"], 2, "--query-heads", "(table)")


def test_importing_heads_without_scores_keeps_no_scores(tmp_path, out, capsys):
    path = tmp_path / "qr.yaml"
    path.write_text('attn_head_set: "13-18,8-11"\nmodel_name_or_path: org/m\n')
    assert run(["heads", "import", str(path), "--out", out, "--json"]) == 0
    assert printed(capsys) == {"model": "org/m", "scores": None, "heads": ["L13H18", "L8H11"]}
    kept = Run.open(out)
    assert kept.score_names() == ()
    assert kept.table_names() == ("heads",)
    assert kept.table("heads")["name"].tolist() == ["L13H18", "L8H11"]
    assert run(["heads", "import", str(path)]) == 0
    assert "2 heads without scores, in the order of the file: L13H18, L8H11" in capsys.readouterr().out


def test_importing_a_table_keeps_its_intervals(tmp_path, out, capsys):
    table = head_table([scores("copying"), scores("sink", 1)])
    write_head_table(tmp_path / "t.parquet", table)
    assert run(["heads", "import", str(tmp_path / "t.parquet"), "--out", out, "--json"]) == 0
    assert len(printed(capsys)["heads"]) == 64
    pd.testing.assert_frame_equal(read_head_table(Path(out) / "head_scores.parquet"), table)
    kept = Run.open(out)
    assert kept.score_names() == ("scores-1", "scores-2")
    assert torch.allclose(kept.scores("scores-2").values, scores("sink", 1).values.double())
    assert run(["heads", "import", str(tmp_path / "t.parquet"), "--threshold", "2"]) == 0
    assert "0 of 64 rows at or above 2.0, intervals as in the file: none" in capsys.readouterr().out


def test_importing_a_table_of_one_kind_takes_the_name_other_commands_look_for(tmp_path, out, capsys):
    write_head_table(tmp_path / "t.parquet", head_table([scores("copying")]))
    assert run(["heads", "import", str(tmp_path / "t.parquet"), "--out", out]) == 0
    assert "of 32 rows at or above 0.1" in " ".join(capsys.readouterr().out.split())
    assert Run.open(out).score_names() == ("retrieval",)


# -- out ---------------------------------------------------------------------------------------------------------------


def test_a_table_and_a_published_form_are_written_and_read_back(two, tmp_path, capsys):
    table, file = tmp_path / "t.parquet", tmp_path / "s.json"
    assert run(["heads", "export", two, "--format", "table", "--out", str(table)]) == 0
    assert "64 rows (copying, sink)" in capsys.readouterr().out
    pd.testing.assert_frame_equal(read_head_table(table), head_table([scores("copying"), scores("sink", 1)]))
    asked = ["heads", "export", two, "--format", "retrieval-head", "--scores", "sink", "--out", str(file), "--json"]
    assert run(asked) == 0
    assert printed(capsys)["written"] == "sink of 32 heads, 6 samples"
    assert torch.equal(read_score_file(file, format="retrieval-head").samples, scores("sink", 1).samples)


@needs_zoo
def test_attention_of_the_best_heads_of_a_run(two, tmp_path, capsys):
    folder = tmp_path / "hv"
    asked = ["heads", "export", two, "--format", "headvis", "--scores", "copying", "--top", "3", "--text", TEXT]
    assert run([*asked, "--out", str(folder)]) == 0
    assert "3 heads over 12 tokens in" in " ".join(capsys.readouterr().out.split())
    read = read_headvis(folder)
    assert set(read) == set(scores("copying").top(3))
    for head, one in read.items():
        assert one.metrics == {"copying": pytest.approx(scores("copying").values[head].item())}
        (rows,) = one.rows
        sums = [sum(weights) + left for weights, left in zip(rows.weights, rows.dropped, strict=True)]
        assert sums == pytest.approx([1] * 12, abs=1e-3)


@needs_zoo
def test_attention_of_a_model_over_a_file(tmp_path, refused):
    (tmp_path / "a.txt").write_text(TEXT)
    asked = ["heads", "export", "--model", "zoo:needle", "--format", "headvis", "--heads", "L1H2"]
    assert run([*asked, "--text-file", str(tmp_path / "a.txt"), "--out", str(tmp_path / "hv")]) == 0
    assert [str(head) for head in read_headvis(tmp_path / "hv")] == ["L1H2"]
    refused([*asked, "--text", TEXT, "--out", str(tmp_path / "hv")], 2, "is not an empty folder")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--format", "table"], "give its folder"),
        (["{run}", "--format", "retrieval-head"], "name it with --scores: copying, sink"),
        (["{run}", "--format", "table", "--scores", "gone"], "has no 'gone' there; it has: copying, sink"),
        (["{run}", "--format", "table", "--text", "a"], "--text does nothing for --format table"),
        (
            ["{run}", "--format", "headvis", "--layers", "1", "--text", "a"],
            "--layers does nothing for --format headvis",
        ),
        (["{run}", "--format", "headvis"], "give --text or --text-file"),
        (["{run}", "--format", "headvis", "--text-file", "gone.txt"], "gone.txt cannot be read as text"),
        (["--format", "headvis", "--text", "a"], "give --model"),
        (["gone", "--format", "table"], "gone is not a run"),
        (["--format", "svg"], "svg"),
    ],
)
def test_what_cannot_be_exported(two, tmp_path, refused, argv, says):
    out = tmp_path / "new"
    refused(["heads", "export", *(part.format(run=two) for part in argv), "--out", str(out)], 2, says)
    assert not out.exists()


@needs_zoo
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["headvis", "--top", "3"], "--top needs one kind of score and there are 2"),
        (["headvis", "--top", "3", "--heads", "L0H0"], "give one of them"),
        (["headvis", "--heads", "L9H9"], "L9H9 asked for"),
        (["bertviz", "--layers", "first"], "--layers 'first' is no list"),
        (["bertviz", "--text", "another"], "shows one text, and 2 are given"),
    ],
)
def test_attention_that_cannot_be_exported(two, tmp_path, refused, argv, says):
    out = tmp_path / "new"
    refused(["heads", "export", two, "--text", TEXT, "--out", str(out), "--format", *argv], 2, says)
    assert not out.exists()


def test_nothing_is_overwritten(two, tmp_path, refused):
    out = tmp_path / "t.parquet"
    out.write_text("mine")
    refused(["heads", "export", two, "--format", "table", "--out", str(out)], 2, "never overwritten")
    assert out.read_text() == "mine"
