"""`heads sinks` and `heads filter` as a user meets them, on models whose sinks are planted."""

import json
from pathlib import Path

import pytest

from experiments.cli import run
from experiments.filtering.held_out import held_out_conditions, random_like
from headscope import Head
from headscope.runs import Run
from interventions.act import ACT
from tests.experiments.test_cli import printed, self_contained, words_of
from tests.interventions.sinking import LAYERS, MISLEADING, RIGHT, SINK, USEFUL, WRONG, misled, sinking

QUICK = ("--lengths", "60", "--n", "4", "--removal", "2", "--draws", "2")


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> str:
    """Folder of the model whose head 0 gives most of its attention to one word, in every layer."""
    folder = tmp_path_factory.mktemp("models") / "sinking"
    model = sinking(5.0)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    """A file of twelve sentences, the planted word in every tenth."""
    path = tmp_path_factory.mktemp("texts") / "words.txt"
    lines = [" ".join(["f1 f2 f3", SINK if i % 10 == 3 else "f4", f"f{5 + i % 10} f6 ."]) for i in range(12)]
    path.write_text("\n\n".join(lines))
    return str(path)


def sinks(model: str, texts: str, out: str, *more: str) -> list[str]:
    return ["heads", "sinks", "--model", model, "--texts", texts, "--out", out, *QUICK, *more]


def test_planted_sinks_are_found_in_a_file_of_texts(planted, texts, out, capsys, refused, monkeypatch):
    assert run([*sinks(planted, texts, out), "--json"]) == 0
    found = printed(capsys)
    assert {row["token"] for row in found["tokens"]} == {SINK}
    assert {row["name"] for row in found["heads"] if row["later"] > 0} == {f"L{layer}H0" for layer in range(LAYERS)}
    conditions = {row["condition"]: row for row in found["removal"]}
    assert conditions["none"]["n"] == 2
    assert conditions["later sinks cut, own heads"]["mass"] > 0.2
    assert "as many others for later sinks cut, own heads (2 draws)" in conditions
    kept = Run.open(out)
    assert set(kept.score_names()) == {"first_token", "later_sinks", "first_token_is_sink", "later_sink_count"}
    assert {"sinks", "tokens", "norms", "stability", "removal", "contrasts", "head_scores"} <= set(kept.table_names())
    assert kept.facts["self_check"]
    assert kept.cell_keys() == ("removal, text 0", "removal, text 1")
    page = self_contained(Path(out) / "report.html")
    for heading in ("Attention on later sinks", "What the sinks are", "Residual norm", "Change in next-token loss"):
        assert heading in page

    monkeypatch.setattr("experiments.sinks.removal.CutKeys.__call__", lambda *_: pytest.fail("cut again"))
    assert run([*sinks(planted, texts, out), "--json", "--resume"]) == 0
    assert printed(capsys) == found
    refused(sinks(planted, texts, out, "--resume", "--alpha", "4"), 2, "'rule' was")


def test_the_cost_is_said_first_and_the_rest_in_tables(planted, texts, out, capsys):
    assert run(sinks(planted, texts, out, "--limit", "3", "--draws", "1", "--how", "zeroed")) == 0
    shown = words_of(capsys)
    assert shown.index("3 texts of up to 60 tokens, one pass: about") < shown.index("heads with the most attention")
    assert "then 2 of them without their sinks and without others: about" in shown
    assert "sink dimensions:" in shown
    assert "zero after the softmax" in (Path(out) / "report.html").read_text()


