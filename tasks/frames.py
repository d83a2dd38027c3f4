"""Order of frames: two pictures, each of one object, or their captions; which object came first?

As in T3 (Li et al. 2024, arXiv 2410.06166), which asks a model about clips and about captions of their frames: where it
fails on both, the pictures are not to blame. All objects come first as often as second, and samples of the same two
objects are one group, so that what a probe reads is order, not objects.

zoo:scenes knows all of these words but saw one image at a time when it was trained; zoo:needle refuses them.
"""

import random
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from headscope.encoding import tokenizer_of
from headscope.errors import UsageError
from headscope.prompts import asked
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.haystack import refuse_unknown
from tasks.labelled import Labelled
from tasks.nouns import with_article
from tasks.scene_world import KINDS, Scene, placed

Shown = Literal["images", "captions"]


@dataclass(frozen=True)
class FrameOrder:
    """`n` sequences of two frames, and a question for yes or no: is this object in the first, and that in the second?

    Args:
        n: Sequences; orders and the two ways to ask come in turn, so multiples of 4 are balanced.
        shown: The frames as images, in this order before the question, or as one caption a line.
        seed: Another seed gives other objects.
    """

    n: int = 240
    shown: Shown = "images"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 sequence")
        if self.shown not in get_args(Shown):
            raise UsageError(f"shown {self.shown!r} is not known; use one of {', '.join(get_args(Shown))}")

    @property
    def rule(self) -> Literal["likelihood"]:
        """Answers are compared by their likelihood."""
        return "likelihood"

    @property
    def sees_images(self) -> bool:
        """Whether there are images."""
        return self.shown == "images"

    def samples(self, processor: Any) -> list[Sample]:
        """A sample a sequence; target `yes` or `no`, `meta` holds `frames` (kinds in order) and `asked`.

        UsageError for a tokenizer that does not know a word of a question.
        """
        return [self._sample(i, processor) for i in range(self.n)]

    def labelled(self, processor: Any) -> Labelled:
        """The same; the label is the answer, the group the two objects."""
        samples = tuple(self.samples(processor))
        groups = tuple(" and ".join(sorted(one.meta["frames"])) for one in samples)
        return Labelled(samples, tuple(one.target for one in samples), groups)

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer is the right word, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, processor: Any) -> Sample:
        """Each four in a row show the same two objects: in both orders, asked about in both."""
        pair = _pairs(self.seed)[i // 4 % len(_pairs(self.seed))]
        first, second = pair if i % 2 == 0 else pair[::-1]
        asked_first = i // 2 % 2 == 0
        one, other = (first, second) if asked_first else (second, first)
        question = f"Is {with_article(one)} in image one and {with_article(other)} in image two?"
        images: tuple[Any, ...] = ()
        if self.shown == "images":
            images = tuple(
                _frame(f"frames/{self.seed}/{i}/{j}", kind).image() for j, kind in enumerate((first, second))
            )
        else:
            frames = zip(("one", "two"), (first, second), strict=True)
            said = "\n".join(f"Image {number} shows {with_article(kind)}." for number, kind in frames)
            question = f"{said}\n{question}"
        refuse_unknown(question, tokenizer_of(processor))
        prompt, chat = asked(processor, question, images=len(images))
        target = "yes" if asked_first else "no"
        meta = {
            "frames": (first, second),
            "asked": (one, other),
            "options": ("yes", "no"),
            "answer": int(not asked_first),
        }
        return Sample(prompt, target, images=images, meta=meta, chat=chat)


def _pairs(seed: int) -> list[tuple[str, str]]:
    found = list(combinations(KINDS, 2))
    random.Random(f"frames/{seed}").shuffle(found)
    return found


def _frame(key: str, kind: str) -> Scene:
    """A scene with one object that can be seen well."""
    rng = random.Random(key)
    return Scene(key, (placed(rng, kind, rng.randrange(9), rng.uniform(0.6, 1.0)),))
