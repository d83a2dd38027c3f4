"""Order of frames: answers follow from the frames, and objects say nothing of them."""

import re
from collections import Counter

import jaxtyping
import numpy as np
import pytest

from headscope import HookedModel, UsageError
from tasks.frames import FrameOrder
from tasks.labelled import ProbingSet
from tasks.scene_world import PALETTE


@pytest.fixture(scope="module")
def vision() -> HookedModel:
    return HookedModel.load("zoo:scenes")


def test_captions_answer_the_question(vision):
    for sample in FrameOrder(40, "captions").samples(vision.processor):
        shown = dict(re.findall(r"Image (one|two) shows an? (\w+)\.", sample.prompt))
        asked = re.search(r"Is an? (\w+) in image one and an? (\w+) in image two\?", sample.prompt).groups()
        assert sample.target == ("yes" if asked == (shown["one"], shown["two"]) else "no")
        assert set(asked) == set(shown.values())
        assert sample.images == ()


def test_images_come_in_order(vision):
    samples = FrameOrder(8).samples(vision.processor)
    again = FrameOrder(8).samples(vision.processor)
    for sample, same in zip(samples, again, strict=True):
        assert sample.prompt.count("<image>") == 2
        assert [np.array(one).tobytes() for one in sample.images] == [np.array(one).tobytes() for one in same.images]
        asked = re.search(r"Is an? (\w+) in image one and an? (\w+) in image two\?", sample.prompt).groups()
        assert sample.target == ("yes" if asked == sample.meta["frames"] else "no")
        for image in sample.images:
            colours = np.array(image, float).reshape(-1, 3) / 255
            nearest = min(np.abs(colours - np.array(colour)).sum(1).min() for colour in PALETTE.values())
            assert nearest < 0.9, "there is an object to be seen"
    out = vision.forward(samples[:2])
    assert len(out.logits) == 2


def test_objects_say_nothing_of_the_answer(vision):
    task = FrameOrder(240, "captions")
    made = task.labelled(vision.processor)
    assert isinstance(task, ProbingSet)
    assert Counter(made.labels) == {"yes": 120, "no": 120}
    assert set(Counter(zip(made.groups, made.labels, strict=True)).values()) == {2}
    assert len(set(made.groups)) == 60
    by_first = Counter((one.meta["frames"][0], one.target) for one in made.samples)
    assert all(by_first[kind, "yes"] == by_first[kind, "no"] for kind, _ in by_first)


@pytest.mark.parametrize(("options", "says"), [({"n": 0}, "at least 1"), ({"shown": "sounds"}, "is not known")])
def test_what_is_refused(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match=says):
        FrameOrder(**options)


def test_images_need_a_model_that_sees():
    with pytest.raises(UsageError, match=r"takes text only|does not know"):
        FrameOrder(4).samples(HookedModel.load("zoo:needle").tokenizer)
