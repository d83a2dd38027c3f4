"""CHAIR on captions whose objects are known."""

import math

import pytest

from headscope import UsageError
from headscope.samples import Task
from tasks.chair import CHAIR
from tasks.mentions import Mention
from tasks.synonyms import named_as
from tests.tasks.pictures import metrics_of, picture, processor

IMAGES = (
    picture("a", "dog", "car", captions=("A man walks his puppy.",)),
    picture("b", "cup"),
    picture("c", "bird", "bird", "bench"),
)
CAPTIONS = [
    "A man and a dog, another dog, and two cats.",  # 4 mentions, 1 hallucinated; covers person and dog of 3
    "A mug with a fork and a fork.",  # 3 mentions, 2 hallucinated; covers cup of 1
    "A nice day.",  # nothing
]


@pytest.fixture(scope="module")
def task():
    return CHAIR(IMAGES)


def test_what_is_there_is_annotated_or_told_by_a_reference_caption(task):
    assert isinstance(task, Task)
    samples = task.samples(processor())
    assert [sample.meta["truth"] for sample in samples] == [("car", "dog", "person"), ("cup",), ("bench", "bird")]
    assert samples[0].target == "car, dog, person"
    assert samples[2].meta["boxes"] == {"bird": [(0, 0, 1, 1), (1, 0, 2, 1)], "bench": [(2, 0, 3, 1)]}
    assert samples[0].meta["image_id"] == "a"
    assert "Please describe this image in detail." in samples[0].prompt


def test_metrics_by_hand(task):
    assert metrics_of(task, CAPTIONS) == pytest.approx(
        {
            "CHAIR_S": 2 / 3,
            "CHAIR_I": 3 / 7,
            "recall": 3 / 6,
            "F1": 2 * (4 / 7) * 0.5 / (4 / 7 + 0.5),
            "words": (10 + 8 + 3) / 3,
        }
    )


def test_details_by_hand(task):
    samples = task.samples(processor())
    assert task.details(samples[0], CAPTIONS[0]) == {
        "image_id": "a",
        "mentioned": "cat, dog, person",
        "invented": "cat",
        "captions": 1,
        "hallucinating": 1,
        "mentions": 4,
        "hallucinated": 1,
        "partner_hallucinated": 0,
        "covered": 2,
        "present": 3,
        "words": 10,
    }
    assert [task.score(s, c) for s, c in zip(samples, CAPTIONS, strict=True)] == [0, 0, 1]


def test_mentions_have_places_and_the_hallucinated_ones_are_told(task):
    (sample, *_) = task.samples(processor())
    text = "A puppy beside two cats."
    assert task.mentions(text) == [Mention("dog", 2, 7), Mention("cat", 19, 23)]
    assert task.hallucinated(sample, text) == [Mention("cat", 19, 23)]
    assert text[19:23] == "cats"


def test_silence_hallucinates_nothing_and_recalls_nothing(task):
    found = metrics_of(task, ["", "", ""])
    assert (found["CHAIR_S"], found["recall"], found["words"]) == (0, 0, 0)
    assert math.isnan(found["CHAIR_I"])
    assert math.isnan(found["F1"])


def test_a_perfect_caption_of_each(task):
    found = metrics_of(task, ["a man, a dog, a car", "a cup", "birds on a bench"])
    assert (found["CHAIR_S"], found["CHAIR_I"], found["recall"], found["F1"]) == (0, 0, 1, 1)


def test_boxes_have_the_names_of_mentions():
    task = CHAIR((picture("a", "Sofa", "dogs"),))
    (sample,) = task.samples(processor())
    assert set(sample.meta["boxes"]) == {"couch", "dog"} == {m.category for m in task.mentions("a dog on a settee")}


def test_the_share_of_usual_partners():
    partners = {"cup": "spoon", "spoon": "cup", "dog": "bone", "bone": "dog"}
    images = (picture("a", "cup", "dog"), picture("b", "spoon"))
    task = CHAIR(images, named_as(partners), partners=partners)
    # spoon is the partner of a cup that is there, dog is no partner of a spoon, a second cup is.
    found = metrics_of(task, ["a cup and a spoon", "a spoon and a dog and a cup"])
    assert found["CHAIR_I"] == 3 / 5
    assert found["partner_share"] == pytest.approx(2 / 3)
    assert "partner_share" not in metrics_of(CHAIR(images, named_as(partners)), ["", ""])


def test_the_table_decides_what_is_an_object():
    task = CHAIR(IMAGES, named_as(["dog", "car", "cup", "bird", "bench"]))
    assert task.truth(IMAGES[0]) == ("car", "dog")  # no person in this table
    assert metrics_of(task, CAPTIONS)["CHAIR_S"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": (picture("x", "gramophone"),)}, "'gramophone' names no category of the synonym table"),
        ({"answer_tokens": 0}, "answer_tokens is 0"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"images": ()}, "there are no images"),
        ({"images": (IMAGES[0], IMAGES[0])}, "image id 'a' is given 2 times"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        CHAIR(**{"images": IMAGES} | options)
