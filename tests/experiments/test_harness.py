"""Tasks of lm_eval under conditions: local tasks through the real harness, known answers, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from lm_eval.api.metrics import mean, weighted_perplexity

from experiments.cli import run
from experiments.harness.asking import HarnessOptions, ask_harness
from experiments.harness.results import HarnessResults
from experiments.harness.tasks import load_tasks
from headscope import HookedModel, UsageError
from headscope.runs import Run
from interventions import Ablate

FIXTURES = Path(__file__).parent.parent / "fixtures" / "harness"
RETRIEVING = "Ablate('L2H2, L2H6')"
CONTROLS = f"random for {RETRIEVING} (2 draws)"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures with their data, and a cache of data sets of their own."""
    folder = tmp_path_factory.mktemp("tasks")
    shutil.copy(FIXTURES / "secrets.jsonl", folder)
    for path in FIXTURES.glob("*.yaml"):
        text = path.read_text("utf-8").replace("DATA", str(folder)).replace("CACHE", str(folder / "cache"))
        (folder / path.name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def needle() -> HookedModel:
    return HookedModel.load("zoo:needle")


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tasks, tmp_path_factory) -> tuple[list[str], Path]:
    """A finished run of the command, and how it was called."""
    out = tmp_path_factory.mktemp("runs") / "out"
    argv = ["eval", "harness", "--out", str(out), "--tasks", "secret_choice,secret_answer", "--controls", "2"]
    argv += ["--include-path", str(tasks), "--with", RETRIEVING, "--limit", "12"]
    assert run([*argv, "--json"]) == 0
    return argv, out


def numbers(families: pd.DataFrame, task: str) -> pd.DataFrame:
    return families[families["task"] == task].set_index("condition")


def test_removing_retrieval_heads_costs_both_tasks_and_random_heads_neither(finished):
    families = Run.open(finished[1]).table("families")
    for task, most in (("secret_choice", 0.7), ("secret_answer", 0.1)):
        found = numbers(families, task)
        assert list(found.index) == ["none", RETRIEVING, CONTROLS]
        assert found.loc["none", "mean"] == 1
        assert found.loc[RETRIEVING, "mean"] <= most
        assert found.loc[RETRIEVING, "difference_high"] < -0.1
        assert found.loc[CONTROLS, "mean"] > 0.9
        assert (found["n"] == 12).all()


def test_lm_evals_own_numbers_stand_beside(finished):
    found = Run.open(finished[1]).table("families")
    assert found["lm_eval"].tolist() == pytest.approx(found["mean"].tolist())
    alone = found[found["family"] == ""]
    by_hand = (alone["mean"] * (1 - alone["mean"]) / (alone["n"] - 1)) ** 0.5
    assert alone["lm_eval_stderr"].tolist() == pytest.approx(by_hand.tolist())
    assert found.loc[found["family"] != "", "lm_eval_stderr"].isna().all()
    assert found["higher_is_better"].all()


def test_every_document_is_kept_with_its_answer(finished):
    kept = Run.open(finished[1]).table("documents")
    assert len(kept) == 2 * 4 * 12
    texts = [json.loads(line) for line in (FIXTURES / "secrets.jsonl").read_text("utf-8").splitlines()]
    plain = kept[(kept["task"] == "secret_answer") & (kept["condition"] == "none")]
    for row in plain.itertuples():
        (answer,) = json.loads(row.answer)
        assert answer.strip() == row.target == texts[row.sample]["answer"]
        assert (row.score, row.truncated) == (1, 0)
    report = (finished[1] / "report.html").read_text("utf-8")
    assert "secret_choice: acc" in report
    assert "Treatments less their random controls" in report


def test_the_treatment_goes_beyond_its_controls(finished):
    beyond = Run.open(finished[1]).table("beyond_controls")
    assert list(beyond["task"]) == ["secret_choice", "secret_answer"]
    assert (beyond["high"] < 0).all()
    assert (beyond["as_far"] == 0).all()


