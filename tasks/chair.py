"""CHAIR: how many of the objects that a caption names are not in the image.

Rohrbach et al. 2018 (https://arxiv.org/abs/1809.02156), for any annotated images. An object is there if it is annotated
or if a reference caption names it. CHAIR_S is the share of captions with a hallucinated object, CHAIR_I the share of
mentions that are hallucinated (repeats count, all captions together). Departures from the released code: words are made
singular by the rules of `tasks.nouns`, and the table of synonyms is a user's or our own (`tasks.synonyms`), so compare
conditions within one table and prompt, not with published numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from headscope.clusters import Metric, harmonic_mean, ratio
from headscope.errors import UsageError
from headscope.samples import Sample
from tasks.annotated import AnnotatedImage
from tasks.asking import question_about
from tasks.mentions import Mention, find_mentions
from tasks.pope import refuse_twice
from tasks.synonyms import Synonyms, coco_synonyms


@dataclass(frozen=True)
class CHAIR:
    """Captions of annotated images, judged by the objects they name.

    Args:
        images: Annotated images. Their categories must stand in the table of synonyms.
        synonyms: Which words name which category; by default common words for the categories of COCO.
        prompt: What asks for the caption. Numbers depend on it.
        answer_tokens: Most tokens of a caption. Numbers depend on it: longer captions hallucinate more.
        partners: Category -> the category that usually comes with it. If given, the share of hallucinated mentions that
            name the usual partner of an object that is there is told as well.
    """

    sees_images: ClassVar[bool] = True
    stop: ClassVar[tuple[str, ...]] = ()

    images: Sequence[AnnotatedImage] = field(repr=False)
    synonyms: Synonyms = field(default_factory=coco_synonyms, repr=False)
    prompt: str = "Please describe this image in detail."
    answer_tokens: int = 512
    partners: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        if self.answer_tokens < 1:
            raise UsageError(f"answer_tokens is {self.answer_tokens}; allow a caption at least 1 token")
        if not self.prompt.strip():
            raise UsageError("the prompt is empty; say what asks for a caption")
        refuse_twice(self.images)
        for image in self.images:
            self.truth(image)

    def samples(self, processor: Any) -> list[Sample]:
        """A sample an image; the target lists the objects that are there, `meta` has them as `truth`.

        `boxes` in `meta` has the table's names, those of mentions.
        """
        return [self._sample(image, processor) for image in self.images]

    def truth(self, image: AnnotatedImage) -> tuple[str, ...]:
        """Categories that are there, sorted: annotated ones and those that reference captions name."""
        annotated = {self.synonyms.category(category) for category in image.categories}
        return tuple(sorted(annotated | {m.category for caption in image.captions for m in self.mentions(caption)}))

    def mentions(self, text: str) -> list[Mention]:
        """Every object that a text names, with its place."""
        return find_mentions(text, self.synonyms)

    def hallucinated(self, sample: Sample, text: str) -> list[Mention]:
        """Those mentions whose objects are not in the image."""
        return [mention for mention in self.mentions(text) if mention.category not in sample.meta["truth"]]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if nothing is hallucinated, else 0.0; the mean over captions is 1 - CHAIR_S."""
        return float(not self.hallucinated(sample, answer))

    def details(self, sample: Sample, answer: str) -> dict[str, Any]:
        """The objects named and invented, and the counts that the metrics are made of."""
        truth = set(sample.meta["truth"])
        named = [mention.category for mention in self.mentions(answer)]
        invented = [category for category in named if category not in truth]
        expected = {self.partners[category] for category in truth if category in self.partners}
        return {
            "image_id": sample.meta["image_id"],
            "mentioned": ", ".join(sorted(set(named))),
            "invented": ", ".join(sorted(set(invented))),
            "captions": 1,
            "hallucinating": int(bool(invented)),
            "mentions": len(named),
            "hallucinated": len(invented),
            "partner_hallucinated": sum(category in expected for category in invented),
            "covered": len(truth & set(named)),
            "present": len(truth),
            "words": len(answer.split()),
        }

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """CHAIR_S, CHAIR_I, recall of the objects that are there, F1 of (1 - CHAIR_I) and recall, words a caption."""
        found = (
            Metric("CHAIR_S", ("hallucinating", "captions"), ratio),
            Metric("CHAIR_I", ("hallucinated", "mentions"), ratio),
            Metric("recall", ("covered", "present"), ratio),
            Metric("F1", ("hallucinated", "mentions", "covered", "present"), _f1),
            Metric("words", ("words", "captions"), ratio, proportion=False),
        )
        partner = Metric("partner_share", ("partner_hallucinated", "hallucinated"), ratio)
        return (*found, partner) if self.partners else found

    def _sample(self, image: AnnotatedImage, processor: Any) -> Sample:
        truth = self.truth(image)
        named = replace(
            image, things=tuple(replace(t, category=self.synonyms.category(t.category)) for t in image.things)
        )
        return question_about(named, self.prompt, processor, target=", ".join(truth), truth=truth)


def _f1(hallucinated: np.ndarray, mentions: np.ndarray, covered: np.ndarray, present: np.ndarray) -> np.ndarray:
    return harmonic_mean(1 - ratio(hallucinated, mentions), ratio(covered, present))
