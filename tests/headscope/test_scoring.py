"""Each score has the value that counting by hand gives."""

import pytest

from headscope.errors import UsageError
from headscope.scoring import contains, exact_match, rouge1_recall, words


def test_words_are_lower_case_runs_of_letters_and_digits():
    assert words("The Lamp, room 12_b: don't!") == ["the", "lamp", "room", "12", "b", "don", "t"]
    assert words("Łódź über 東京") == ["łódź", "über", "東京"]
    assert words(" .,!? ") == []


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("old lamp", 1.0),
        (" Old LAMP.", 1.0),
        ("old lamp .", 1.0),
        ("\nold lamp\nQuestion: what else", 1.0),
        ("old lamp. And more.", 1.0),
        ("old, lamp!", 1.0),
        ("old lamp and more", 0.0),  # the answer goes on
        ("the old lamp", 0.0),
        ("lamp old", 0.0),
        ("old", 0.0),
        ("old. lamp", 0.0),  # the first sentence ends too early
        ("old\nlamp", 0.0),
        ("old lamps", 0.0),  # no stemming
        ("", 0.0),
    ],
)
def test_exact_match_compares_the_first_sentence(answer, score):
    assert exact_match(answer, "old lamp") == score


def test_exact_match_allows_sentence_ends_inside_the_target():
    assert exact_match("St. Petersburg. It lies on the Neva.", "St. Petersburg") == 1.0
    assert exact_match("St. Gallen. It lies in the east.", "St. Petersburg") == 0.0
    assert exact_match("3.5 km. Then rest.", "3.5 km") == 1.0
    assert exact_match("Old lamp. More", "Old lamp.") == 1.0


@pytest.mark.parametrize(
    ("answer", "recall"),
    [
        ("a b b c", 1.0),
        ("c b a b and more", 1.0),  # order and additions do not count
        ("a b c", 3 / 4),  # the second b is missing
        ("b b b b", 2 / 4),
        ("A.", 1 / 4),
        ("bs", 0.0),
        ("", 0.0),
    ],
)
def test_rouge1_recall_counts_the_target_words_found(answer, recall):
    assert rouge1_recall(answer, "a b b c") == recall


@pytest.mark.parametrize(
    ("answer", "score"),
    [("It was the old lamp, I think.", 1.0), ("the lamp is old", 0.0), ("golden old lamps", 0.0), ("lamp", 0.0)],
)
def test_contains_wants_the_words_side_by_side(answer, score):
    assert contains(answer, "Old lamp") == score


@pytest.mark.parametrize("metric", [exact_match, rouge1_recall, contains])
def test_target_without_words_is_refused(metric):
    with pytest.raises(UsageError, match="holds no letter or digit"):
        metric("anything", "...")
