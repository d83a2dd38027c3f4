"""`headscope patch`, `heads classes` and `heads overlap` as a user meets them: they find what was planted."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.cli import run
from experiments.compare import Comparison
from experiments.over_controls import over_controls
from experiments.patching.activations import activation_patching
from experiments.patching.together import joint_patching
from head_analysis.classes import head_classes
from headscope import HookedModel
from headscope.runs import Run
from headscope.scores import HeadScores
from tasks.ioi import IOI
from tasks.needle_pairs import NeedlePairs
from tests.experiments.test_cli import printed, self_contained, words_of
from tests.planted.naming import DUPLICATE, GAIN, INDUCTION, INHIBITION, MOVER, NEGATIVE, PREVIOUS, naming_model

IOI_TASK = ("--task", "ioi", "--prompts", "6", "--counterfactual", "swap")
NEEDLES = ("--lengths", "96", "--depths", "1", "--repeats", "3")
PREVIOUS_TOKEN, COPYING = "L1H7", ("L2H2", "L2H6")
"""What the small model of the zoo does its work with."""


@pytest.fixture(scope="module")
def naming(tmp_path_factory) -> str:
    """Folder of the planted model."""
    model, folder = naming_model(), str(tmp_path_factory.mktemp("naming"))
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def values(found: dict, name: str) -> dict[str, float]:
    return {row["name"]: row["value"] for row in found["heads"] if row["map"] == name}


def test_the_planted_circuit_is_found_and_kept(naming, out, capsys):
    argv = ["patch", "--model", naming, *IOI_TASK, "--out", out, "--sites", "z,v", "--top", "2", "--draws", "2"]
    assert run([*argv, "--json"]) == 0
    found = printed(capsys)
    assert (found["pairs"], found["dropped"]) == (6, 0)
    assert (found["clean"], found["corrupt"]) == (pytest.approx(GAIN, abs=0.05), pytest.approx(-GAIN, abs=0.05))
    known = {str(INHIBITION): 1.0, str(MOVER): 4 / 3, str(NEGATIVE): -1 / 3}
    for name, value in values(found, "denoise z").items():
        assert value == pytest.approx(known.get(name, 0.0), abs=5e-3), name
    for name, value in values(found, "denoise v").items():
        assert value == pytest.approx({str(INHIBITION): 1.0}.get(name, 0.0), abs=5e-3), name
    first = found["heads"][0]
    assert first["q"] == pytest.approx(first["p"] * 12 / 3)  # three heads share the smallest p of 12
    treated, random = found["together"]["denoise z"]
    assert treated["condition"] == f"{MOVER}, {INHIBITION} at once"
    assert treated["mean"] == pytest.approx(1, abs=5e-3)  # with the flag, the negative mover takes its third again
    assert -1 / 3 - 5e-3 < random["worst"] <= random["best"] < 5e-3  # a draw may hold the negative mover
    assert found["over_controls"]["denoise z"][0]["as_far"] == 0
    assert found["stability"][0]["overlap of halves"] == 1.0
    kept = Run.open(out)
    assert set(kept.score_names()) == {"denoise z", "denoise v"}
    assert {"heads", "stability", "denoise z at once", "denoise v at once"} == set(kept.table_names())
    page = self_contained(Path(out) / "report.html")
    for heading in ("Which heads carry the answer", "denoise z: every head", "Would the ranking come out again?"):
        assert heading in page
    before = (Path(out) / "denoise z.safetensors").stat().st_mtime_ns
    assert run([*argv, "--resume"]) == 0
    assert f"{MOVER}, {INHIBITION} at once: 1.000" in words_of(capsys)
    assert (Path(out) / "denoise z.safetensors").stat().st_mtime_ns == before


def test_paths_end_where_they_were_asked_to(naming, tmp_path, capsys):
    def path(name: str, *more: str) -> dict[str, float]:
        out = str(tmp_path / name)
        assert run(["patch", "--model", naming, *IOI_TASK, "--out", out, "--json", *more]) == 0
        found = printed(capsys)
        (kept,) = Run.open(out).score_names()
        assert found["together"] == {}
        return values(found, kept)

    straight = path("logits", "--through", "logits", "--prompts", "3")
    assert straight[str(MOVER)] == pytest.approx(4 / 3, abs=5e-3)
    assert straight[str(INHIBITION)] == pytest.approx(0, abs=5e-3)  # it speaks to the movers alone
    asked = ("--through", "q", "--receivers", str(MOVER), "--heads", f"{INHIBITION},{INDUCTION}")
    queries = path("queries", *asked, "--prompts", "3")
    assert queries == {str(INHIBITION): pytest.approx(4 / 3, abs=5e-3), str(INDUCTION): pytest.approx(0, abs=5e-3)}


def test_the_small_model_looks_the_name_up_by_queries_and_finds_it_by_keys(tmp_path, capsys):
    def found(name: str, *more: str) -> dict:
        assert run(["patch", *NEEDLES, "--out", str(tmp_path / name), "--draws", "2", "--json", *more]) == 0
        return printed(capsys)

    asked = found("asked", "--sites", "q,v", "--direction", "noise", "--heads", "L1H7,L2H2,L2H6,L3H5")
    queries, copied = (values(asked, f"noise {site}") for site in "qv")
    assert sum(queries[name] for name in COPYING) > 0.7
    assert abs(queries[PREVIOUS_TOKEN]) < 0.05
    assert max(map(abs, copied.values())) < 0.02  # both prompts hold the same text, so what is read is the same
    told = found("told", "--counterfactual", "told", "--through", "k", "--receivers", ",".join(COPYING))
    keys = values(told, f"path to k of {', '.join(COPYING)}")
    assert keys.pop(PREVIOUS_TOKEN) > 0.9
    assert max(map(abs, keys.values())) < 0.05


def test_sets_of_one_head_are_single_heads():
    model = HookedModel.load("zoo:needle", device="cpu")
    task = NeedlePairs((96, 64), depths=1, repeats=2)
    clean, corrupt = task.samples(model.tokenizer), task.counterfactuals(model.tokenizer)
    alone = activation_patching(model, clean, corrupt, heads="L2H2, L2H6")
    sets = {"a": alone.heads[:1], "b": alone.heads[1:], "both": alone.heads}
    together = joint_patching(model, clean, corrupt, sets, batch_tokens=100)
    torch.testing.assert_close(together[:, :2], alone.samples[:, 2, [2, 6]], atol=1e-4, rtol=0)
    assert together[:, 2].mean() > together[:, :2].mean(0).max()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--task", "choices"), "has no counterfactual prompts"),
        (("--needles", "1"), "has no counterfactual prompts"),
        (("--sites", "z,w"), "--sites 'z,w': give one or more of z, pattern, q, k, v"),
        (("--receivers", "L2H2"), "say through what with --through q"),
        (("--through", "q"), "name them with --receivers"),
        (("--through", "logits", "--direction", "noise"), "leave --direction and --sites out"),
        (("--through", "logits", "--receivers", "L2H2"), "the answer itself receives; use --through q"),
        (("--through", "k", "--receivers", "L9H0"), "L9H0 asked for, but zoo:needle has no such head"),
        (("--heads", "L0H8"), "L0H8 asked for, but zoo:needle has no such head"),
        (("--positions", "middle"), "position 'middle' is no mark of a sample"),
    ],
)
def test_what_cannot_be_patched_is_refused(out, refused, argv, says):
    refused(["patch", *NEEDLES, "--out", out, *argv], 2, says)
    assert not Path(out).exists()


def test_heads_are_told_apart_by_where_they_look(naming, tmp_path, capsys):
    out = str(tmp_path / "classes")
    argv = ["heads", "classes", "--model", naming, "--task", "ioi", "--prompts", "6", "--out", out]
    assert run([*argv, "--json"]) == 0
    found = printed(capsys)
    model = HookedModel.load(naming, device="cpu")
    samples = IOI(6, seed=1).samples(model.tokenizer)
    expected = head_classes(model, samples)
    assert found["classes"] == {name: [str(head) for head in heads] for name, heads in expected.items()}
    planted = {"duplicate token": DUPLICATE, "induction": INDUCTION, "S-inhibition": INHIBITION, "name mover": MOVER}
    for name, head in planted.items():
        assert str(head) in found["classes"][name]
    rows = {(row["class"], row["name"]): row for row in found["heads"]}
    looks = rows["S-inhibition", str(INHIBITION)]
    lengths = [len(model.tokens(sample).ids) for sample in samples]
    assert looks["even"] == pytest.approx(sum(1 / n for n in lengths) / len(lengths))
    assert looks["value"] > 10 * looks["even"]
    assert looks["q"] == pytest.approx(12 * 2**-6)  # alone of 12 heads, and in every one of 6 prompts
    assert rows["S-inhibition", str(PREVIOUS)]["q"] > 0.1
    assert run([*argv, "--resume", "--attention", "1.1"]) == 0
    assert "none" in words_of(capsys)


def test_the_small_model_has_an_induction_circuit(out, capsys):
    assert run(["heads", "classes", *NEEDLES, "--out", out, "--json"]) == 0
    found = printed(capsys)["classes"]
    assert found["previous token"] == [PREVIOUS_TOKEN]
    assert sorted(found["induction"]) == sorted(COPYING)
    assert "A tokenizer without colons" in self_contained(Path(out) / "report.html")


def test_tasks_without_the_marks_have_no_classes(out, refused):
    refused(["heads", "classes", "--task", "choices", "--out", out], 2, "--task choices does not mark END, IO, S1")
    assert not Path(out).exists()


def scored(folder: Path, model: str, **scores: torch.Tensor) -> str:
    with Run.create(folder, command="planted", config={}) as made:
        for name, sample in scores.items():
            made.save_scores(name, HeadScores(sample[None], name, {"model": model}))
    return str(folder)


def test_overlap_of_two_runs(tmp_path, capsys, refused):
    grid = torch.zeros(10, 10)
    grid[3, :5] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    other = torch.zeros(10, 10)
    other[3, 2:7] = -grid[3, :5]  # the sign does not count
    a, b = scored(tmp_path / "a", "m", first=grid), scored(tmp_path / "b", "m", first=grid, second=other)
    argv = ["heads", "overlap", a, b, "--shares", "5", "--scores-b"]
    assert run([*argv, "first", "--json"]) == 0
    assert printed(capsys)["overlap"][0]["jaccard"] == 1.0
    assert run([*argv, "second", "--out", str(tmp_path / "out"), "--json"]) == 0
    (row,) = printed(capsys)["overlap"]
    assert (row["k"], row["shared"], row["jaccard"]) == (5, 3, pytest.approx(3 / 7))
    assert row["expected"] > row["jaccard"] - 0.2  # within one layer of ten, five of five overlap by chance as well
    assert row["p"] > 0.3
    assert "Overlap by threshold" in self_contained(tmp_path / "out" / "report.html")
    assert run(["heads", "overlap", a, a]) == 0
    assert "0.02" in words_of(capsys)
    refused(["heads", "overlap", a, b], 2, "holds 2 scores (first, second); name one with --scores-b")
    refused(["heads", "overlap", a, scored(tmp_path / "c", "n", x=grid)], 2, "different models, m and n")
    refused(["heads", "overlap", a, scored(tmp_path / "d", "m", x=grid[:4])], 2, "compare two analyses of one model")
    refused(["heads", "overlap", a, a, "--shares", "0"], 2, "not a list of percentages above 0 up to 100")


def test_far_from_the_controls_is_counted_from_the_baseline():
    scores = {"whole": [4.0, 6.0], "cut": [1.0, 1.0], "near": [4.0, 5.0], "far": [0.0, 1.0]}
    kinds = {"whole": ("none", ""), "cut": ("treatment", ""), "bare": ("treatment", "")}
    rows = [
        {"condition": name, "kind": kinds.get(name, ("control",))[0], "sample": i, "score": score}
        | {"family": kinds.get(name, ("", "random for cut"))[1]}
        for name, values in {**scores, "bare": [2.0, 2.0]}.items()
        for i, score in enumerate(values)
    ]
    (row,) = over_controls(Comparison(pd.DataFrame(rows))).to_dict("records")
    assert (row["treatment"], row["draws"], row["as_far"]) == ("cut", 2, 1)
    assert row["difference"] == pytest.approx(1 - 2.5)