def test_models_of_the_zoo_read_filler_in_their_own_words(tmp_path, capsys):
    quick = ("--lengths", "80", "--n", "1", "--removal", "0", "--json")
    for model in ("zoo:needle", "zoo:scenes"):
        where = tmp_path / model.removeprefix("zoo:")
        assert run(["heads", "sinks", "--model", model, "--out", str(where), *quick]) == 0
        found = printed(capsys)
        assert found["n"] == 1
        assert "removal" not in found
        assert "Without the sinks" not in (where / "report.html").read_text()
        assert "stability" not in Run.open(where).table_names()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--lengths", "65"), ("length 65 does not fit the context", "64 tokens", "shorter lengths")),
        (("--lengths", "4"), ("a single sentence takes", "more than length 4")),
        (("--lengths", "x"), ("--lengths 'x'",)),
        (("--texts", "nowhere.txt"), ("'nowhere.txt' does not exist",)),
        (("--alpha", "0"), ("alpha 0.0", "above 0")),
        (("--variant", "papers"), ("papers",)),
        (("--how", "softly"), ("softly",)),
        (("--n", "0"), ("--n",)),
        (("--removal", "1"), ("only 1 text was given to cut sinks in",)),
    ],
)
def test_bad_options_of_sinks(refused, planted, texts, out, options, says):
    refused(sinks(planted, texts, out, *options), 2, *says)
    assert not Path(out).exists()


def test_texts_that_cannot_be_read_are_refused(refused, planted, tmp_path, out):
    (tmp_path / "strange.txt").write_text("f1 f2 f3 . f4 hello f5 .")
    refused(sinks(planted, str(tmp_path / "strange.txt"), out), 2, "strange.txt", "does not know all words")
    (tmp_path / "short.txt").write_text("f1 f2 f3 . f4 f5 .")
    refused(sinks(planted, str(tmp_path / "short.txt"), out), 2, "short.txt holds 8 tokens", "length 60")
    refused(["heads", "sinks", "--model", planted, "--out", out], 2, "length 256 does not fit", "64 tokens")
    refused(["heads", "sinks", "--model", planted, "--out", out, "--lengths", "50"], 2, "built-in filler", "--texts")


def test_too_little_memory_is_said_before_anything_runs(refused, planted, texts, out, monkeypatch):
    weights = sum(file.stat().st_size for file in Path(planted).glob("*.safetensors"))
    monkeypatch.setattr("headscope.costs.available_memory", lambda device: 2 * weights)  # enough for the model alone
    refused(sinks(planted, texts, out), 2, "of memory and cpu has", "shorter --lengths")
    assert not Path(out).exists()


# -- heads filter ----------------------------------------------------------------------------------------------------

BAD, GOOD = Head(2, 1), Head(2, 0)


