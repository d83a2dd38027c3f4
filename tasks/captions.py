"""Captions of which one is true: does a model know which colour is whose, what is beside what, and what "not" means?

As in SNARE (Wang et al. 2023, arXiv 2308.12898), all captions of an image are scored by likelihood and the likeliest is
taken; the share of every kind of caption is reported, since a model that chooses the one with its attributes exchanged as
often as the true one is at chance in another way than one that always chooses the vaguest. The kinds:

ownership  true: each colour with its object; swapped: colours exchanged; joined: both colours behind both objects
relation   true: who is left of whom (or above); swapped: the two exchanged; joined: no relation, only "and"
spatial    the true one of left of, right of, above, below, and the other three
negation   true: both colours affirmed; negated: both denied

Departures: images are synthetic scenes with two objects of different colours, one beside or one above the other, so that
the true caption can be told from the picture without doubt; joined colours lack the word "respectively", which would make
them true as well; captions follow a question as in a chat, since generative
models are asked, not encoders that compare.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from headscope.encoding import tokenizer_of
from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.asking import question_about
from tasks.haystack import refuse_unknown
from tasks.labelled import Labelled
from tasks.scene_world import KINDS, Scene, placed

Aspect = Literal["ownership", "relation", "spatial", "negation"]
Rule = Literal["likelihood", "mean_likelihood"]
Place = Literal["left of", "right of", "above", "below"]

QUESTION = "Please describe this image in detail."
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class CaptionChoices:
    """`n` scenes with their captions; a task of choices, and a set for probes.

    Args:
        n: Scenes; the four places come in turn.
        aspect: What captions differ in, see above.
        rule: How captions are compared; by the mean over tokens where they differ in length.
        seed: Another seed gives other scenes.
    """

    n: int = 100
    aspect: Aspect = "ownership"
    rule: Rule = "mean_likelihood"
    seed: int = 0

    sees_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 scene")
        for name, value, known in (("aspect", self.aspect, get_args(Aspect)), ("rule", self.rule, get_args(Rule))):
            if value not in known:
                raise UsageError(f"{name} {value!r} is not known; use one of {', '.join(known)}")

    def samples(self, processor: Any) -> list[Sample]:
        """A sample a scene; `meta` holds `options`, their `kinds` in the same order, and `answer`.

        UsageError for a tokenizer that does not know a word of a caption.
        """
        return [self._sample(i, processor) for i in range(self.n)]

    def labelled(self, processor: Any) -> Labelled:
        """True and false captions behind the question, as many of each; the label says which, the group is the scene.

        To be read at the last token, the same for all: the full stop. Only the picture tells: the words of false captions
        are those of true ones (of negation there are four, affirmed and denied, with the right colours and exchanged).
        UsageError as for `samples`.
        """
        found, groups = [], []
        for i, sample in enumerate(self.samples(processor)):
            place, scene = self._scene(i)
            blank = "" if sample.chat or sample.prompt[-1:].isspace() else " "
            for caption, label in judged(scene, self.aspect, place, PLACES[(i + 1 + i // 4 % 3) % len(PLACES)]).items():
                text = sample.prompt + blank + caption
                found.append(Sample(text, label, images=sample.images, meta=sample.meta, chat=sample.chat))
                groups.append(scene.id)
        return Labelled(tuple(found), tuple(one.target for one in found), tuple(groups))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer is the true caption, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, processor: Any) -> Sample:
        place, scene = self._scene(i)
        captions = captions_of(scene, self.aspect, place)
        for caption in captions.values():
            refuse_unknown(caption, tokenizer_of(processor))
        kinds = list(captions)
        random.Random(f"options/{scene.id}").shuffle(kinds)
        right = place if self.aspect == "spatial" else "true"
        options = tuple(captions[kind] for kind in kinds)
        meta = {"options": options, "kinds": tuple(kinds), "answer": kinds.index(right)}
        return question_about(scene.annotated(), QUESTION, processor, target=captions[right], **meta)

    def _scene(self, i: int) -> tuple[Place, Scene]:
        place = PLACES[i % len(PLACES)]
        return place, two_objects(f"captions/{self.aspect}/{self.seed}/{i}", place)


def two_objects(key: str, place: Place) -> Scene:
    """A scene of two objects that can be seen well, of different colours, the first at that place of the second.

    One beside the other they share a row, one above the other a column, so that one place alone is right.
    """
    rng = random.Random(key)
    kinds, shared = rng.sample(KINDS, 2), rng.randrange(3)
    ends = sorted(rng.sample(range(3), 2), reverse=place in ("right of", "below"))
    beside = place in ("left of", "right of")
    cells = [3 * shared + end if beside else 3 * end + shared for end in ends]
    while True:
        things = tuple(placed(rng, kind, cell, rng.uniform(0.6, 1.0)) for kind, cell in zip(kinds, cells, strict=True))
        if things[0].colour != things[1].colour:
            return Scene(key, things)


def captions_of(scene: Scene, aspect: Aspect, place: Place) -> Mapping[str, str]:
    """Every kind of caption of a scene with two objects, the first at that place of the second."""
    a, b = scene.things
    if aspect == "ownership":
        return {
            "true": f"the {a.kind} is {a.colour} and the {b.kind} is {b.colour}.",
            "swapped": f"the {a.kind} is {b.colour} and the {b.kind} is {a.colour}.",
            "joined": f"the {a.kind} and the {b.kind} are {a.colour} and {b.colour}.",
        }
    if aspect == "negation":
        return {
            "true": f"the {a.kind} is {a.colour} and the {b.kind} is {b.colour}.",
            "negated": f"the {a.kind} is not {a.colour} and the {b.kind} is not {b.colour}.",
        }
    if aspect == "spatial":
        return {one: f"the {a.kind} is {one} the {b.kind}." for one in PLACES}
    return {
        "true": f"the {a.kind} is {place} the {b.kind}.",
        "swapped": f"the {b.kind} is {place} the {a.kind}.",
        "joined": f"the {a.kind} and the {b.kind}.",
    }


def judged(scene: Scene, aspect: Aspect, place: Place, other: Place) -> Mapping[str, Literal["true", "false"]]:
    """Captions of a scene with whether they are true, as many of each; `other` is a place that is wrong."""
    found = captions_of(scene, aspect, place)
    if aspect == "spatial":
        return {found[place]: "true", found[other]: "false"}
    if aspect != "negation":
        return {found["true"]: "true", found["swapped"]: "false"}
    a, b = scene.things
    exchanged = {
        f"the {a.kind} is {b.colour} and the {b.kind} is {a.colour}.": "false",
        f"the {a.kind} is not {b.colour} and the {b.kind} is not {a.colour}.": "true",
    }
    return {found["true"]: "true", found["negated"]: "false"} | exchanged  # type: ignore[return-value]
