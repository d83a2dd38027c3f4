"""Captions of which one is true: told from the picture by a reader of its own."""

import re
from collections import Counter

import jaxtyping
import numpy as np
import pytest

from headscope import HookedModel, UsageError
from tasks.captions import PLACES, CaptionChoices, captions_of, two_objects
from tasks.choices import ChoiceTask
from tasks.labelled import ProbingSet
from tasks.scene_world import PALETTE
from tests.planted.wording import word_level


class Knowing:
    """A processor that knows every word of the captions; what a vision model's processor is asked for here."""

    def __init__(self, processor) -> None:
        self.processor, self.tokenizer = processor, word_level(["never", *WORDS])

    def __getattr__(self, name: str):
        return getattr(self.processor, name)


WORDS = "the is are not and left right of above below . cup spoon knife fork dog bone bird nest key lock".split()
WORDS += "hammer nail shoe sock lamp book red green blue yellow purple black".split()


@pytest.fixture(scope="module")
def processor():
    return HookedModel.load("zoo:scenes").processor


@pytest.fixture(scope="module")
def knowing(processor):
    return Knowing(processor)


def colour_in(image, box) -> str:
    left, top, right, bottom = map(int, box)
    inside = np.array(image, float)[top:bottom, left:right].reshape(-1, 3) / 255
    return min(PALETTE, key=lambda name: np.sort(np.abs(inside - PALETTE[name]).sum(1))[:8].mean())


def is_true(caption: str, sample) -> bool:
    """Whether a caption says what the image shows: colours by its pixels, places by boxes that lie apart."""
    boxes = {kind: found[0] for kind, found in sample.meta["boxes"].items()}
    if where := re.fullmatch(r"the (\w+) is (left of|right of|above|below) the (\w+)\.", caption):
        a, b = boxes[where[1]], boxes[where[3]]
        return {
            "left of": a[2] <= b[0],
            "right of": a[0] >= b[2],
            "above": a[3] <= b[1],
            "below": a[1] >= b[3],
        }[where[2]]
    said = re.findall(r"the (\w+) is (not )?(\w+)", caption)
    return bool(said) and all(
        (colour_in(sample.images[0], boxes[kind]) == colour) != bool(no) for kind, no, colour in said
    )


@pytest.mark.parametrize("aspect", ["ownership", "relation", "spatial", "negation"])
def test_exactly_one_caption_is_true(knowing, aspect):
    task = CaptionChoices(16, aspect)
    assert isinstance(task, ChoiceTask)
    samples = task.samples(knowing)
    assert len({one.meta["image_id"] for one in samples}) == 16
    for sample in samples:
        options = sample.meta["options"]
        assert [is_true(one, sample) for one in options] == [i == sample.meta["answer"] for i in range(len(options))]
        assert sample.target == options[sample.meta["answer"]]
        assert task.score(sample, sample.target) == 1.0


def test_captions_by_hand():
    scene = two_objects("by hand", "above")
    a, b = scene.things
    assert a.box[3] <= b.box[1]
    found = captions_of(scene, "ownership", "above")
    assert found["true"] == f"the {a.kind} is {a.colour} and the {b.kind} is {b.colour}."
    assert found["swapped"] == f"the {a.kind} is {b.colour} and the {b.kind} is {a.colour}."
    assert found["joined"] == f"the {a.kind} and the {b.kind} are {a.colour} and {b.colour}."
    assert captions_of(scene, "relation", "above")["swapped"] == f"the {b.kind} is above the {a.kind}."
    assert set(captions_of(scene, "spatial", "above")) == set(PLACES)
    assert "not" in captions_of(scene, "negation", "above")["negated"]


def test_places_and_orders_are_balanced(knowing):
    samples = CaptionChoices(80, "spatial").samples(knowing)
    right = Counter(one.meta["kinds"][one.meta["answer"]] for one in samples)
    assert right == dict.fromkeys(PLACES, 20)
    assert min(Counter(one.meta["answer"] for one in samples).values()) >= 8, "no place in the list is favoured"


@pytest.mark.parametrize(("aspect", "each"), [("ownership", 2), ("relation", 2), ("spatial", 2), ("negation", 4)])
def test_as_a_set_for_probes(knowing, aspect, each):
    task = CaptionChoices(12, aspect)
    made = task.labelled(knowing)
    assert isinstance(task, ProbingSet)
    assert Counter(made.labels) == {"true": 6 * each, "false": 6 * each}
    assert set(Counter(made.groups).values()) == {each}
    captions = [sample.prompt.rsplit("assistant :", 1)[1].strip() for sample in made.samples]
    for sample, caption, label in zip(made.samples, captions, made.labels, strict=True):
        assert is_true(caption, sample) == (label == "true")
        assert caption.endswith(".")


