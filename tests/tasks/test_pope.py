"""POPE: questions by hand for every split, answers read by both rules, metrics by hand."""

import math

import pytest

from headscope import Sample, UsageError
from headscope.samples import Task
from tasks.pope import POPE, answer_of
from tests.tasks.pictures import metrics_of, picture, processor

# dog 4, cup 3, spoon 2, car 2, owl 1; cup comes with spoon twice, with dog twice, with car once.
IMAGES = (
    picture("a", "cup", "spoon"),
    picture("b", "cup", "spoon", "dog"),
    picture("c", "dog", "cup", "car"),
    picture("d", "dog", "car"),
    picture("e", "dog", "owl"),
)


def asked(task: POPE) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for sample in task.samples(processor()):
        found.setdefault(sample.meta["image_id"], []).append((sample.meta["category"], sample.target))
    return found


def test_popular_asks_for_the_most_frequent_absent_objects():
    found = asked(POPE(IMAGES, "popular", per_image=2))
    assert found["a"] == [("cup", "yes"), ("dog", "no"), ("spoon", "yes"), ("car", "no")]
    assert found["b"] == [("cup", "yes"), ("car", "no"), ("spoon", "yes"), ("owl", "no")]
    assert found["e"] == [("dog", "yes"), ("cup", "no"), ("owl", "yes"), ("car", "no")]  # before spoon by the alphabet


def test_adversarial_asks_for_what_comes_with_the_object():
    found = asked(POPE(IMAGES, "adversarial", per_image=2))
    assert found["a"] == [("cup", "yes"), ("dog", "no"), ("spoon", "yes"), ("car", "no")]
    # With dog: cup twice, car twice; cup is more frequent. Owl was never with any that are left: then what is frequent.
    assert found["e"] == [("dog", "yes"), ("cup", "no"), ("owl", "yes"), ("car", "no")]
    assert found["d"] == [("dog", "yes"), ("cup", "no"), ("car", "yes"), ("spoon", "no")]


def test_adversarial_follows_the_object_and_popular_does_not():
    pairs = [picture(f"p{i}", *("ant", "bee") if i < 3 else ("cow", "hay")) for i in range(10)]
    one = picture("x", "ant", "axe")
    popular, adversarial = (
        asked(POPE((*pairs, one), split, per_image=1))["x"][1][0] for split in ("popular", "adversarial")
    )
    assert (popular, adversarial) == ("cow", "bee")


def test_random_asks_for_any_absent_object_and_repeats():
    images = [picture(str(i), "cup", "dog") for i in range(60)] + [picture("z", "ant", "bee", "cow", "hay")]
    found = asked(POPE(images, per_image=2, seed=3))
    assert found == asked(POPE(images, per_image=2, seed=3))
    assert found != asked(POPE(images, per_image=2, seed=4))
    drawn = [row[1][0] for name, row in found.items() if name != "z"]
    assert set(drawn) == {"ant", "bee", "cow", "hay"}
    assert max(map(drawn.count, set(drawn))) < 30
    # What is drawn for an image does not depend on which other images are asked about.
    assert asked(POPE(images[30:], per_image=2, seed=3))["30"] == found["30"]


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_as_many_yes_as_no_and_no_object_twice(split):
    for image in IMAGES:
        rows = asked(POPE(IMAGES, split, per_image=2))[image.id]
        assert [label for _, label in rows] == ["yes", "no"] * 2
        assert [category for category, label in rows if label == "yes"] == list(image.categories[:2])
        assert len({category for category, _ in rows}) == 4
        assert not {category for category, label in rows if label == "no"} & set(image.categories)


def test_images_with_too_few_categories_are_left_out():
    assert list(asked(POPE((*IMAGES, picture("f", "dog", "dog", "dog")), per_image=2))) == list("abcde")
    assert [image.id for image in POPE((*IMAGES, picture("more", "hay", "ant")), per_image=3).asked] == ["b", "c"]
    with pytest.raises(UsageError, match="none of 5 images has 4 categories or more"):
        POPE(IMAGES, per_image=4)


def test_a_reference_says_what_comes_together():
    habit = tuple(picture(f"h{i}", "cup", "owl") for i in range(9))
    found = asked(POPE((picture("a", "cup"), picture("b", "dog", "spoon")), "adversarial", 1, reference=habit))
    assert found["a"] == [("cup", "yes"), ("owl", "no")]


