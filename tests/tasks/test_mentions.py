"""What a text names, and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.mentions import Mention, find_mentions
from tasks.synonyms import coco_synonyms, named_as

COCO = coco_synonyms()


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("Two men and a dog.", ["person", "dog"]),
        ("A dog, another DOG and three dogs", ["dog", "dog", "dog"]),
        ("a hot dog", ["hot dog"]),
        ("hot-dogs", ["hot dog"]),
        ("it is hot, dogs sleep", ["dog"]),
        ("a hot\n  dog", ["hot dog"]),
        ("a baby elephant", ["elephant"]),
        ("a baby and an elephant", ["person", "elephant"]),
        ("a baby.", ["person"]),
        ("an orange cat eats an orange", ["cat", "orange"]),
        ("a bus at the bus stop", ["bus"]),
        ("a passenger train", ["train"]),
        ("the dining-room table", ["dining table"]),
        ("a teddy bear and a bear", ["teddy bear", "bear"]),
        ("glasses of wine", ["wine glass"]),
        ("children's bicycles", ["person", "bicycle"]),
        ("a jet ski", []),
        ("a concatenation of caterpillars", []),
        ("", []),
        ("!?, 12", []),
    ],
)
def test_categories_in_order(text, categories):
    assert [mention.category for mention in find_mentions(text, COCO)] == categories


def test_places_are_characters_of_the_text():
    text = "Ein Bär? No:  two  Hot-Dogs & PEOPLE."
    found = find_mentions(text, COCO)
    assert found == [Mention("hot dog", 19, 27), Mention("person", 30, 36)]
    assert [text[m.start : m.end] for m in found] == ["Hot-Dogs", "PEOPLE"]


def test_a_table_of_names_only_knows_no_synonyms():
    assert [m.category for m in find_mentions("a dog and a puppy", named_as(["dog", "cat"]))] == ["dog"]


@given(
    st.lists(
        st.sampled_from(["dog", "hot", "dogs", "baby", "and", "wine", "glass", "the", ",", "bus", "stop"]), max_size=12
    )
)
def test_mentions_do_not_overlap_and_stand_in_order(words):
    text = " ".join(words)
    found = find_mentions(text, COCO)
    ends = [0, *(end for m in found for end in (m.start, m.end))]
    assert ends == sorted(ends)
    assert all(COCO.category(text[m.start : m.end]) == m.category for m in found)