def test_a_run_goes_on_where_it_stopped(finished, capsys):
    argv, out = finished
    before = Run.open(out).table("documents")
    lost = next((out / "cells").glob("secret_choice, none*"))
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.parquet") if path != lost}
    for path in (lost, out / "documents.parquet"):
        path.unlink()
    assert run([*argv, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    after = Run.open(out).table("documents")
    assert after.equals(before)
    shown = capsys.readouterr().out
    assert "4 conditions x 24 documents (12 of secret_choice, 12 of secret_answer)" in shown
    assert "the same as lm_eval reports it" in shown


def test_a_run_goes_on_with_the_same_settings_only(finished, refused):
    argv, _ = finished
    refused([*argv, "--resume", "--system", "Answer."], 2, "cannot be resumed", "system")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--tasks", " , "], "names no task"),
        (["--tasks", "secret_choice", "--with", "Akt()"], "'Akt' is not known"),
        (["--tasks", "secret_choice", "--with", "Ablate('L9H0')"], "L9H0 asked for"),
        (["--tasks", "secret_choice", "--chat"], "zoo:needle has no chat template"),
        (["--tasks", "secret_choice", "--max-length", "60", "--refuse-long"], "has room for 60"),
        (["--tasks", "secret_answer", "--max-length", "12"], "up to 12 tokens are to be written"),
    ],
)
def test_wrong_requests_are_refused(options, says, tasks, out, refused):
    refused(["eval", "harness", "--out", out, "--include-path", str(tasks), *options], 2, says)
    assert Path(out).exists() == ("--max-length" in options)  # what cannot be asked at all is refused before the run


@pytest.mark.slow
def test_an_unknown_task_is_told_what_is_like_it(tasks, out, refused):
    argv = ["eval", "harness", "--out", out, "--include-path", str(tasks), "--tasks", "secret_chioce"]
    refused(argv, 2, "task 'secret_chioce' is not known; there are secret_choice", "--include-path DIR adds yours")
    assert not Path(out).exists()


def test_a_folder_that_is_not_there_is_refused(out, refused):
    argv = ["eval", "harness", "--out", out, "--tasks", "arc_easy", "--include-path", out]
    refused(argv, 2, "is no folder; give one that holds the YAML files of tasks")


def test_without_lm_eval_it_is_said_how_to_get_it(out, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    refused(["eval", "harness", "--out", out, "--tasks", "x"], 2, "run: pip install 'headscope[lm-eval]'")


# -- tasks -------------------------------------------------------------------------------------------------------------


def written(folder: Path, name: str, base: str, **changes: Any) -> Path:
    """A task like one of the fixtures, under a name and with settings of its own; the folder that holds it alone."""
    settings = yaml.safe_load((folder / f"{base}.yaml").read_text("utf-8"))
    target = folder / "more" / name
    target.mkdir(parents=True)
    (target / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "task": name, **changes}), "utf-8")
    return target


def test_names_may_be_patterns(tasks):
    loaded = load_tasks(["secret_a*", "secret_choice", "secret_answer"], include_path=tasks)
    assert list(loaded) == ["secret_answer", "secret_choice"]


def test_examples_are_counted_unless_a_task_takes_none(tasks):
    folder = written(tasks, "without_examples", "secret_choice", num_fewshot=0)
    shots = {
        number: load_tasks(["without_examples"], include_path=folder, num_fewshot=number)["without_examples"]
        for number in (None, 2)
    }
    assert [task.get_config("num_fewshot") for task in shots.values()] == [0, 0]
    loaded = load_tasks(["secret_choice"], include_path=tasks, num_fewshot=2)
    assert loaded["secret_choice"].get_config("num_fewshot") == 2


def test_data_that_is_not_there_is_told(tasks):
    folder = written(tasks, "lost", "secret_choice", dataset_kwargs={"data_files": {"test": "/no/such.jsonl"}})
    with pytest.raises(
        UsageError, match=r"task 'lost' cannot be loaded \(FileNotFoundError: .*while there is a network"
    ):
        load_tasks(["lost"], include_path=folder)


