"""Coloured objects: one layout for all prompts, the right colour where the marks say, counterfactuals of another
thing."""

from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from headscope import Task, UsageError
from headscope.samples import tokenize
from tasks.colored_objects import _ASKED, _EXAMPLE, COLOURS, OBJECTS, SURFACES, ColoredObjects
from tests.planted.wording import word_level

MARKS = ("C1", "O1", "C2", "O2", "C3", "O3", "O", "END")
FIELDS = dict.fromkeys(("C1", "O1", "C2", "O2", "C3", "O3", "O", "C", "surface"), "")
FIXED = (_EXAMPLE.format(**FIELDS), _ASKED.format(**FIELDS))
CAPITALS = tuple(colour.capitalize() for colour in COLOURS)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return word_level([*FIXED, *OBJECTS, *COLOURS, *CAPITALS, *SURFACES])


def test_every_prompt_has_the_same_layout(words):
    task = ColoredObjects(n=40)
    assert isinstance(task, Task)
    tokens = [tokenize(sample, words) for sample in (*task.samples(words), *task.counterfactuals(words))]
    assert len({tuple(sorted(one.marks.items())) for one in tokens}) == 1
    assert len({len(one.ids) for one in tokens}) == 1
    assert set(tokens[0].marks) == set(MARKS)
    assert tokens[0].marks["END"][1] == len(tokens[0].ids)
    assert all(words.unk_token_id not in one.ids for one in tokens)


def test_the_target_is_the_colour_of_the_thing_asked_about(words):
    for sample in ColoredObjects(n=40).samples(words):
        tokens = tokenize(sample, words)
        word = {mark: words.decode(tokens.ids[slice(*tokens.marks[mark])]) for mark in MARKS}
        asked = sample.meta["asked"]
        assert word["O"] == word[f"O{asked}"]
        assert sample.target == f" {word[f'C{asked}'].capitalize()}"
        wrong = tuple(f" {word[f'C{i}'].capitalize()}" for i in (1, 2, 3) if i != asked)
        assert sample.meta["foils"] == wrong
        assert sample.meta["foil"] in wrong
        assert len({word[f"C{i}"] for i in (1, 2, 3)}) == len({word[f"O{i}"] for i in (1, 2, 3)}) == 3


def test_the_example_is_solved_rightly(words):
    for sample in ColoredObjects(n=40).samples(words):
        example = sample.prompt.split("\n\n")[0]
        listed, question, answer = example.split("\n")
        thing, colour = question.split()[-1].rstrip("?"), answer.split()[-1]
        assert f"one {colour.lower()} {thing}" in listed


def test_counterfactuals_ask_about_another_thing(words):
    task = ColoredObjects(n=40)
    for clean, corrupt in zip(task.samples(words), task.counterfactuals(words), strict=True):
        a, b = tokenize(clean, words), tokenize(corrupt, words)
        assert [i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y] == [a.marks["O"][0]]
        assert corrupt.target == clean.meta["foil"]
        assert corrupt.meta["foil"] == clean.target


def test_all_three_things_are_asked_about_about_as_often(words):
    asked = Counter(sample.meta["asked"] for sample in ColoredObjects(n=300).samples(words))
    assert set(asked) == {1, 2, 3}
    assert min(asked.values()) > 70


def test_the_same_seed_gives_the_same_prompts(words):
    assert ColoredObjects(n=5).samples(words) == ColoredObjects(n=9).samples(words)[:5]
    assert ColoredObjects(n=5).samples(words) != ColoredObjects(n=5, seed=1).samples(words)


def test_an_answer_is_right_if_it_begins_with_the_colour(words):
    task = ColoredObjects(n=1)
    (sample,) = task.samples(words)
    assert task.score(sample, sample.target) == task.score(sample, f"{sample.target.lower()}.\n") == 1.0
    assert task.score(sample, sample.meta["foil"]) == task.score(sample, "") == 0.0


def test_words_that_are_not_one_token_are_left_out(words):
    few = word_level([*FIXED, *OBJECTS[:3], *COLOURS, *CAPITALS[:4], *SURFACES])
    samples = ColoredObjects(n=30).samples(few)
    assert {word for s in samples for word in s.target.split()} == set(CAPITALS[:4])
    with pytest.raises(UsageError, match=r"keeps 2 of the objects whole \(book, pen\); three are needed"):
        ColoredObjects().samples(word_level([*FIXED, *OBJECTS[:2], *COLOURS, *CAPITALS, *SURFACES]))
    with pytest.raises(UsageError, match="keeps 1 of the colours whole"):
        ColoredObjects().samples(word_level([*FIXED, *OBJECTS, *COLOURS, "Red", *SURFACES]))
    with pytest.raises(UsageError, match="n is 0"):
        ColoredObjects(n=0)
