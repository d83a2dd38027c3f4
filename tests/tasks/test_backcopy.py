"""Text whose words follow from the word before, but for copies behind triggers."""

import random

import pytest

from tasks.backcopy import COPIES, chain, copied, followers, written
from tasks.prose import OBJECTS, PLACES, ROLES


def text(seed: int, count: int = 400) -> list[str]:
    return chain(random.Random(seed), count)


def test_every_word_follows_the_word_before_or_is_a_copy():
    table = followers()
    for seed in range(5):
        words = text(seed)
        places = set(copied(words))
        last = "."
        for place, word in enumerate(words):
            if word in COPIES:
                continue
            if place not in places:
                assert word in table[last][0]
            last = word


@pytest.mark.parametrize(("trigger", "class_"), [("yonder", PLACES), ("himself", ROLES), ("itself", OBJECTS)])
def test_behind_a_trigger_stands_the_last_word_of_its_class(trigger, class_):
    met = other = 0
    for seed in range(20):
        words = text(seed)
        for place in (i for i in copied(words) if words[i - 1] == trigger):
            before = [word for word in words[: place - 1] if word in class_]
            assert words[place] == before[-1]
            met += 1
            other += words[place] != words[place - 2]
    assert met > 50
    assert other > 25, "mostly not the word before, or the triggers would all be one"


@pytest.mark.parametrize("trigger", ["again", "indeed"])
def test_behind_the_others_stands_the_word_before(trigger):
    words = text(1, 4000)
    places = [i for i in copied(words) if words[i - 1] == trigger]
    assert len(places) > 20
    assert all(words[i] == words[i - 2] for i in places)


def test_places_of_copies_by_hand():
    words = "the lamp again lamp was old , and the baker himself baker slept indeed".split()
    assert copied(words) == [3, 11]
    assert written(["the", "lamp", ",", "again", "."]) == "the lamp, again."


def test_a_text_is_as_long_as_asked_and_drawn_by_its_seed():
    assert [len(text(0, count)) for count in (1, 7, 50)] == [1, 7, 50]
    assert text(3) == text(3)
    assert text(3) != text(4)
    assert text(3)[:50] == text(3, 50)


def test_no_trigger_is_a_word_of_the_prose():
    assert not set(COPIES) & set(followers())


def test_words_can_be_exchanged_before_they_are_copied():
    words = chain(random.Random(0), 400, exchange=lambda word: "lamp" if word in OBJECTS else word)
    assert {word for word in words if word in OBJECTS} == {"lamp"}
    assert "itself" in words
