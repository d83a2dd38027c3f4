"""Own prompts from a file: what is in it comes out, and every line that cannot be used is named."""

import json

import pytest

from headscope import UsageError
from tasks.pairs import OwnPairs, OwnPrompts, PairTask, read_pairs

ROW = {"prompt": "Paris is in", "target": " France", "foil": " Italy", "counterfactual": "Rome is in"}


def written(tmp_path, *rows) -> str:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def test_a_file_of_pairs(tmp_path):
    task = read_pairs(written(tmp_path, ROW, ROW))
    assert isinstance(task, OwnPairs)
    assert isinstance(task, PairTask)
    (clean, _), (corrupt, _) = task.samples(None), task.counterfactuals(None)
    assert (clean.prompt, clean.target, clean.meta["foil"]) == ("Paris is in", " France", " Italy")
    assert (corrupt.prompt, corrupt.target, corrupt.meta["foil"]) == ("Rome is in", " Italy", " France")
    assert task.score(clean, "France.") == 1.0
    assert task.score(clean, "Italy.") == 0.0


def test_prompts_alone_are_no_pairs(tmp_path):
    task = read_pairs(written(tmp_path, {"prompt": "Paris is in"}))
    assert isinstance(task, OwnPrompts)
    assert not isinstance(task, PairTask)
    assert task.samples(None)[0].meta == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: this is not JSON"),
        ([1], "line 2: 'prompt' is missing"),
        ({"target": " x"}, "line 2: 'prompt' is missing"),
        ({**ROW, "answer": "x"}, "line 2: 'answer' is not known; the names are prompt, target, foil, counterfactual"),
        ({**ROW, "target": 3}, "line 2: target is 3; give a text"),
        ({**ROW, "prompt": "  "}, "line 2: the prompt is empty"),
        ({"prompt": "Rome is in"}, "prompt 2 has no counterfactual and others do"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, row, message):
    with pytest.raises(UsageError, match=message):
        read_pairs(written(tmp_path, ROW, row))


def test_a_file_that_cannot_be_used(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_pairs(tmp_path / "nowhere.jsonl")
    with pytest.raises(UsageError, match="holds no prompt"):
        read_pairs(written(tmp_path))
