"""Questions about scenes: answers checked against the pixels and boxes of what is there."""

from collections import Counter

import jaxtyping
import numpy as np
import pytest

from headscope import HookedModel, UsageError
from tasks.labelled import ProbingSet
from tasks.scene_probes import VISIBLE, SceneProbe, side_of
from tasks.scene_world import PALETTE, SceneThing, scenes


@pytest.fixture(scope="module")
def processor():
    return HookedModel.load("zoo:scenes").processor


def test_colours_are_those_of_the_pixels(processor):
    samples = SceneProbe(40, "colour").samples(processor)
    right = 0
    for sample in samples:
        (box,) = sample.meta["boxes"][sample.meta["category"]]
        left, top, lower_right, bottom = map(int, box)
        inside = np.array(sample.images[0], float)[top:bottom, left:lower_right].reshape(-1, 3) / 255
        distance = {name: np.sort(np.abs(inside - colour).sum(1))[:8].mean() for name, colour in PALETTE.items()}
        right += min(distance, key=distance.__getitem__) == sample.target
    assert right / len(samples) > 0.9, "all but a few faint ones"


def test_positions_are_thirds_of_the_width(processor):
    assert [side_of(SceneThing("cup", "red", (x, 0, x + 12, 12), 1.0)) for x in (0, 24, 48)] == [
        "left",
        "middle",
        "right",
    ]
    for sample in SceneProbe(30, "position").samples(processor):
        (box,) = sample.meta["boxes"][sample.meta["category"]]
        middle = (box[0] + box[2]) / 2
        bounds = {"left": (0, 64 / 3), "middle": (64 / 3, 128 / 3), "right": (128 / 3, 64)}[sample.target]
        assert bounds[0] <= middle < bounds[1]


def test_as_many_are_there_as_not(processor):
    task = SceneProbe(60)
    made = task.labelled(processor)
    assert isinstance(task, ProbingSet)
    assert Counter(made.labels)["yes"] == Counter(made.labels)["no"] > 60
    for sample in made.samples:
        assert (sample.meta["category"] in sample.meta["boxes"]) == (sample.target == "yes")
        assert f"Is there a {sample.meta['category']} in the image?" in sample.prompt
    absent = Counter(one.meta["category"] for one in made.samples if one.target == "no")
    assert len(absent) == 16
    assert set(made.groups) <= {f"violating/0/{i}" for i in range(60)}


def test_only_what_can_be_seen_is_asked_about(processor):
    seen = sum(thing.contrast >= VISIBLE for scene in scenes(50, seed=3, violating=False) for thing in scene.things)
    hidden = sum(thing.contrast < VISIBLE for scene in scenes(50, seed=3, violating=False) for thing in scene.things)
    assert hidden > 0
    assert len(SceneProbe(50, "colour", seed=3, violating=False).samples(processor)) == seen


def test_what_is_refused(processor, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match="is not known"):
        SceneProbe(aspect="weight")
    with pytest.raises(UsageError, match="at least 1"):
        SceneProbe(0).samples(processor)
    with pytest.raises(UsageError, match="takes text only"):
        SceneProbe(2).samples(HookedModel.load("zoo:needle").tokenizer)
