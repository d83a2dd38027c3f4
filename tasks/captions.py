"""Captions of which one is true: does a model know which colour is whose, what is beside what, and what "not" means?

As in SNARE (Wang et al. 2023, arXiv 2308.12898), all captions of an image are scored by likelihood and the likeliest is
taken; the share of every kind of caption is reported, since a model that chooses the one with its attributes exchanged as
often as the true one is at chance in another way than one that always chooses the vaguest. The kinds:

ownership  true: each colour with its object; swapped: colours exchanged; joined: both colours behind both objects
relation   true: who is left of whom (or above); swapped: the two exchanged; joined: no relation, only "and"
spatial    the true one of left of, right of, above, below, and the other three
negation   true: both colours affirmed; negated: both denied

With the words of a caption in another order, beside the true one or in place of all (SNARE's "semantic structure", see
`tasks.word_order`), it can be told how much of the choice is a matter of words alone: those of swapped captions are those
of true ones, so that nothing is left to be known of ownership or relation once order is gone.

Of the models that ship, zoo:scenes knows the words of ownership and negation, in any order, and was trained on none of
these captions; captions with a place are refused with the word, `left` or `above`, that it does not know.

Departures: images are synthetic scenes with two objects of different colours, one beside or one above the other, so that
the true caption can be told from the picture without doubt; joined colours lack the word "respectively", which would make
them true as well; captions follow a question as in a chat, since generative
models are asked, not encoders that compare.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from headscope.encoding import tokenizer_of
from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.asking import question_about
from tasks.haystack import refuse_unknown
from tasks.labelled import Labelled
from tasks.scene_world import KINDS, Scene, placed
from tasks.word_order import shuffled_words

Aspect = Literal["ownership", "relation", "spatial", "negation"]
Rule = Literal["likelihood", "mean_likelihood"]
Place = Literal["left of", "right of", "above", "below"]
CaptionOrder = Literal["kept", "beside", "shuffled"]

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
        order: Of the words of captions: `beside` puts the words of the true caption in another order beside it, as one
            more option of the kind `shuffled`; `shuffled` puts those of all captions in another, as a control.
    """

    n: int = 100
    aspect: Aspect = "ownership"
    rule: Rule = "mean_likelihood"
    seed: int = 0
    order: CaptionOrder = "kept"

    sees_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 scene")
        for name, value, known in (
            ("aspect", self.aspect, get_args(Aspect)),
            ("rule", self.rule, get_args(Rule)),
            ("order", self.order, get_args(CaptionOrder)),
        ):
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
        With `order="shuffled"` of ownership, relation and negation not even the picture does; with `order="beside"` it is
        the order that is to be read, of the true caption's words: kept or shuffled. UsageError as for `samples`.
        """
        found, groups = [], []
        for i, sample in enumerate(self.samples(processor)):
            place, scene = self._scene(i)
            blank = "" if sample.chat or sample.prompt[-1:].isspace() else " "
            for caption, label in self._judged(scene, place, PLACES[(i + 1 + i // 4 % 3) % len(PLACES)]).items():
                text = sample.prompt + blank + caption
                found.append(Sample(text, label, images=sample.images, meta=sample.meta, chat=sample.chat))
                groups.append(scene.id)
        return Labelled(tuple(found), tuple(one.target for one in found), tuple(groups))

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer is the true caption, else 0.0."""
        return exact_match(answer, sample.target)

    def _sample(self, i: int, processor: Any) -> Sample:
        place, scene = self._scene(i)
        right = place if self.aspect == "spatial" else "true"
        captions = dict(captions_of(scene, self.aspect, place))
        for caption in captions.values():
            refuse_unknown(caption, tokenizer_of(processor))
        if self.order == "beside":
            captions |= dict(zip(["shuffled"], _reordered([captions[right]], scene), strict=True))
        elif self.order == "shuffled":
            captions = dict(zip(captions, _reordered(captions.values(), scene), strict=True))
        kinds = list(captions)
        random.Random(f"options/{scene.id}").shuffle(kinds)
        options = tuple(captions[kind] for kind in kinds)
        meta = {"options": options, "kinds": tuple(kinds), "answer": kinds.index(right)}
        return question_about(scene.annotated(), QUESTION, processor, target=captions[right], **meta)

    def _judged(self, scene: Scene, place: Place, other: Place) -> Mapping[str, str]:
        """Captions of a scene with their labels, as many of each."""
        if self.order == "beside":
            kept = captions_of(scene, self.aspect, place)[place if self.aspect == "spatial" else "true"]
            return {kept: "kept"} | dict.fromkeys(_reordered([kept], scene), "shuffled")
        found = judged(scene, self.aspect, place, other)
        return found if self.order == "kept" else dict(zip(_reordered(found, scene), found.values(), strict=True))

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


def _reordered(captions: Iterable[str], scene: Scene) -> list[str]:
    """Each with its words in another order: all different, and none that says anything of two such objects."""
    rng, found = random.Random(f"order/{scene.id}"), list[str]()
    for caption in captions:
        found.append(shuffled_words(caption, rng, avoid={*_sayings(scene), *found}))
    return found


def _sayings(scene: Scene) -> set[str]:
    """All captions of the objects of a scene, true or not, whichever is named first."""
    a, b = scene.things
    exchanged = (replace(a, colour=b.colour), replace(b, colour=a.colour))
    named = [pair for both in (scene.things, exchanged) for pair in (both, both[::-1])]
    return {
        caption
        for pair in named
        for aspect in get_args(Aspect)
        for place in PLACES
        for caption in captions_of(Scene(scene.id, pair), aspect, place).values()
    }
