"""`headscope probe`: planted labels are found and random ones are not; runs are kept, resumed and refused."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import run
from experiments.option_shares import option_shares
from experiments.probing.cells import probe_keys, read_probe
from experiments.probing.places import Plan, over_seeds
from experiments.probing.sets import SETS, named_sets
from headscope import UsageError
from headscope.heads import Head
from headscope.runs import Run
from headscope.samples import Sample
from tests.experiments.test_cli import printed

FAIR = ("--draws", "19", "--folds", "3", "--layers", "3", "--baselines", "random", "--json")
QUICK = ("--draws", "2", "--folds", "3", "--baselines", "none", "--layers", "1,3", "--json")


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[str, str]:
    """Two files of the same prompts: labels that are the last word, and labels drawn at random."""
    folder = tmp_path_factory.mktemp("sets")
    rng = random.Random(0)
    rows = []
    for i in range(60):
        word = ("lamp", "bell")[i % 2]
        prompt = f"The {rng.choice(('baker', 'sailor', 'nurse'))} carried the {rng.choice(('small', 'heavy'))} {word}"
        rows.append({"prompt": prompt, "label": word, "group": i // 4})
    drawn = [row | {"label": rng.choice(("lamp", "bell"))} for row in rows]
    for name, one in (("read", rows), ("noise", drawn)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, one)))
    return str(folder / "read.jsonl"), str(folder / "noise.jsonl")


def test_a_planted_label_is_found_and_noise_is_not(planted, out, capsys):
    read, noise = planted
    assert run(["probe", "--set", read, "--set", noise, "--bits", "--out", out, *FAIR]) == 0
    found = printed(capsys)["probes"]
    assert set(found) == {"read resid_post seed 0", "noise resid_post seed 0"}
    for row in found["read resid_post seed 0"]:
        assert row["accuracy"] == 1.0
        assert row["found"]
        assert row["clusters"] == 15
        assert row["compression"] > 2 > row["control_compression"]
    for row in found["noise resid_post seed 0"]:
        assert not row["found"]
        assert row["compression"] < 1.3
    kept = Run.open(out)
    assert kept.facts["status"] == "finished"
    table = kept.table("probes")
    assert len(table) == 2
    assert {"probe", "control_low", "selectivity", "random", "majority"} <= set(table)
    page = (Path(out) / "report.html").read_text()
    assert "What can be read, and where" in page
    assert "read resid_post seed 0" in page


def test_results_are_read_back_as_they_were(planted, out):
    assert run(["probe", "--set", planted[0], "--site", "resid_pre,z", "--splits", "2", "--out", out, *QUICK]) == 0
    kept = Run.open(out)
    keys = probe_keys(kept)
    assert len(keys) == 2 * 2
    found = {key: read_probe(kept, key) for key in keys}
    first = found["read resid_pre seed 0"]
    assert first.places == (1, 3)
    assert first.samples.shape == (60, 2)
    assert first.controls.shape == (2, 2)
    np.testing.assert_allclose(first.samples.mean(0), first.table["accuracy"])
    np.testing.assert_allclose(first.controls.mean(1), first.table["control"])
    assert len(first.plot().data) > 3
    assert "layers" in repr(first)
    together = over_seeds(found)
    assert set(together["seeds"]) == {2}
    assert len(together) == 2 * 2
    with pytest.raises(UsageError, match="holds no probe 'other'"):
        read_probe(kept, "other")


def test_heads_become_head_scores(planted, out):
    assert run(["probe", "--set", planted[0], "--by", "head", "--out", out, *QUICK, "--layers", "1"]) == 0
    kept = Run.open(out)
    (key,) = probe_keys(kept)
    result = read_probe(kept, key)
    assert result.places == tuple(Head(1, i) for i in range(8))
    scores = kept.scores(key)
    assert scores.heads == result.places
    np.testing.assert_allclose(scores.samples[:, 1, 3].numpy(), result.samples[:, 3])
    assert result.scores().samples.nan_to_num().equal(scores.samples.nan_to_num().double())


def test_what_was_done_is_not_done_again(planted, out, capsys):
    argv = ["probe", "--set", planted[0], "--splits", "2", "--out", out, *QUICK]
    assert run(argv) == 0
    first = printed(capsys)["probes"]
    folder = Path(out)
    (table,) = folder.glob("probes.parquet")
    table.unlink()
    (lost,) = folder.glob("cells/read*seed*1.parquet")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*seed*0*.parquet")}
    lost.unlink()
    assert run([*argv, "--resume"]) == 0
    assert printed(capsys)["probes"] == first
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*seed*0*.parquet")} == before
    assert lost.is_file()
    assert run([*argv, "--resume", "--control", "types"]) == 2, "another question"


def test_a_damaged_result_says_so(planted, out):
    assert run(["probe", "--set", planted[0], "--out", out, *QUICK]) == 0
    kept = Run.open(out)
    notes = kept.facts["probes"]
    (key,) = notes
    kept.update(probes={key: notes[key] | {"shape": [1]}})
    with pytest.raises(UsageError, match="is damaged"):
        read_probe(kept, key)
    kept.update(probes={key: notes[key] | {"measure": "r2"}})
    with pytest.raises(UsageError, match="is damaged"):
        read_probe(kept, key)


def test_captions_are_also_scored(out, capsys):
    argv = ["probe", "--model", "zoo:scenes", "--set", "negation", "--limit", "12", "--layers", "5", "--out", out]
    assert run([*argv, "--draws", "2", "--folds", "3", "--baselines", "none", "--json"]) == 0
    found = printed(capsys)
    (rows,) = found["shares"].values()
    assert [row["kind"] for row in rows] == ["negated", "true"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["right"] for row in rows] == [0, 12]
    assert "negation: share of every option" in (Path(out) / "report.html").read_text()
    assert Run.open(out).table("negation shares")["offered"].tolist() == [12, 12]


def test_options_whose_words_are_not_known_are_left_out(out, capsys):
    argv = ["probe", "--set", "daytime", "--limit", "24", "--layers", "0", "--out", out]
    assert run([*argv, "--draws", "1", "--folds", "3", "--baselines", "none"]) == 0
    said = capsys.readouterr().out
    assert "48 samples" not in said
    assert "24 samples, 1 passes" in said
    assert "options are not scored (the tokenizer does not know 'yes'" in said
    assert (
        "no layer can be found, however well it is read; to find one that stands out alone, 19 draws are enough" in said
    )
    assert "best of every probe" in said


def test_shares_by_hand():
    samples = [
        Sample("x", meta={"options": ("a b", "b a"), "kinds": ("true", "swapped"), "answer": 0}),
        Sample("x", meta={"options": ("c", "d", "e"), "kinds": ("swapped", "true", "joined"), "answer": 1}),
        Sample("x", meta={"options": ("f", "g"), "kinds": ("true", "swapped"), "answer": 0}),
    ]
    table = option_shares(samples, ["b a", "e", "f"]).set_index("kind")
    assert table["offered"].to_dict() == {"joined": 1, "swapped": 3, "true": 3}
    assert table["right"].to_dict() == {"joined": 0, "swapped": 0, "true": 3}
    assert table["share"].to_dict() == {"joined": 1.0, "swapped": 1 / 3, "true": 1 / 3}
    assert (table["low"] < table["share"]).all()
    bare = option_shares([Sample("x", meta={"options": ("yes", "no"), "answer": 1})], ["yes"]).set_index("kind")
    assert bare["share"].to_dict() == {"no": 0.0, "yes": 1.0}


def test_cost_by_hand():
    plan = Plan(folds=5, draws=20, baselines=("random", "untrained"))
    assert plan.fits(4) == 4 * 5 * 22 + 5
    assert [key for key, *_ in Plan(sites=("z", "attn_out"), seeds=(3, 4)).keys(["a"])] == [
        "a z seed 3",
        "a z seed 4",
        "a attn_out seed 3",
        "a attn_out seed 4",
    ]


def test_every_set_is_made():
    assert set(named_sets(list(SETS), limit=2, seed=1)) == set(SETS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--set", "moods"), "there is no set 'moods'; use one of mqar"),
        (("--set", "mqar", "--set", "mqar"), "two sets are called 'mqar'"),
        (("--set", "none.jsonl"), "cannot be read"),
        (("--set", "mqar", "--site", "logits"), "--site 'logits' is not known"),
        (("--set", "mqar", "--baselines", "luck"), "--baselines 'luck' is not known"),
        (("--set", "mqar", "--position", "first"), "--position 'first' is not known"),
        (("--set", "mqar", "--layers", "0,x"), "is not a list of layers"),
        (("--set", "mqar", "--by", "head", "--site", "resid_post"), "heads are probed at z"),
        (
            (
                "--set",
                "presence",
            ),
            "shows no images|image",
        ),
        (("--set", "temporal"), "does not know 'before'"),
    ],
)
def test_what_is_refused(refused, out, options, says):
    message = refused(["probe", *options, "--out", out], 2)
    assert any(part in message for part in says.split("|"))
    assert not Path(out).exists()
