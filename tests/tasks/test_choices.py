"""Questions with options: what they ask, what files may hold, and what is refused."""

import json
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from headscope import UsageError
from headscope.samples import Task
from tasks.choice_sets import SecretChoices
from tasks.choices import Choices, ChoiceTask, Classification, Question, read_choices, read_classification
from tests.head_analysis.planted import planted_tokenizer
from training.documents import build_tokenizer

SKY = Question("What colour is the sky?", ("red", "blue", "green"), 1)


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", "utf-8")
    return path


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_letters_are_asked_for_behind_the_listed_options():
    (sample,) = Choices((SKY,)).samples(planted_tokenizer())
    assert sample.prompt == "What colour is the sky?\nA. red\nB. blue\nC. green\nAnswer:"
    assert sample.meta["options"] == ("A", "B", "C")
    assert (sample.meta["answer"], sample.target, sample.chat) == (1, "B", False)
    assert [Choices((SKY,)).score(sample, answer) for answer in ("B", "b.", "A", "blue")] == [1, 1, 0, 0]


def test_options_compared_by_likelihood_are_not_listed():
    (sample,) = Choices((SKY,), "mean_likelihood").samples(planted_tokenizer())
    assert (sample.prompt, sample.target) == (SKY.prompt, "blue")
    assert sample.meta["options"] == SKY.options


def test_a_chat_template_writes_the_question():
    tokenizer = planted_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    (sample,) = Choices((SKY,), "likelihood").samples(tokenizer)
    assert (sample.prompt, sample.chat) == ("[What colour is the sky?]", True)


def test_choices_and_classifications_are_tasks():
    for task in (Choices((SKY,)), Classification((SKY,)), SecretChoices()):
        assert isinstance(task, Task)
        assert isinstance(task, ChoiceTask)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [1, "blue", "B"])
def test_an_answer_may_be_a_place_a_text_or_a_letter(tmp_path, answer):
    row = {"prompt": SKY.prompt, "options": list(SKY.options), "answer": answer}
    assert read_choices(written(tmp_path, row, "", row)) == (SKY, SKY)


def test_a_text_goes_before_a_letter(tmp_path):
    row = {"prompt": "Which letter follows A?", "options": ["B", "A"], "answer": "B"}
    assert read_choices(written(tmp_path, row))[0].answer == 0


def test_labels_are_named_by_their_verbalisers(tmp_path):
    path = written(tmp_path, {"prompt": "Good film. It was", "label": 1}, {"prompt": "Bad film. It was", "label": "0"})
    found = read_classification(path, {"0": "terrible", "1": "great"})
    assert [question.options for question in found] == [("terrible", "great")] * 2
    assert [question.answer for question in found] == [1, 0]


GOOD = {"prompt": "p", "options": ["a", "b"], "answer": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"line 2: this is not JSON .*write one object a line"),
        ("[1]", r"line 2: 'prompt' is missing; give prompt, options, answer"),
        ({"prompt": "p", "options": ["a", "b"]}, r"line 2: 'answer' is missing"),
        (GOOD | {"options": "ab"}, r"line 2: options is 'ab'; give a list of texts"),
        (GOOD | {"options": ["a", 3]}, r"line 2: options is \['a', 3\]"),
        (GOOD | {"options": ["a"]}, r"line 2: 1 options were given; a choice needs at least 2"),
        (GOOD | {"options": ["a", "a "]}, r"line 2: option 'a' is empty or given twice"),
        (GOOD | {"options": ["a", " "]}, r"line 2: option '' is empty"),
        (GOOD | {"answer": 2}, r"line 2: the answer is option 2, but there are options 0 to 1"),
        (GOOD | {"answer": -1}, r"line 2: the answer is option -1"),
        (GOOD | {"answer": "C"}, r"line 2: answer 'C' is no option"),
        (GOOD | {"answer": True}, r"line 2: answer True is no option"),
        (GOOD | {"prompt": 7}, r"line 2: prompt is 7; give a text"),
        (GOOD | {"prompt": " "}, r"line 2: the prompt is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    with pytest.raises(UsageError, match=message):
        read_choices(written(tmp_path, GOOD, row))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.jsonl cannot be read"):
        read_choices(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="holds no question"):
        read_choices(written(tmp_path, ""))
    with pytest.raises(UsageError, match=r"line 1: label 'c' has no verbaliser; those with one are a, b"):
        read_classification(written(tmp_path, {"prompt": "p", "label": "c"}), {"a": "x", "b": "y"})


def test_tasks_that_make_no_sense_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="no question was given"):
        Choices(())
    other = Question("p", ("x", "y"), 0)
    with pytest.raises(UsageError, match=r"one question has classes .*use Choices where options differ"):
        Classification((SKY, other))
    many = Question("p", tuple(map(str, range(27))), 0)
    with pytest.raises(UsageError, match=r"27 options, more than there are letters"):
        Choices((many,))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="rule 'best' is not known; use one of last_token, likelihood"):
        Choices((SKY,), "best")


# -- made up on the spot ---------------------------------------------------------------------------------------------


def test_secret_choices_name_words_that_all_stand_in_the_text():
    tokenizer = build_tokenizer()
    samples = SecretChoices(n=12, options=3, length=160).samples(tokenizer)
    for sample in samples:
        options, name = sample.meta["options"], sample.meta["question"].split()[-1].rstrip("?")
        assert len(set(options)) == 3
        assert sample.target == options[sample.meta["answer"]]
        assert f"The secret words of {name}: {sample.target} " in sample.prompt
        assert all(f": {option} " in sample.prompt for option in options)
        assert len(tokenizer(sample.prompt)["input_ids"]) <= 160
        assert sample.prompt.endswith(f"The secret words of {name}:")
    assert len({sample.meta["answer"] for sample in samples}) == 3
    assert samples == SecretChoices(n=12, options=3, length=160).samples(tokenizer)
    assert samples != SecretChoices(n=12, options=3, length=160, seed=1).samples(tokenizer)


def test_labels_make_it_a_classification():
    labels = ("lamp", "harbor", "golden")
    samples = SecretChoices(n=12, labels=labels).samples(build_tokenizer())
    assert {sample.meta["options"] for sample in samples} == {labels}
    assert {sample.target for sample in samples} == set(labels)
    assert all(all(f": {label} " in sample.prompt for label in labels) for sample in samples)
    assert SecretChoices().score(samples[0], f" {samples[0].target} and more") == 1
    assert SecretChoices().score(samples[0], "nothing") == 0


def test_sets_that_cannot_be_made_are_refused():
    with pytest.raises(UsageError, match="0 samples with 2 options"):
        SecretChoices(n=0)
    with pytest.raises(UsageError, match="32 samples with 1 options"):
        SecretChoices(options=1)
    for labels in (("lamp", "lamp"), ("lamp", "golden ring")):
        with pytest.raises(UsageError, match="are not all different and one word each"):
            SecretChoices(labels=labels)
    with pytest.raises(UsageError, match=r"take \d+ tokens, more than length 40; ask for a longer one"):
        SecretChoices(length=40).samples(build_tokenizer())
