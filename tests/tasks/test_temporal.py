"""Order in time: the answer follows from the text by a reader of its own, and from nothing less than the whole text."""

import re
from collections import Counter

import jaxtyping
import pytest

from headscope import UsageError
from headscope.samples import tokenize
from tasks.choices import ChoiceTask
from tasks.labelled import ProbingSet
from tasks.prose import OBJECTS, ROLES, VERBS
from tasks.temporal import _TOLD, TemporalOrder
from tests.planted.wording import word_level

FIXED = [text.replace("{", " ").replace("}", " ") for told in _TOLD.values() for text in told]


@pytest.fixture(scope="module")
def tokenizer():
    return word_level(
        [*FIXED, *map(str.lower, FIXED), *ROLES, *OBJECTS, *VERBS, "The the Question: was before after ? Answer:"]
    )


def order(text: str) -> list[str]:
    """The people of a text in the order of time, by the words between them."""
    people = re.findall("|".join(ROLES), text)
    assert len(people) == 2
    if "evening" in text:
        later = text.index("evening") < text.index("morning")
    elif text.startswith("Before "):
        later = True
    elif text.startswith(("After ", "First ")):
        later = False
    else:
        later = " after " in text or "but earlier" in text
    return people[::-1] if later else people


@pytest.mark.parametrize("told", ["connective", "time"])
def test_the_answer_follows_from_the_text(tokenizer, told):
    samples = TemporalOrder(96, told).samples(tokenizer)
    for sample in samples:
        text, question = sample.prompt.split(" Question: ")
        one, relation, other = re.fullmatch(r"was the (\w+) (before|after) the (\w+)\? Answer:", question).groups()
        people = order(text)
        assert {one, other} == set(people)
        true = (people.index(one) < people.index(other)) == (relation == "before")
        assert sample.target == ("yes" if true else "no")
        assert sample.meta["options"][sample.meta["answer"]] == sample.target
        first = sample.prompt[slice(*sample.characters("first"))]
        second = sample.prompt[slice(*sample.characters("second"))]
        assert [people[0] in first, people[1] in second] == [True, True]
        tokenize(sample, tokenizer)


def test_no_part_gives_the_answer_away(tokenizer):
    task = TemporalOrder(240)
    made = task.labelled(tokenizer)
    assert isinstance(task, ProbingSet)
    assert isinstance(task, ChoiceTask)
    assert Counter(made.labels) == {"yes": 120, "no": 120}
    assert set(Counter(zip(made.groups, made.labels, strict=True)).values()) == {20}
    relations = Counter((one.meta["relation"], one.target) for one in made.samples)
    assert set(relations.values()) == {60}
    named_first = []
    for one in made.samples:
        text, question = one.prompt.split(" Question: ")
        asked = question.split()[2]
        named_first.append((re.findall("|".join(ROLES), text)[0] == asked, one.target))
    assert set(Counter(named_first).values()) == {60}
    assert len(Counter(made.groups)) == 6


@pytest.mark.parametrize("told", ["connective", "time"])
def test_shuffled_words_are_the_same_words(tokenizer, told):
    kept, shuffled = (TemporalOrder(24, told, order=order).samples(tokenizer) for order in ("kept", "shuffled"))
    for one, other in zip(kept, shuffled, strict=True):
        (text, question), (moved, same) = (each.prompt.lower().split(" question: ") for each in (one, other))
        assert sorted(re.findall(r"\w+", text)) == sorted(re.findall(r"\w+", moved))
        assert text != moved
        assert (question, one.target, one.meta) == (same, other.target, other.meta)
        assert other.marks == {}


def test_seeds(tokenizer):
    texts = {seed: [one.prompt for one in TemporalOrder(24, seed=seed).samples(tokenizer)] for seed in (0, 1)}
    assert texts[0] == [one.prompt for one in TemporalOrder(48).samples(tokenizer)][:24]
    assert not set(texts[0]) & set(texts[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "at least 1"),
        ({"told": "rumour"}, "is not known"),
        ({"relations": ("during",)}, "are not known"),
        ({"order": "sorted"}, "order 'sorted' is not known"),
    ],
)
def test_what_is_refused(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match=says):
        TemporalOrder(**options)


def test_a_word_that_the_tokenizer_does_not_know():
    with pytest.raises(UsageError, match="does not know 'before'"):
        TemporalOrder().samples(word_level([*ROLES, *OBJECTS, *VERBS, "The the Question: was ? Answer:"]))
