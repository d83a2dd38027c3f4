"""Tasks on synthetic scenes: yes-or-no questions, captions, colours. Made from a seed, with nothing to download.

In scenes that violate the prior no object's usual partner is there, so an object made up from habit can be told.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from headscope.clusters import Metric, ratio
from headscope.samples import Sample
from tasks.annotated import AnnotatedImage, Thing
from tasks.asking import question_about
from tasks.chair import CHAIR
from tasks.pope import POPE, Split
from tasks.scene_world import COLOURS, KINDS, PARTNERS, Scene, SceneThing, scenes
from tasks.synonyms import named_as

_USUAL = 500
"""Scenes that follow the prior, from which is counted what comes with what."""


def scene_pope(
    n: int = 500, split: Split = "random", *, seed: int = 0, violating: bool = True, per_image: int = 2
) -> POPE:
    """POPE on `n` scenes; what is frequent and comes together is counted on scenes that follow the prior.

    So in scenes that violate it the adversarial negative is the usual partner of the object asked about before. Objects
    are asked about in the order of captions, which says nothing of how well they can be seen.
    """
    usual = tuple(
        AnnotatedImage(scene.id, None, _things(scene)) for scene in scenes(_USUAL, seed=seed, violating=False)
    )
    images = tuple(_annotated(scene) for scene in scenes(n, seed=seed, violating=violating))
    return POPE(images, split, per_image, seed, reference=usual)


def scene_captions(n: int = 500, *, seed: int = 0, violating: bool = True, answer_tokens: int = 48) -> CHAIR:
    """CHAIR on captions of `n` scenes, with the share of hallucinations that are the usual partner of what is there."""
    images = tuple(_annotated(scene) for scene in scenes(n, seed=seed, violating=violating))
    return CHAIR(images, named_as(KINDS), answer_tokens=answer_tokens, partners=PARTNERS)


def scene_colours(n: int = 500, *, seed: int = 0, violating: bool = True) -> "SceneColours":
    """The colour of every object in `n` scenes."""
    return SceneColours(n, seed, violating)


@dataclass(frozen=True)
class SceneColours:
    """Asks for the colour of every object of `n` scenes, the hardly visible ones included; see `contrast` in `meta`."""

    sees_images: ClassVar[bool] = True

    n: int = 500
    seed: int = 0
    violating: bool = True
    template: str = "What colour is the {}?"

    def samples(self, processor: Any) -> list[Sample]:
        """A sample an object; `meta` holds `image_id`, `question`, `boxes`, `category` and `contrast`."""
        return [
            question_about(
                image,
                self.template.format(thing.kind),
                processor,
                target=thing.colour,
                category=thing.kind,
                contrast=thing.contrast,
            )
            for scene in scenes(self.n, seed=self.seed, violating=self.violating)
            for image in (scene.annotated(),)
            for thing in scene.things
        ]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the right colour is named and no other, else 0.0."""
        named = {word for word in re.findall(r"[a-z]+", answer.lower()) if word in COLOURS}
        return float(named == {sample.target})

    def details(self, sample: Sample, answer: str) -> dict[str, Any]:
        """What was asked, and the counts that the metrics are made of."""
        return {
            "image_id": sample.meta["image_id"],
            "category": sample.meta["category"],
            "contrast": sample.meta["contrast"],
            "questions": 1,
            "right": int(self.score(sample, answer)),
            "words": len(answer.split()),
        }

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, and words an answer."""
        return (
            Metric("accuracy", ("right", "questions"), ratio),
            Metric("words", ("words", "questions"), ratio, proportion=False),
        )


def _annotated(scene: Scene) -> AnnotatedImage:
    return replace(scene.annotated(), things=_things(scene))


def _things(scene: Scene) -> tuple[Thing, ...]:
    """In the order of captions."""
    return tuple(map(_thing, sorted(scene.things, key=lambda thing: KINDS.index(thing.kind))))


def _thing(drawn: SceneThing) -> Thing:
    left, top, right, bottom = map(float, drawn.box)
    return Thing(drawn.kind, (left, top, right, bottom))
