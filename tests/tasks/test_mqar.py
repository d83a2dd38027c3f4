"""MQAR: texts as the generator of Zoology makes them, questions that an independent reader can answer, refusals."""

from collections import Counter

import jaxtyping
import numpy as np
import pytest

from headscope import UsageError
from headscope.samples import Task, tokenize
from tasks.labelled import ProbingSet
from tasks.mqar import MQAR, _drawn_places, gap_shares
from tests.planted.wording import word_level

WORDS = tuple(f"w{i}" for i in range(40))


@pytest.fixture(scope="module")
def tokenizer():
    return word_level(WORDS)


def recalled(prompt: str, pairs: int) -> str:
    """What stands behind the last word's first place among the pairs."""
    words = prompt.split()
    return dict(zip(words[: 2 * pairs : 2], words[1 : 2 * pairs : 2], strict=True))[words[-1]]


@pytest.mark.parametrize("filler", ["distinct", "released"])
def test_every_question_is_answered_by_its_text(tokenizer, filler):
    task = MQAR(n=12, length=24, pairs=3, words=WORDS, filler=filler)
    samples = task.samples(tokenizer)
    assert isinstance(task, Task)
    assert len(samples) == 12 * 3
    for sample in samples:
        assert recalled(sample.prompt, 3) == sample.target
        assert task.score(sample, f" {sample.target} and more") == 1.0
        assert task.score(sample, "w99") == 0.0
        tokens = tokenize(sample, tokenizer)
        marked = {name: tokenizer.decode(tokens.ids[slice(*span)]) for name, span in tokens.marks.items()}
        assert marked == {"key": sample.prompt.split()[-1], "needle": sample.target}
        assert tokens.marks["key"][1] == tokens.marks["needle"][0]


def test_a_text_asks_for_each_key_once_at_an_even_place(tokenizer):
    for filler in ("distinct", "released"):
        samples = MQAR(n=6, length=32, pairs=4, words=WORDS, filler=filler).samples(tokenizer)
        for i in range(6):
            asked = [one for one in samples if one.meta["text"] == i]
            longest = asked[-1].prompt.split()
            assert sorted(one.prompt.split()[-1] for one in asked) == sorted(longest[:8:2])
            gaps = [one.meta["gap"] for one in asked]
            assert gaps == sorted(set(gaps)), "in the order of the text, none twice"
            for one in asked:
                assert len(one.prompt.split()) == 8 + 2 * (one.meta["gap"] - 1) + 1
                assert longest[: len(one.prompt.split())] == one.prompt.split(), "cut off the same text"
            assert {word in WORDS[:20] for word in longest[:8:2]} == {True}
            assert {word in WORDS[20:] for word in longest[1:8:2]} == {True}
            if filler == "distinct":
                assert all(longest.count(key) == 2 for key in longest[:8:2] if key != longest[-1])


def test_shares_of_places_by_hand():
    assert gap_shares(12, 2, 1.0).tolist() == [0.25] * 4
    assert gap_shares(10, 2, 2.0).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    near = gap_shares(64, 4, 0.01)
    assert near[0] / near[1] == pytest.approx(2**0.99)
    assert len(near) == 28


def test_places_are_drawn_by_their_shares():
    import random

    rng = random.Random(0)
    shares = gap_shares(20, 4, 0.01)
    first = Counter(_drawn_places(shares, 1, rng)[0] for _ in range(4000))
    found = np.array([first[i] for i in range(6)]) / 4000
    assert np.abs(found - shares).max() < 0.03
    every = _drawn_places(shares, 6, rng)
    assert sorted(every) == list(range(6)), "none twice"


def test_the_same_seed_gives_the_same_texts(tokenizer):
    prompts = [[one.prompt for one in MQAR(4, words=WORDS, seed=seed).samples(tokenizer)] for seed in (0, 0, 1)]
    assert prompts[0] == prompts[1]
    assert not set(prompts[0]) & set(prompts[2])
    assert prompts[0][:8] == [one.prompt for one in MQAR(2, words=WORDS).samples(tokenizer)]


def test_as_a_set_for_probes(tokenizer):
    task = MQAR(n=30, length=16, pairs=4, values=4, words=WORDS)
    made = task.labelled(tokenizer)
    assert isinstance(task, ProbingSet)
    assert Counter(made.labels) == dict.fromkeys(WORDS[20:24], 30), "each text has each of the four values once"
    assert Counter(made.groups) == {f"text {i}": 4 for i in range(30)}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": 14, "pairs": 4}, "at least 16"),
        ({"length": 17, "pairs": 4}, "even"),
        ({"a": 0.0}, "above 0"),
        ({"pairs": 0}, "at least 1"),
        ({"n": 0}, "at least 1"),
        ({"values": 3}, "too few for 4 pairs"),
        ({"filler": "none"}, "is not known"),
    ],
)
def test_what_is_refused(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match=says):
        MQAR(**options)


def test_too_few_words(tokenizer):
    with pytest.raises(UsageError, match="keeps 40 of 40 words whole"):
        MQAR(length=128, pairs=20, words=WORDS).samples(tokenizer)
    with pytest.raises(UsageError, match="keeps 0 of"):
        MQAR(words=tuple(f"unheard{i}" for i in range(40))).samples(tokenizer)


def test_the_smallest_that_fits(tokenizer):
    assert len(MQAR(n=1, length=16, pairs=4, words=WORDS).samples(tokenizer)) == 4
