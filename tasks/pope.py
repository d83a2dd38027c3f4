"""POPE: yes-or-no questions about objects that are in an image and objects that are not.

Li et al. 2023 (https://arxiv.org/abs/2305.10355), for any annotated images. Departures from the released code: an answer
that says neither yes nor no is `unparsed` and wrong, where the code counts it as yes, the empty answer included
(`rule="released"` offers that); only the article before the object becomes `an`, where the code's replacement makes `an
image` of `a image` as well; ties between equally frequent objects go by the alphabet.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from headscope.clusters import Metric, ratio
from headscope.errors import UsageError
from headscope.samples import Sample
from tasks.annotated import AnnotatedImage
from tasks.asking import question_about
from tasks.nouns import with_article

Split = Literal["random", "popular", "adversarial"]
Rule = Literal["stated", "released"]
Answer = Literal["yes", "no", "unparsed"]

_DENIAL = re.compile(r"\b(no|not|cannot)\b|n['\u2019]t\b")
_YES = re.compile(r"\byes\b")


@dataclass(frozen=True)
class POPE:
    """Questions about the first objects of every image, each followed by one about an object that is not there.

    Args:
        images: Annotated images; those with fewer than `per_image` categories are left out.
        split: Where the absent objects come from: any other category (`random`), the most frequent one (`popular`), or
            the one that most often comes with the object of the question before (`adversarial`). No object is asked
            about twice of one image.
        per_image: Objects asked about that are there, and as many that are not.
        seed: Decides the random split.
        template: The question, with {} for the object; `a {}` becomes `an {}` before a vowel sound.
        reference: Images whose annotations say what is frequent and what comes together; by default the same images.
        rule: How an answer is read, see `answer_of`.
    """

    sees_images: ClassVar[bool] = True
    stop: ClassVar[tuple[str, ...]] = (".",)

    images: Sequence[AnnotatedImage] = field(repr=False)
    split: Split = "random"
    per_image: int = 3
    seed: int = 0
    template: str = "Is there a {} in the image?"
    reference: Sequence[AnnotatedImage] = field(default=(), repr=False)
    rule: Rule = "stated"

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "reference", tuple(self.reference))
        for name, value, known in (("split", self.split, get_args(Split)), ("rule", self.rule, get_args(Rule))):
            if value not in known:
                raise UsageError(f"{name} {value!r} is not known; choose one of {', '.join(known)}")
        if self.per_image < 1:
            raise UsageError(f"per_image is {self.per_image}; ask about at least 1 object of each image")
        if self.template.count("{}") != 1:
            raise UsageError(f"template {self.template!r} needs one {{}} where the object stands")
        refuse_twice(self.images)
        if not self.asked:
            raise UsageError(
                f"none of {len(self.images)} images has {self.per_image} categories or more; give other images or a "
                "smaller per_image"
            )

    @property
    def asked(self) -> tuple[AnnotatedImage, ...]:
        """The images that are asked about."""
        return tuple(image for image in self.images if len(image.categories) >= self.per_image)

    def samples(self, processor: Any) -> list[Sample]:
        """Two samples an object, image by image: target `yes` for one that is there, then `no` for one that is not.

        `meta` holds `image_id`, `question`, `category` and `boxes`. UsageError if an image leaves too few categories
        that are absent from it.
        """
        counts = _Counts.of(self.reference or self.images)
        known = sorted({category for image in (*self.images, *self.reference) for category in image.categories})
        return [
            question_about(image, self.question(category), processor, target=label, category=category)
            for image in self.asked
            for category, label in self._objects(image, known, counts)
        ]

    def question(self, category: str) -> str:
        """The question about one category."""
        template = re.sub(r"\b[Aa]n? \{\}", lambda found: f"{'A' if found[0][0] == 'A' else ''}{{}}", self.template)
        if template == self.template:
            return self.template.format(category)
        noun = with_article(category)
        return template.replace("A{}", noun.capitalize()).replace("{}", noun)

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 for the right word, else 0.0."""
        return float(answer_of(answer, rule=self.rule) == sample.target)

    def details(self, sample: Sample, answer: str) -> dict[str, Any]:
        """What was asked, how the answer was read, and the counts that the metrics are made of."""
        said, label = answer_of(answer, rule=self.rule), sample.target
        return {
            "image_id": sample.meta["image_id"],
            "category": sample.meta["category"],
            "said": said,
            "questions": 1,
            "right": int(said == label),
            "true_yes": int(said == label == "yes"),
            "false_yes": int(said == "yes" != label),
            "missed_yes": int(label == "yes" != said),
            "said_yes": int(said == "yes"),
            "said_no": int(said == "no"),
            "unparsed": int(said == "unparsed"),
            "words": len(answer.split()),
        }

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, precision, recall and F1 of `yes`, the share of `yes` among parsed answers, and of unparsed ones."""
        return (
            Metric("accuracy", ("right", "questions"), ratio),
            Metric("precision", ("true_yes", "false_yes"), lambda true, false: ratio(true, true + false)),
            Metric("recall", ("true_yes", "missed_yes"), lambda true, missed: ratio(true, true + missed)),
            Metric("F1", ("true_yes", "false_yes", "missed_yes"), _f1),
            Metric("yes_ratio", ("said_yes", "said_no"), lambda yes, no: ratio(yes, yes + no)),
            Metric("unparsed", ("unparsed", "questions"), ratio),
            Metric("words", ("words", "questions"), ratio, proportion=False),
        )

    def _objects(self, image: AnnotatedImage, known: list[str], counts: "_Counts") -> Iterable[tuple[str, Answer]]:
        rng = random.Random(f"pope/{self.seed}/{image.id}")
        absent = [category for category in known if category not in image.categories]
        if len(absent) < self.per_image:
            raise UsageError(
                f"image {image.id!r} lacks only {len(absent)} of the {len(known)} categories, fewer than the "
                f"{self.per_image} to ask about; give images with more categories, or a smaller per_image"
            )
        for present in image.categories[: self.per_image]:
            yield present, "yes"
            if self.split == "random":
                chosen = rng.choice(absent)
            elif self.split == "popular":
                chosen = min(absent, key=lambda category: (-counts.single[category], category))
            else:
                chosen = min(absent, key=lambda category: counts.together_first(present, category))
            absent.remove(chosen)
            yield chosen, "no"


def answer_of(text: str, *, rule: Rule = "stated") -> Answer:
    """What an answer says: `yes`, `no`, or `unparsed`.

    Read is the text before the first full stop, without commas, in lower case. It says `no` if it holds the word no, not,
    cannot or one in n't; else `yes` if it holds the word yes; else it is unparsed, as is an empty one. With
    `rule="released"` it says `no` if its words, parted by spaces, hold No, no or not, and otherwise `yes`.
    """
    first = text.split(".")[0].replace(",", "")
    if rule == "released":
        return "no" if {"No", "no", "not"} & set(first.split(" ")) else "yes"
    if _DENIAL.search(first.lower()):
        return "no"
    return "yes" if _YES.search(first.lower()) else "unparsed"


def refuse_twice(images: Iterable[AnnotatedImage]) -> None:
    """UsageError if two images have the same id, or there is none."""
    times = Counter(image.id for image in images)
    if not times:
        raise UsageError("there are no images; give at least one")
    name, count = times.most_common(1)[0]
    if count > 1:
        raise UsageError(
            f"image id {name!r} is given {count} times; results are told apart by it, so give each its own"
        )


class _Counts(NamedTuple):
    """In how many images a category is, and in how many two are together."""

    single: Counter[str]
    together: Counter[tuple[str, str]]

    @classmethod
    def of(cls, images: Iterable[AnnotatedImage]) -> "_Counts":
        single: Counter[str] = Counter()
        together: Counter[tuple[str, str]] = Counter()
        for image in images:
            single.update(image.categories)
            together.update(permutations(image.categories, 2))
        return cls(single, together)

    def together_first(self, present: str, category: str) -> tuple[int, int, str]:
        """Sorts what comes most often with the present object first, then what is frequent."""
        return -self.together[present, category], -self.single[category], category


def _f1(true: Any, false: Any, missed: Any) -> Any:
    return ratio(2 * true, 2 * true + false + missed)
