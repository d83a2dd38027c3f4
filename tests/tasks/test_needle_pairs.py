"""Pairs of needles: the same tokens but for a name, the answers changing sides, marks where the roles are."""

from dataclasses import replace

import jaxtyping
import pytest

from headscope import UsageError
from headscope.samples import tokenize
from tasks.facts import secret_facts
from tasks.needle_pairs import NeedlePairs
from tasks.prose import CONTENT_WORDS, NAMES, words
from tests.planted.wording import word_level
from training.documents import build_tokenizer

TOKENIZER = build_tokenizer()
PAIRS = NeedlePairs((96, 128), depths=2, repeats=2, n_needles=3, seed=3)


def both(task: NeedlePairs, tokenizer=TOKENIZER):
    return list(zip(task.samples(tokenizer), task.counterfactuals(tokenizer), strict=True))


def words_at(sample, mark: str) -> str:
    return sample.prompt[slice(*sample.characters(mark))]


@pytest.mark.parametrize(("how", "inside"), [("asked", "question"), ("told", "text")])
def test_a_pair_differs_in_two_names_and_nothing_else(how, inside):
    for clean, corrupt in both(replace(PAIRS, counterfactual=how)):
        a, b = tokenize(clean, TOKENIZER), tokenize(corrupt, TOKENIZER)
        differ = [i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y]
        assert len(differ) == 2
        assert a.marks[inside][0] <= differ[0] < a.marks[inside][1]
        assert a.marks == b.marks
        assert len(a.ids) <= 128


def test_what_is_right_for_one_is_wrong_for_the_other():
    for clean, corrupt in both(PAIRS):
        assert (clean.target, clean.meta["foil"]) == (corrupt.meta["foil"], corrupt.target)
        assert clean.target.split()[0] != corrupt.target.split()[0]
        assert clean.target.startswith(" ")
        assert f":{clean.target}." in clean.prompt
        assert f":{corrupt.target}." in clean.prompt


@pytest.mark.parametrize("how", ["asked", "told"])
def test_the_named_fact_is_the_one_that_the_text_tells(how):
    """Read back from the text alone: whose words are they, and are they the target?"""
    for sample in [one for pair in both(replace(PAIRS, counterfactual=how)) for one in pair]:
        name = words_at(sample, "S2")
        told = sample.prompt.split(f"The secret words of {name}:")[1].split(".")[0]
        assert told == sample.target
        assert sample.prompt.endswith(f"Answer: The secret words of {name}:")


def test_marks_stand_at_their_roles():
    for clean, _ in both(PAIRS):
        assert words_at(clean, "S1") == words_at(clean, "S2")
        assert clean.characters("S1")[1] < clean.characters("IO")[0]
        assert words_at(clean, "IO") == clean.target.split()[0]
        assert words_at(clean, "needle") == clean.target.strip()
        marks = tokenize(clean, TOKENIZER).marks
        assert marks["S1+1"] == marks["IO"]  # this tokenizer drops the colon between them
        assert marks["S2"] == marks["END"]


def test_a_tokenizer_that_keeps_colons_has_a_token_between_name_and_answer():
    task = NeedlePairs((96,), depths=1, repeats=2)
    texts = [one.prompt + one.target for pair in both(task) for one in pair]
    everything = [*texts, " ".join(NAMES), " ".join(CONTENT_WORDS), " ".join(words()), " ".join(words()).title()]
    everything += [secret_facts(1, seed=0)[0].question, "and In A Near"]
    tokenizer = word_level(everything)
    for clean, corrupt in both(task, tokenizer):
        a, b = tokenize(clean, tokenizer), tokenize(corrupt, tokenizer)
        assert len(a.ids) == len(b.ids)
        assert words_at(clean, "S1+1") == words_at(clean, "END") == ":"
        assert a.marks["IO"][0] == a.marks["S1"][0] + 2
        assert a.marks["END"] == (len(a.ids) - 1, len(a.ids))


def test_depths_seeds_and_repeats_count():
    task = NeedlePairs((128,), depths=(0.0, 1.0), repeats=2, seed=1)
    samples = task.samples(TOKENIZER)
    assert [sample.meta["depth"] for sample in samples] == [0.0, 1.0, 0.0, 1.0]
    assert [sample.meta["repeat"] for sample in samples] == [0, 0, 1, 1]
    assert len({sample.prompt for sample in samples}) == 4
    assert samples == task.samples(TOKENIZER)
    assert samples != replace(task, seed=2).samples(TOKENIZER)
    assert tokenize(samples[0], TOKENIZER).marks["statement"][0] == 1
    assert task.longest == 128


def test_a_chat_names_nobody_before_the_answer():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}question {{ m['content'] }} answer{% endfor %}"
    task = NeedlePairs((128,), depths=1, repeats=1)
    tokenizer.unk_token = None  # the words of the chat frame are not this tokenizer's
    ((clean, corrupt),) = both(task, tokenizer)
    assert clean.chat
    assert not clean.target.startswith(" ")
    assert words_at(clean, "S2") in words_at(clean, "question")
    assert words_at(clean, "S2") != words_at(corrupt, "S2")
    assert len(tokenize(clean, tokenizer).ids) == len(tokenize(corrupt, tokenizer).ids)


def test_an_answer_is_right_word_for_word():
    task = NeedlePairs((96,), depths=1, repeats=1)
    (sample,) = task.samples(TOKENIZER)
    assert task.score(sample, f"{sample.target.upper()}. And more.") == 1.0
    assert task.score(sample, sample.meta["foil"]) == 0.0


def test_what_makes_no_pair_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    with pytest.raises(UsageError, match="asks for one fact and for another"):
        NeedlePairs(n_needles=1)
    with pytest.raises(UsageError, match="use 'asked' or 'told'"):
        NeedlePairs(counterfactual="swap")
    with pytest.raises(UsageError, match="positive numbers of tokens"):
        NeedlePairs(lengths=(0,))
    with pytest.raises(UsageError, match="too short"):
        NeedlePairs((20,)).samples(TOKENIZER)
    nobody = word_level(["The secret words of nobody are and"])
    with pytest.raises(UsageError, match="keeps 0 of 32 names whole"):
        NeedlePairs().samples(nobody)