def test_data_that_must_be_fetched_without_a_network_is_told(tasks, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    away = {"dataset_path": "nobody/nothing", "dataset_kwargs": {"cache_dir": str(tasks / "cache")}}
    folder = written(tasks, "far", "secret_choice", **away)
    with pytest.raises(UsageError, match=r"task 'far' cannot be loaded \(.*; where its data must be fetched"):
        load_tasks(["far"], include_path=folder)


def test_tasks_that_run_code_or_show_images_are_refused(tasks):
    folder = written(tasks, "running", "secret_answer", unsafe_code=True)
    with pytest.raises(UsageError, match="task 'running' runs code that the model wrote"):
        load_tasks(["running"], include_path=folder)
    folder = written(tasks, "looking", "secret_answer", doc_to_image="question")
    with pytest.raises(UsageError, match="task 'looking' shows images"):
        load_tasks(["looking"], include_path=folder)


# -- asked from Python -------------------------------------------------------------------------------------------------


def test_texts_are_read_and_examples_asked_of_python_too(tasks, needle):
    conditions = {"none": [], "without": [Ablate("L2H2, L2H6")]}
    loaded = load_tasks(["secret_text"], include_path=tasks)
    found = ask_harness(needle, loaded, conditions, options=HarnessOptions(limit=6))
    rows = found.families().set_index("condition")
    assert rows["mean"].tolist() == pytest.approx(rows["lm_eval"].tolist())
    assert rows.loc["without", "difference"] == pytest.approx(rows.loc["without", "mean"] - rows.loc["none", "mean"])
    assert 0 < rows.loc["without", "difference_low"] < rows.loc["without", "difference"]
    assert found.beyond_controls().empty
    assert list(found.comparisons()) == []


def test_examples_come_before_the_question_and_long_prompts_are_cut_and_counted(tasks, needle):
    prompts = {}
    for shots, length in ((0, None), (2, None), (2, 150)):
        loaded = load_tasks(["secret_choice"], include_path=tasks, num_fewshot=shots)
        options = HarnessOptions(limit=4, max_length=length, batch_size=3)
        found = ask_harness(needle, loaded, {"none": []}, options=options)
        prompts[shots] = set(found.table["prompts"])
        assert found.truncated() == ({"secret_choice": 8} if length else {})
    assert len(prompts[0] | prompts[2]) == 8


def test_batches_do_not_matter(tasks, needle):
    loaded = load_tasks(["secret_choice", "secret_answer"], include_path=tasks)
    tables = [
        ask_harness(
            needle,
            loaded,
            {"without": [Ablate("L2H2, L2H6", phase="decode")]},
            options=HarnessOptions(limit=6, batch_size=size),
        ).table
        for size in (1, 5)
    ]
    assert tables[0].drop(columns="answer").equals(tables[1].drop(columns="answer"))
    assert 0 < tables[0]["score"].mean() < 1


# -- results by hand ---------------------------------------------------------------------------------------------------


def rows(condition: str, kind: str, values: list, *, family: str = "", prompts: str = "same") -> pd.DataFrame:
    about = {"task": "text", "filter": "none", "metric": "ppl", "condition": condition, "kind": kind, "family": family}
    own = {"lm_eval": weighted_perplexity(values), "lm_eval_stderr": float("nan"), "higher_is_better": False}
    made = [
        {"sample": i, "score": float("nan"), "value": json.dumps(value), "prompts": f"{prompts} {i}", "truncated": 0}
        for i, value in enumerate(values)
    ]
    return pd.DataFrame(made).assign(**about, **own)


def test_a_metric_of_all_documents_is_taken_of_them_together():
    even, twice = [[-2, 1], [-4, 2], [-6, 3]], [[-4, 1], [-8, 2], [-12, 3]]
    table = pd.concat(
        [
            rows("none", "none", even),
            rows("same", "treatment", even),
            rows("twice", "treatment", twice),
            *(rows(f"random, seed {i}", "control", v, family="random") for i, v in enumerate([even, twice])),
        ]
    )
    found = HarnessResults(table, {"text": {"ppl": weighted_perplexity}}).families().set_index("condition")
    e2, e4 = weighted_perplexity([(-2, 1)]), weighted_perplexity([(-4, 1)])
    columns = ["mean", "low", "high"]
    assert found.loc["none", columns].tolist() == pytest.approx([e2] * 3)
    assert found.loc["same", ["difference", "difference_low", "difference_high"]].tolist() == [0, 0, 0]
    assert found.loc["twice", ["difference", "difference_low", "difference_high"]].tolist() == pytest.approx(
        [e4 - e2] * 3
    )
    both = found.loc["random (2 draws)"]
    assert both[["mean", "worst", "best", "n"]].tolist() == pytest.approx([(e2 + e4) / 2, e2, e4, 3])
    assert both[["low", "high"]].tolist() == pytest.approx([e2, e4])
    assert found["p"].isna().all()


def test_documents_that_differ_count_in_the_interval():
    uneven = [[-1, 1], [-9, 1], [-1, 1], [-9, 1]]
    table = pd.concat([rows("none", "none", uneven), rows("same", "treatment", uneven)])
    found = HarnessResults(table, {"text": {"ppl": weighted_perplexity}}).families().set_index("condition")
    assert found.loc["none", "low"] < found.loc["none", "mean"] < found.loc["none", "high"]
    assert found.loc["same", "difference_low"] == found.loc["same", "difference_high"] == 0


def test_conditions_that_were_asked_differently_are_refused():
    table = pd.concat([rows("none", "none", [[-1, 1]]), rows("other", "treatment", [[-1, 1]], prompts="other")])
    with pytest.raises(UsageError, match="document 0 of text was asked in different words under two conditions"):
        HarnessResults(table, {"text": {"ppl": mean}})
