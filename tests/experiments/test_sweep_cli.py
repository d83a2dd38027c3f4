"""`headscope ablate sweep` as a user meets it: planted truth, controls, shares of one folder, estimates kept apart."""

import json
from pathlib import Path

import pytest

from experiments.cli import run
from headscope.runs import Run
from tests.experiments.test_cli import printed, self_contained, words_of
from tests.planted.naming import DUPLICATE, GAIN, INHIBITION, MOVER, NEGATIVE, naming_model
from tests.planted.wiring import LOGIT

SMALL = ("--lengths", "64", "--depths", "1", "--repeats", "2", "--metric", "logit_difference")
HEADS = ("--heads", "L1H7,L2H2,2.5")


@pytest.fixture(scope="module")
def naming(tmp_path_factory) -> str:
    """Folder of the planted model."""
    model, folder = naming_model(), str(tmp_path_factory.mktemp("naming"))
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def sweep(out: str, *more: str) -> list[str]:
    return ["ablate", "sweep", "--out", out, *SMALL, *more]


def test_every_head_of_the_planted_circuit_costs_what_it_was_built_for(naming, out, capsys):
    argv = sweep(out, "--model", naming, "--task", "ioi", "--prompts", "4", "--top", "3", "--json")
    assert run(argv) == 0
    found = printed(capsys)
    known = {
        str(DUPLICATE): -4 / 3 * GAIN,
        str(INHIBITION): -4 / 3 * GAIN,
        str(MOVER): -LOGIT,
        str(NEGATIVE): LOGIT / 4,
    }
    for row in found["units"]:
        assert row["effect"] == pytest.approx(known.get(row["unit"], 0.0), abs=0.05), row["unit"]
    assert len(found["units"]) == 12
    whole, treated, random = found["together"]
    assert set(treated["condition"].removesuffix(" at once").split(", ")) == {*map(str, (DUPLICATE, INHIBITION, MOVER))}
    assert whole["mean"] == pytest.approx(GAIN, abs=0.05)
    assert treated["mean"] == pytest.approx(LOGIT / 12, abs=0.05)  # the negative mover alone, seeing one IO and two S
    assert GAIN - 0.05 < random["worst"] <= random["best"] < LOGIT + 0.05  # some draws hold the negative mover
    (beyond,) = found["over_controls"]
    assert beyond["difference"] == pytest.approx(treated["mean"] - random["mean"], abs=1e-6)
    assert (beyond["as_far"], beyond["draws"]) == (0, 5)


def test_a_newcomer_sees_cost_effects_controls_and_a_report(out, capsys):
    assert run(sweep(out, *HEADS, "--top", "1", "--draws", "3")) == 0
    said = words_of(capsys)
    assert "3 heads x 2 prompts" in said
    assert "whole passes of all prompts, about" in said
    assert said.index("whole passes") < said.index("L2H2")
    assert "from random heads of the same layers; 0 of 3 draws go as far" in said
    kept = Run.open(out)
    assert set(kept.table_names()) == {"effects", "units", "together"}
    assert kept.score_names() == ("effect",)
    assert kept.facts["status"] == "finished"
    page = self_contained(Path(out) / "report.html")
    for heading in ("What each is worth", "beside random heads", "Beyond the controls", "All effects"):
        assert heading in page


def test_shares_of_one_folder_make_the_whole(tmp_path, capsys):
    argv = (*HEADS, "--batch-tokens", "64", "--draws", "1", "--json")
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert run(sweep(whole, *argv)) == 0
    expected = printed(capsys)
    assert run(sweep(parts, *argv, "--shard", "1/2")) == 0
    first = printed(capsys)
    assert first["missing"]
    assert "units" not in first
    assert Run.open(parts).table_names() == ()
    assert run(sweep(parts, *argv, "--shard", "2/2", "--resume")) == 0
    found = printed(capsys)
    assert found == expected | {"out": parts}
    assert found["missing"] == []
    tables = [Run.open(folder).table("effects") for folder in (whole, parts)]
    assert tables[0].equals(tables[1])


def test_groups_pairs_and_layers(tmp_path, capsys):
    def found(name: str, *more: str) -> dict:
        assert run(sweep(str(tmp_path / name), *more, "--draws", "1", "--json")) == 0
        return printed(capsys)

    groups = found("groups", "--of", "groups", "--group", "copies=L2H2,L2H6", "--group", "idle=L3H5,L3H6")
    assert [row["unit"] for row in groups["units"]] == ["copies", "idle"]
    assert groups["units"][0]["effect"] < -5
    assert [row["condition"] for row in groups["together"]][1:] == ["copies", "random for copies (1 draws)"]
    pairs = found("pairs", "--of", "pairs", *HEADS)
    assert len(pairs["units"]) == 3
    assert "L2H2" in pairs["together"][1]["condition"]
    layers = found("layers", "--of", "layers")
    assert [row["unit"] for row in layers["units"]][-1] == "layer 3"
    assert layers["together"] == []  # a layer has no others to draw from
    assert "No control can be drawn" in (tmp_path / "layers" / "report.html").read_text()