def test_words_alone_do_not_tell_what_is_true(knowing):
    made = CaptionChoices(24, "negation").labelled(knowing)
    denied = Counter(zip([" not " in one.prompt for one in made.samples], made.labels, strict=True))
    assert set(denied.values()) == {24}
    made = CaptionChoices(24, "spatial").labelled(knowing)
    said = Counter(
        (place, label)
        for one, label in zip(made.samples, made.labels, strict=True)
        for place in PLACES
        if f" {place} " in one.prompt
    )
    assert set(said.values()) == {6}
    for aspect in ("ownership", "relation"):
        made = CaptionChoices(12, aspect).labelled(knowing)
        for true, false in zip(made.samples[::2], made.samples[1::2], strict=True):
            assert sorted(re.findall(r"\w+", true.prompt)) == sorted(re.findall(r"\w+", false.prompt))


def words_of(caption: str) -> list[str]:
    return sorted(re.findall(r"\w+", caption))


@pytest.mark.parametrize("aspect", ["ownership", "relation", "spatial", "negation"])
def test_the_true_captions_words_in_another_order_are_an_option(knowing, aspect):
    for kept, more in zip(
        CaptionChoices(8, aspect).samples(knowing),
        CaptionChoices(8, aspect, order="beside").samples(knowing),
        strict=True,
    ):
        options = dict(zip(more.meta["kinds"], more.meta["options"], strict=True))
        shuffled = options.pop("shuffled")
        assert options == dict(zip(kept.meta["kinds"], kept.meta["options"], strict=True))
        assert more.target == kept.target == more.meta["options"][more.meta["answer"]]
        assert words_of(shuffled) == words_of(kept.target)
        assert shuffled not in options.values()
        assert shuffled.endswith(".")


@pytest.mark.parametrize("aspect", ["ownership", "relation"])
def test_all_captions_in_another_order_differ_in_nothing_that_could_be_known(knowing, aspect):
    kept, control = CaptionChoices(24, aspect), CaptionChoices(24, aspect, order="shuffled")
    for one, other in zip(kept.samples(knowing), control.samples(knowing), strict=True):
        before, after = (dict(zip(each.meta["kinds"], each.meta["options"], strict=True)) for each in (one, other))
        assert {kind: words_of(text) for kind, text in after.items()} == {
            kind: words_of(text) for kind, text in before.items()
        }
        assert words_of(after["true"]) == words_of(after["swapped"])
        assert len(set(after.values())) == 3
        assert not set(after.values()) & set(before.values())
        assert other.target == after["true"]
    made = control.labelled(knowing)
    assert Counter(made.labels) == {"true": 24, "false": 24}
    for true, false in zip(made.samples[::2], made.samples[1::2], strict=True):
        assert words_of(true.prompt) == words_of(false.prompt)
        assert true.prompt != false.prompt


def test_order_itself_is_a_label(knowing):
    made = CaptionChoices(12, order="beside").labelled(knowing)
    assert Counter(made.labels) == {"kept": 12, "shuffled": 12}
    assert set(Counter(made.groups).values()) == {2}
    for sample, label in zip(made.samples, made.labels, strict=True):
        caption = sample.prompt.rsplit("assistant :", 1)[1]
        assert bool(re.fullmatch(r"the \w+ is \w+ and the \w+ is \w+\.", caption)) == (label == "kept")


def test_seeds(processor):
    first, same, other = (
        [one.target for one in CaptionChoices(8, "negation", seed=seed).samples(processor)] for seed in (0, 0, 1)
    )
    assert first == same != other


def test_what_is_refused(processor, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match="does not know 'left'"):
        CaptionChoices(4, "spatial").samples(processor)
    for options, says in (
        ({"aspect": "smell"}, "is not known"),
        ({"rule": "last_token"}, "is not known"),
        ({"order": "sorted"}, "order 'sorted' is not known; use one of kept, beside, shuffled"),
        ({"n": 0}, "1"),
    ):
        with pytest.raises(UsageError, match=says):
            CaptionChoices(**options)
