"""Three events: the answer follows from the text by a reader of its own, and from no part of it."""

import re
from collections import Counter

import jaxtyping
import numpy as np
import pytest
import torch

from headscope import HookedModel, UsageError
from headscope.samples import tokenize
from probes import Features, LinearProbe, probe_features
from probes.places import Places
from tasks.choices import ChoiceTask
from tasks.labelled import ProbingSet
from tasks.prose import OBJECTS, ROLES, VERBS
from tasks.temporal import TemporalOrder
from tasks.three_events import _TOLD, ThreeEvents
from tests.planted.wording import word_level

FIXED = [text.replace("{", " ").replace("}", " ") for told in _TOLD.values() for text in told]
ALL = ("first", "second", "last")

# What stands between the people says where they come in time, by the shape of the text: X, Y and Z as they are named.
_SHAPES = {
    r"(X), then (Y), and then (Z)\.": "XYZ",
    r"After (X) but before (Y), (Z)\.": "XZY",
    r"(X) after (Y) but before (Z)\.": "YXZ",
    r"(X) before (Y) but after (Z)\.": "ZXY",
    r"Before (X) but after (Y), (Z)\.": "YZX",
    r"(X), but earlier (Y), and even earlier (Z)\.": "ZYX",
    r"First (X), next (Y), and finally (Z)\.": "XYZ",
    r"First (X), and (Y) at the end, after (Z)\.": "XZY",
    r"(X), though first (Y), and finally (Z)\.": "YXZ",
    r"(X), then (Y), but first of all (Z)\.": "ZXY",
    r"Finally (X), but first (Y), then (Z)\.": "YZX",
    r"Before (X), (Y), and before that, (Z)\.": "ZYX",
}
_TIMES = ("morning", "noon", "evening")


@pytest.fixture(scope="module")
def tokenizer():
    question = "Question: was the first, second or last? Answer: before after Finally First"
    return word_level([*FIXED, *map(str.lower, FIXED), *ROLES, *OBJECTS, *VERBS, "The", question])


def order(text: str) -> list[str]:
    """The people of a text in the order of time."""
    people = re.findall("|".join(ROLES), text)
    assert len(people) == 3
    if "noon" in text:
        times = re.findall("|".join(_TIMES), text)
        return [people[times.index(time)] for time in _TIMES]
    for shape, told in _SHAPES.items():
        if re.fullmatch(re.sub("[XYZ]", "the (?:\\\\w+ ){3}\\\\w+", shape), text, re.IGNORECASE):
            return [people["XYZ".index(name)] for name in told]
    raise AssertionError(text)


@pytest.mark.parametrize("told", ["connective", "time"])
def test_the_answer_follows_from_the_text(tokenizer, told):
    task = ThreeEvents(72, told, ALL)
    assert isinstance(task, ProbingSet)
    assert isinstance(task, ChoiceTask)
    for sample in task.samples(tokenizer):
        text, question = sample.prompt.split(" Question: ")
        (one,) = re.fullmatch(r"was the (\w+) first, second or last\? Answer:", question).groups()
        people = order(text)
        assert sample.target == ALL[people.index(one)]
        assert sample.meta["options"][sample.meta["answer"]] == sample.target
        for name, person in zip(ALL, people, strict=True):
            assert person in sample.prompt[slice(*sample.characters(name))]
        tokenize(sample, tokenizer)


@pytest.mark.parametrize("told", ["connective", "time"])
@pytest.mark.parametrize(("n", "places"), [(48, ("first", "last")), (72, ALL)])
def test_places_on_the_page_say_nothing(tokenizer, n, told, places):
    made = ThreeEvents(n, told, places).labelled(tokenizer)
    assert set(Counter(zip(made.groups, made.labels, strict=True)).values()) == {2}
    assert len(set(made.groups)) == 12
    on_page = []
    for one in made.samples:
        people = re.findall("|".join(ROLES), one.prompt.split(" Question: ")[0])
        on_page.append((people.index(one.meta["asked"]), one.target))
    assert len(set(Counter(on_page).values())) == 1
    assert len(Counter(on_page)) == 3 * len(places)


def bags(texts: list[str]) -> np.ndarray:
    """How often every word stands in every text."""
    words = [Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in texts]
    known = sorted(set().union(*words))
    return np.array([[count[word] for word in known] for count in words], float)


@pytest.mark.parametrize("task", [ThreeEvents(144), TemporalOrder(144), TemporalOrder(144, order="shuffled")])
def test_a_bag_of_words_does_not_tell_the_answer(tokenizer, task):
    made = task.labelled(tokenizer)
    counts = torch.tensor(bags([one.prompt for one in made.samples])).float()
    planted = counts.clone()
    planted[:, 0] = torch.tensor([float(label in ("yes", "first")) for label in made.labels])
    tokens = tuple((i,) for i in range(len(made.samples)))
    read = Features({0: counts, 1: planted}, "resid_post", Places(), tokens, (2, 1))
    labels, groups = list(made.labels), list(made.groups)
    table = probe_features(read, labels, groups=groups, draws=20, probe=LinearProbe(C=0.1)).table
    assert list(table["found"]) == [False, True], "words are not enough, and what is enough is found"
    assert table.loc[0, "accuracy"] < 0.58
    assert table.loc[1, "accuracy"] > 0.85


def test_shuffled_texts_hold_the_same_words_and_no_marks(tokenizer):
    kept, shuffled = (ThreeEvents(24, order=order).samples(tokenizer) for order in ("kept", "shuffled"))
    for one, other in zip(kept, shuffled, strict=True):
        (text, question), (moved, same) = (each.prompt.split(" Question: ") for each in (one, other))
        assert sorted(re.findall(r"\w+", text.lower())) == sorted(re.findall(r"\w+", moved.lower()))
        assert text.lower() != moved.lower()
        assert (question, one.target) == (same, other.target)
        assert moved.endswith(".")
        assert other.marks == {}


def test_seeds(tokenizer):
    texts = {seed: [one.prompt for one in ThreeEvents(24, seed=seed).samples(tokenizer)] for seed in (0, 1)}
    assert texts[0] == [one.prompt for one in ThreeEvents(48).samples(tokenizer)][:24]
    assert not set(texts[0]) & set(texts[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "at least 1"),
        ({"told": "rumour"}, "told 'rumour' is not known"),
        ({"order": "sorted"}, "order 'sorted' is not known; use one of kept, shuffled"),
        ({"places": ("first",)}, "are not known; give two or all of first, second, last"),
        ({"places": ("last", "first")}, "are not known"),
        ({"places": ("first", "third")}, "are not known"),
    ],
)
def test_what_is_refused(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match=says):
        ThreeEvents(**options)


@pytest.mark.parametrize(
    ("task", "word"), [(ThreeEvents(told="time"), "first"), (ThreeEvents(), "then"), (TemporalOrder(), "before")]
)
def test_zoo_needle_lacks_words_of_order(task, word):
    with pytest.raises(UsageError, match=f"does not know '{word}'"):
        task.samples(HookedModel.load("zoo:needle").tokenizer)


def test_zoo_needle_knows_the_times_of_day():
    tokenizer = HookedModel.load("zoo:needle").tokenizer
    for order in ("kept", "shuffled"):
        samples = TemporalOrder(24, "time", ("after",), order=order).samples(tokenizer)
        assert {one.target for one in samples} == {"yes", "no"}
        assert tokenizer.unk_token_id not in {i for one in samples for i in tokenizer(one.prompt).input_ids}