def test_samples_carry_what_analyses_need():
    task = POPE(IMAGES, per_image=2)
    assert isinstance(task, Task)
    sample = task.samples(processor())[0]
    assert isinstance(sample, Sample)
    assert sample.images == (IMAGES[0].image,)
    assert sample.meta["boxes"] == {"cup": [(0, 0, 1, 1)], "spoon": [(1, 0, 2, 1)]}
    assert sample.meta["question"] == "Is there a cup in the image?"
    assert sample.meta["question"] in sample.prompt
    assert (sample.chat, sample.prompt.count("<image>")) == (True, 1)
    assert "image" not in repr(task).replace("per_image", "").replace("the image", "")  # no pixels in a run's settings


@pytest.mark.parametrize(
    ("template", "category", "question"),
    [
        ("Is there a {} in the image?", "apple", "Is there an apple in the image?"),
        ("Is there a {} in the image?", "dog", "Is there a dog in the image?"),
        ("Is there a {} in a image?", "owl", "Is there an owl in a image?"),
        ("A {}?", "owl", "An owl?"),
        ("Do you see an {}?", "dog", "Do you see a dog?"),
        ("Any {}?", "owl", "Any owl?"),
        ("Is there a {} here?", "unicorn", "Is there a unicorn here?"),
    ],
)
def test_the_article_before_the_object_alone_is_changed(template, category, question):
    assert POPE(IMAGES, per_image=1, template=template).question(category) == question


@pytest.mark.parametrize(
    ("text", "stated", "released"),
    [
        ("Yes", "yes", "yes"),
        ("yes, there is a dog. No cat.", "yes", "yes"),
        ("No, there is no dog.", "no", "no"),
        ("no", "no", "no"),
        ("NO", "no", "yes"),
        ("No!", "no", "yes"),
        ("There is not a dog", "no", "no"),
        ("There isn't a dog", "no", "yes"),
        ("Yes. No.", "yes", "yes"),
        ("Yes and no", "no", "no"),
        ("  Yes\n", "yes", "yes"),
        ("There is a dog in the image.", "unparsed", "yes"),
        ("", "unparsed", "yes"),
        (". yes", "unparsed", "yes"),
        ("Nobody knows; a notebook, yesterday", "unparsed", "yes"),
    ],
)
def test_answers_are_read_by_either_rule(text, stated, released):
    assert answer_of(text) == stated
    assert answer_of(text, rule="released") == released


ANSWERS = ["yes", "no", "no", "yes", "Yes.", "yes", "", "hm", "No", "no"]  # to 5 x (present, absent)


def test_metrics_by_hand():
    task = POPE(IMAGES, per_image=1)
    right = [task.score(s, a) for s, a in zip(task.samples(processor()), ANSWERS, strict=True)]
    assert right == [1, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    assert metrics_of(task, ANSWERS) == pytest.approx(
        {
            "accuracy": 0.4,
            "precision": 2 / 4,  # yes was said four times, twice rightly
            "recall": 2 / 5,  # the empty answer missed one
            "F1": 2 * 0.5 * 0.4 / 0.9,
            "yes_ratio": 4 / 8,  # the two unparsed answers are neither
            "unparsed": 0.2,
            "words": 0.9,
        }
    )


def test_the_released_rule_takes_silence_for_yes():
    found = metrics_of(POPE(IMAGES, per_image=1, rule="released"), ANSWERS)
    assert found["recall"] == 3 / 5
    assert found["yes_ratio"] == 0.6
    assert found["unparsed"] == 0


def test_nothing_by_nothing_is_nan():
    found = metrics_of(POPE(IMAGES, per_image=1), [""] * 10)
    assert math.isnan(found["precision"])
    assert math.isnan(found["yes_ratio"])
    assert (found["accuracy"], found["recall"], found["F1"], found["unparsed"]) == (0, 0, 0, 1)
    assert math.isnan(metrics_of(POPE(IMAGES, per_image=1), ["no"] * 10)["precision"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "hard"}, "hard"),
        ({"rule": "loose"}, "loose"),
        ({"per_image": 0}, "per_image is 0"),
        ({"template": "Is there one?"}, "needs one {} where the object stands"),
        ({"template": "{} or {}?"}, "needs one {} where the object stands"),
        ({"images": ()}, "there are no images"),
        ({"images": (*IMAGES, IMAGES[0])}, "image id 'a' is given 2 times"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises((UsageError, TypeError), match=message):  # types are checked before values under pytest
        POPE(**{"images": IMAGES, "per_image": 1} | options)


def test_too_few_absent_categories_are_refused():
    task = POPE([picture("a", "cup", "dog"), picture("b", "cup", "owl")], per_image=2)
    with pytest.raises(UsageError, match="image 'a' lacks only 1 of the 3 categories, fewer than the 2 to ask about"):
        task.samples(processor())
