"""Recipes are true: what they say is run here."""

import shlex

import pytest

from dashboards.prompts import task_of
from dashboards.reading import open_run
from dashboards.reproduce import (
    attention_recipe,
    command_of,
    head_recipe,
    retrieval_recipe,
    runs_recipe,
    scores_recipe,
)
from experiments.cli import run as command
from experiments.vhd_by_token import read_by_token
from headscope.heads import Head
from headscope.runs import Run
from tasks import Needle
from tests.dashboards.conftest import MARKUP


@pytest.fixture
def facts(runs):
    return open_run(runs, "scored").facts


@pytest.mark.parametrize("name", ["scored", "removed"])
def test_the_command_makes_the_same_run(runs, name, tmp_path, monkeypatch):
    words = shlex.split(command_of(open_run(runs, name).facts))
    assert words[0] == "headscope"
    monkeypatch.chdir(tmp_path)
    assert command([*words[1:], "--json"]) == 0
    made, before = Run.open(tmp_path / "runs" / "again"), open_run(runs, name)
    assert made.facts["config"] == before.facts["config"]
    for kind in before.score_names():
        assert made.scores(kind).samples.equal(before.scores(kind).samples)


def test_the_command_makes_the_same_part_of_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = ("--lengths=64,96", "--depths=2", "--limit=3", "--shard=2/2", "--json")
    assert command(["heads", "retrieval", "--model=zoo:needle", *part, "--out=first"]) == 0
    before = Run.open("first")
    assert command([*shlex.split(command_of(before.facts))[1:], "--json"]) == 0
    made = Run.open("runs/again")
    assert made.facts["config"] == before.facts["config"]
    assert made.scores("retrieval").n == before.scores("retrieval").n


def test_the_command_looks_at_images_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("--prompt=What is here?", "--prior=usual", "--limit=2", "--max-new-tokens=3", "--by-token=1", "--seed=4")
    assert command(["heads", "vision", *asked, "--batch-tokens=999", "--json", "--out=first"]) == 0
    before = Run.open("first")
    assert command([*shlex.split(command_of(before.facts))[1:], "--json"]) == 0
    made = Run.open("runs/again")
    assert (made.facts["config"], made.facts["seeds"]) == (before.facts["config"], [4])
    assert made.scores("vhd").samples.equal(before.scores("vhd").samples)
    assert read_by_token(made, 0).equal(read_by_token(before, 0))


def test_the_command_judges_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ("--split=popular", "--with=VAR()", "--with=Scale('L0H1', 0.5)", "--draws=0", "--limit=2", "--prior=usual")
    assert command(["eval", "pope", *asked, "--batch-tokens=999", "--seed=4", "--json", "--out=first"]) == 0
    before = Run.open("first")
    assert command([*shlex.split(command_of(before.facts))[1:], "--json"]) == 0
    made = Run.open("runs/again")
    assert (made.facts["config"], made.facts["seeds"]) == (before.facts["config"], [4])
    assert made.table("answers").equals(before.table("answers"))
    older = {key: value for key, value in before.facts["config"].items() if key != "asked"}
    assert command_of({**before.facts, "config": older}) == ""


def test_all_that_vision_was_asked(tmp_path):
    files = {"annotations": "a.json", "images": "my images", "synonyms": "s.csv", "allow_pickle": True}
    config = {"model": "org/m", "limit": 5, "by_token": 0, "max_new_tokens": None, "trust_remote_code": False, **files}
    words = shlex.split(command_of({"command": "heads vision", "config": config, "seeds": [3]}))
    assert words == [
        *("headscope", "heads", "vision", "--model=org/m", "--annotations=a.json", "--images=my images"),
        *("--synonyms=s.csv", "--limit=5", "--by-token=0", "--seed=3", "--allow-pickle", "--out", "runs/again"),
    ]
    assert command_of({"command": "heads vision", "config": config, "seeds": []}) == ""
    del config["limit"]
    assert command_of({"command": "heads vision", "config": config, "seeds": [3]}) == "", "of a run that kept less"


def test_python_recipes_run(runs, facts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipes = [
        runs_recipe(runs, "seen", "seen"),
        runs_recipe(runs, "scored", None),
        scores_recipe(runs / "scored", "retrieval", facts),
        head_recipe(runs / "scored", Head(1, 1), facts),
        retrieval_recipe(runs / "scored", Head(1, 1), facts),
        attention_recipe("zoo:needle", "the secret words", Head(1, 1), 2, images=False),
    ]
    for recipe in recipes:
        exec(compile(recipe.python, "recipe", "exec"), {})
    assert {"map.html", "answers.html", "L1H1.html"} <= {path.name for path in tmp_path.iterdir()}
    assert "L1H1" in capsys.readouterr().out


def test_names_cannot_leave_their_quotes(tmp_path):
    nasty = "'); import os; os.abort() #"
    python = scores_recipe(tmp_path / nasty, nasty, {}).python
    with pytest.raises(Exception, match="is not a run"):
        exec(compile(python, "recipe", "exec"), {})


def test_commands_are_quoted():
    config = {"model": "a; rm -rf /", "task": repr(Needle((64,), 2))}
    words = shlex.split(command_of({"command": "heads retrieval", "config": config}))
    assert words[words.index("--model") + 1] == "a; rm -rf /"


@pytest.mark.parametrize("config", [None, {}, {"task": 1}, {"task": "CHAIR(prompt='x')"}, {"task": MARKUP}])
def test_no_command_where_the_config_does_not_tell(config):
    assert command_of({"command": "heads retrieval", "config": config}) == ""
    assert command_of({"command": "heads import", "config": config}) == ""


def test_a_task_that_reads_files_is_not_made():
    facts = {"config": {"task": "Needle(haystack='/etc/passwd')"}}
    assert task_of(facts) is None
    assert task_of({"config": {"task": "Needle(lengths=(64,), depths=2)"}}) == Needle((64,), 2)
