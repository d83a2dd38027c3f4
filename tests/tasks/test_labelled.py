"""Labelled samples of one's own: what a file may hold, and what is refused by line."""

import json
from dataclasses import replace

import pytest

from headscope import HookedModel, UsageError
from headscope.samples import Sample
from tasks.labelled import Labelled, LabelledFile, ProbingSet
from tests.planted.wording import word_level


@pytest.fixture
def written(tmp_path):
    def write(*rows: object) -> LabelledFile:
        path = tmp_path / "set.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
        return LabelledFile(path)

    return write


def row(label, **more):
    return {"prompt": f"a text of {label}", "label": label, **more}


@pytest.mark.parametrize(
    ("given", "labels"),
    [(("a", "b"), ("a", "b")), ((1, 2), (1, 2)), ((1, 2.5), (1.0, 2.5)), ((1, "b"), ("1", "b"))],
)
def test_labels_are_classes_or_numbers(written, given, labels):
    found = written(*(row(one) for one in given))
    assert isinstance(found, ProbingSet)
    made = found.labelled(word_level(["a"]))
    assert made.labels == labels
    assert [type(one) for one in made.labels] == [type(one) for one in labels]
    assert made.groups == ()
    assert made.samples[0].prompt == f"a text of {given[0]}"


def test_groups_blank_lines_and_limits(written):
    found = written(row("a", group=1), "", row("b", group=1), row("c", group="x"))
    assert found.labelled(None).groups == ("1", "1", "x")
    assert replace(found, limit=2).labelled(None).labels == ("a", "b")
    assert replace(found, limit=9).labelled(None) == found.labelled(None)
    assert not found.sees_images


def test_line_separators_within_a_text_end_no_line(written):
    found = written('{"prompt": "one\u2028line", "label": "a"}\r', row("b"))
    assert found.labelled(None).samples[0].prompt == "one\u2028line"


def test_marks_are_texts_or_spans(written):
    found = written(row("a", marks={"of": "text of", "end": [10, 11]}), row("b"))
    first, second = found.labelled(None).samples
    assert [first.prompt[slice(*first.characters(name))] for name in ("of", "end")] == ["text of", "a"]
    assert second.marks == {}
    tokenizer = HookedModel.load("zoo:scenes").processor
    (moved, _) = replace(found, chat=True).labelled(tokenizer).samples
    assert moved.prompt[slice(*moved.characters("end"))] == "a"
    assert moved.characters("end") != (10, 11)


def test_a_chat_template_writes_prompts(written):
    found = written(row("a"))
    tokenizer = HookedModel.load("zoo:scenes").processor
    sample = LabelledFile(found.path, chat=True).labelled(tokenizer).samples[0]
    assert sample.chat
    assert sample.prompt.endswith("assistant :")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((), "holds no sample"),
        ((row("a"), "{no json"), "line 2: this is not JSON"),
        ((row("a"), "[1]"), "line 2: 'prompt' is missing"),
        (({"prompt": "x"},), "line 1: 'label' is missing"),
        (({"prompt": " ", "label": 1},), "line 1: prompt is ' '"),
        (({"prompt": "x", "label": [1]},), r"line 1: label is \[1\]"),
        ((row("a"), row(1.5)), "stands beside numbers"),
        ((row("a", group="g"), row("b")), "1 of 2 lines have a group"),
        ((row("a", marks=["x"]), row("b")), r"line 1: marks is \['x'\]"),
        ((row("a", marks={"x": [1, "2"]}),), "line 1: marks is"),
        ((row("a"), row("b", marks={"x": "zebra"})), "line 2: mark 'x' .'zebra'. occurs 0 times"),
        ((row("a", marks={"x": [3, 99]}),), r"line 1: mark 'x' is \(3, 99\)"),
        ((row("a", chat="yes"),), "line 1: chat is 'yes'"),
    ],
)
def test_what_is_refused(written, rows, says):
    with pytest.raises(UsageError, match=says):
        written(*rows).labelled(None)


def test_a_file_that_is_not_there(tmp_path):
    found = LabelledFile(tmp_path / "none.jsonl")
    assert not found.sees_images
    with pytest.raises(UsageError, match="cannot be read"):
        found.labelled(None)


def test_labels_for_each():
    with pytest.raises(UsageError, match="1 samples have 2 labels"):
        Labelled((Sample("x"),), ("a", "b"))
    with pytest.raises(UsageError, match="0 samples"):
        Labelled((), ())