@pytest.fixture(scope="module")
def torn(tmp_path_factory) -> str:
    """Folder of the model in which calibrating L2H0 helps and calibrating L2H1 harms."""
    folder = tmp_path_factory.mktemp("models") / "misled"
    model = misled()
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Questions in both formats: what misleads the model, what serves it, and neither."""
    folder = tmp_path_factory.mktemp("questions")
    words = [(MISLEADING, RIGHT), ("f0", RIGHT), (USEFUL, WRONG)] * 12
    prompts = [(f"f1 f2 {word} f3 f4 f5 f6 f7 f8 f{i % 20}", answer) for i, (word, answer) in enumerate(words)]
    classes = [json.dumps({"prompt": prompt, "label": answer}) for prompt, answer in prompts]
    choices = [json.dumps({"prompt": p, "options": [WRONG, RIGHT], "answer": answer}) for p, answer in prompts]
    (folder / "classes.jsonl").write_text("\n".join(classes))
    (folder / "choices.jsonl").write_text("\n".join(choices))
    return folder


def filtering(model: str, questions: Path, out: str, *more: str) -> list[str]:
    given = ("--classes", str(questions / "classes.jsonl"), "--words", f"{WRONG}={WRONG},{RIGHT}={RIGHT}")
    return ["heads", "filter", "--model", model, *given, "--out", out, "--calibration", "18", "--draws", "2", *more]


def test_heads_that_harm_are_left_out_and_the_others_serve_on_other_samples(torn, questions, out, capsys):
    assert run([*filtering(torn, questions, out), "--json"]) == 0
    found = printed(capsys)
    assert set(found["kept"]) == {f"L{layer}H{head}" for layer in (2, 3) for head in range(4)} - {str(BAD)}
    judged = {row["condition"]: row for row in found["held_out"]}
    assert judged["none"]["n"] == 18  # what is left of 36
    assert judged["kept heads (7)"]["mean"] == 1
    assert judged["kept heads (7)"]["mean"] > judged["none"]["mean"]
    assert judged["all heads (8)"]["mean"] < 1
    assert "as many random heads (2 draws)" in judged
    kept = Run.open(out)
    assert {"heads", "stability", "held_out", "held_out_families"} == set(kept.table_names())
    page = self_contained(Path(out) / "report.html")
    assert "6 heads have no net gain or loss" in page
    assert "no head has anything to gain" not in page


def test_helpful_heads_are_few_and_go_on_where_they_stopped(torn, questions, out, capsys, monkeypatch):
    argv = filtering(torn, questions, out, "--rule", "helpful", "--choices", str(questions / "choices.jsonl"))
    argv += ["--scoring", "likelihood", "--held-out", "9", "--heads", "L2H0,L2H1,L3H2", "--json"]
    assert run(argv) == 0
    first = printed(capsys)
    assert first["kept"] == [str(GOOD)]
    assert {row["task"] for row in first["held_out"]} == {"choices", "classes", "all tasks"}
    monkeypatch.setattr("experiments.filtering.filters.choice_scores", lambda *_, **__: pytest.fail("asked again"))
    monkeypatch.setattr("experiments.filtering.held_out.choice_scores", lambda *_, **__: pytest.fail("asked again"))
    assert run([*argv, "--resume"]) == 0
    assert printed(capsys) == first


def test_every_candidate_kept_leaves_nothing_to_compare(torn, questions, out, capsys):
    assert run(filtering(torn, questions, out, "--heads", str(GOOD))) == 0
    shown = words_of(capsys)
    assert "2 conditions x 18 samples of 1 tasks, then up to 5 x 18 held-out ones, a pass each" in shown
    assert "1 of 1 kept" in shown
    assert "kept heads that another set of samples would keep too (Jaccard)" in shown
    assert list(Run.open(out).table("held_out_families")["condition"]) == ["none", "kept heads (1)"]
    assert "Every candidate was kept" in (Path(out) / "report.html").read_text()


def test_random_heads_match_the_layers_of_those_kept():
    heads = [Head(layer, head) for layer in (0, 1) for head in range(4)]
    kept = [Head(0, 0), Head(1, 0), Head(1, 1), Head(1, 2)]
    drawn = {random_like(heads, kept, seed=seed) for seed in range(20)}
    assert len(drawn) > 5
    for one in drawn:
        assert len(set(one)) == 4
        assert [head.layer for head in one] == [0, 1, 1, 1]
        assert one[0] not in kept  # layer 1 has not as many others
    conditions = held_out_conditions(heads, kept, ACT(), draws=3)
    assert [one.kind for one in conditions] == ["none", "treatment", "treatment", *["control"] * 3]
    assert conditions[1].interventions == (ACT(heads=kept),)
    assert [one.name for one in held_out_conditions(heads, [], ACT())] == ["none", "all heads (8)"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--calibration", "36"), ("holds 36 questions", "takes 36", "at least 2 must be left")),
        (("--words", ""), ("--classes FILE and --words", "both or neither")),
        (("--words", "n0"), ("--words 'n0'", "0=negative")),
        (("--heads", "L9H0"), ("L9H0 asked for",)),
        (("--heads", "L2H0", "--every-layer"), ("both given",)),
        (("--beta", "2"), ("beta is 2",)),
        (("--rule", "best"), ("best",)),
    ],
)
def test_bad_options_of_filter(refused, torn, questions, out, options, says):
    refused(filtering(torn, questions, out, *options), 2, *says)
    assert not Path(out).exists()
