"""What is in a scene, in which colour and where, as questions whose answers a probe is to read.

Only objects that can be seen are asked about; the hardly visible ones of `tasks.scene_world` could not be read by anyone.
Samples of one scene are one group. zoo:scenes was taught to answer questions of presence and colour; it knows the words
of the question of position as well, but not those of its answers, so these can be read in it and not asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, ClassVar, Literal, get_args

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.asking import question_about
from tasks.labelled import Labelled
from tasks.nouns import with_article
from tasks.scene_world import KINDS, SIZE, Scene, SceneThing, scenes

Aspect = Literal["presence", "colour", "position"]

VISIBLE = 0.4
"""Least contrast of an object that is asked about."""

_SIDES = ("left", "middle", "right")
_QUESTIONS: dict[Aspect, str] = {
    "presence": "Is there {} in the image?",
    "colour": "What colour is the {}?",
    "position": "Where is the {}?",
}


@dataclass(frozen=True)
class SceneProbe:
    """Questions about the visible objects of `n` scenes.

    Args:
        n: Scenes.
        aspect: `presence` (of as many objects that are there as of some that are not: yes, no), `colour`, or `position`:
            in which third of the width an object's middle is (left, middle, right).
        seed: Another seed gives other scenes.
        violating: Whether scenes break the habit of which objects come together.
    """

    n: int = 200
    aspect: Aspect = "presence"
    seed: int = 0
    violating: bool = True

    sees_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.aspect not in get_args(Aspect):
            raise UsageError(f"aspect {self.aspect!r} is not known; use one of {', '.join(get_args(Aspect))}")

    def samples(self, processor: Any) -> list[Sample]:
        """A sample a question; `meta` holds `image_id`, `question`, `boxes` and `category`."""
        found = []
        for scene in scenes(self.n, seed=self.seed, violating=self.violating):
            image = scene.annotated()
            for kind, target in self._asked(scene):
                noun = with_article(kind) if self.aspect == "presence" else kind
                question = _QUESTIONS[self.aspect].format(noun)
                found.append(question_about(image, question, processor, target=target, category=kind))
        return found

    def labelled(self, processor: Any) -> Labelled:
        """The same; the label is the answer, the group the scene."""
        samples = tuple(self.samples(processor))
        return Labelled(samples, tuple(one.target for one in samples), tuple(one.meta["image_id"] for one in samples))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer is the right word, else 0.0."""
        return exact_match(answer, sample.target)

    def _asked(self, scene: Scene) -> Iterator[tuple[str, str]]:
        seen = [thing for thing in scene.things if thing.contrast >= VISIBLE]
        # Objects are absent in turn, so that none is asked about in vain more often than others.
        start = int(scene.id.rsplit("/", 1)[1])
        absent = cycle([kind for kind in (*KINDS[start % len(KINDS) :], *KINDS) if kind not in scene.kinds])
        for thing in seen:
            if self.aspect == "presence":
                yield thing.kind, "yes"
                yield next(absent), "no"
            else:
                yield thing.kind, thing.colour if self.aspect == "colour" else side_of(thing)


def side_of(thing: SceneThing) -> str:
    """The third of the width that the middle of an object lies in."""
    left, _, right, _ = thing.box
    return _SIDES[int((left + right) / 2 * len(_SIDES) / SIZE)]