def test_an_estimate_is_kept_apart_and_judged_on_random_heads(out, capsys):
    argv = sweep(out, "--screen", "4", "--draws", "1")
    assert run([*argv, "--json"]) == 0
    found = printed(capsys)
    assert found["estimate"]["metric"] == "first-order estimate of the effect on logit_difference"
    assert len(found["estimate"]["heads"]) == 32
    assert -1 <= found["estimate"]["rank_correlation"] <= 1
    assert found["estimate"]["n_heads"] == 4
    swept = {row["unit"] for row in found["units"]}
    assert 4 <= len(swept) <= 8
    assert "L2H2" in swept
    kept = Run.open(out)
    assert set(kept.score_names()) == {"effect", "estimate"}
    assert {str(head) for head in kept.scores("effect").heads} == swept
    assert set(kept.table("screened")["head"]) == swept
    assert "estimate" not in kept.table("units").columns
    page = self_contained(Path(out) / "report.html")
    assert "it is no result, and only the exact effects stand in the tables above" in page
    assert run([*argv, "--resume"]) == 0
    assert "over 4 random heads" in words_of(capsys)


def test_the_tasks_own_score(out, capsys):
    argv = ["ablate", "sweep", "--out", out, "--lengths", "64", "--depths", "1", "--repeats", "2", "--metric", "score"]
    assert run([*argv, "--heads", "L2H2,L3H5", "--top", "1", "--draws", "1", "--json"]) == 0
    effects = {row["unit"]: row["effect"] for row in printed(capsys)["units"]}
    assert effects == {"L2H2": -1.0, "L3H5": 0.0}


def test_a_mean_is_that_of_other_prompts_of_the_task(out, capsys):
    assert run(sweep(out, *HEADS, "--mode", "mean", "--draws", "1", "--json")) == 0
    found = printed(capsys)
    assert found["mode"] == "mean"
    assert found["units"][0]["unit"] == "L2H2"


def test_own_prompts(tmp_path, capsys, refused):
    file = tmp_path / "mine.jsonl"
    row = {
        "prompt": "The secret words of Alice: lamp ring. The secret words of Alice:",
        "target": " lamp",
        "foil": " ring",
    }
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "prompt": f"{row['prompt']}"}))
    argv = ["ablate", "sweep", "--task", str(file), "--metric", "logit_difference", *HEADS, "--draws", "1", "--json"]
    assert run([*argv, "--out", str(tmp_path / "run")]) == 0
    assert printed(capsys)["units"][0]["effect"] < 0
    mean = [*argv, "--mode", "mean", "--out", str(tmp_path / "mean")]
    refused(mean, 2, "holds no other; give each line a counterfactual, or use --mode zero")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--needles", "1"), "names no wrong answer"),
        (("--limit", "1"), "gives 1 prompt with these options, and differences need two or more"),
        (("--task", "stories"), "--task 'stories' is not known"),
        (("--task", "ioi"), "--task ioi cannot be asked of zoo:needle"),
        (("--lengths", "4000"), "but the context of zoo:needle holds"),
        (("--heads", "L9H9"), "L9H9 asked for"),
        (("--of", "groups"), "--of groups --group movers=L1H2,L1H3"),
        (("--group", "a=L1H1"), "--of groups --group movers=L1H2,L1H3"),
        (("--of", "groups", "--group", "L1H1"), "--group 'L1H1' is not of the form name=heads"),
        (("--of", "groups", "--group", "a="), "group 'a' names no head"),
        (("--of", "groups", "--group", "a=L1H1", "--group", "a=L1H2"), "two groups have the same name"),
        (("--screen", "4", "--heads", "L1H1"), "leave --of, --heads and --group out"),
        (("--screen", "4", "--metric", "kl"), "--screen 4 follows the slope of the metric, which kl has not"),
        (("--screen", "99"), "zoo:needle has 32 heads; give 3 to 32"),
        (("--shard", "3/2"), "is not of the form i/n"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(out, refused, argv, says):
    refused(sweep(out, *argv), 2, says)
    assert not Path(out).exists()
