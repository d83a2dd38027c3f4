"""A question about an annotated image, as a sample for any vision-language model."""

from typing import Any

from headscope.prompts import asked
from headscope.samples import Sample
from tasks.annotated import AnnotatedImage

Box = tuple[float, float, float, float]


def question_about(image: AnnotatedImage, question: str, processor: Any, *, target: str, **meta: Any) -> Sample:
    """The question in the words of the processor's chat template, with the image before it.

    `meta` holds `image_id`, `question`, `boxes` (category -> its boxes in pixels) and what else is given.
    """
    prompt, chat = asked(processor, question, images=1)
    about = {"image_id": image.id, "question": question, "boxes": boxes(image), **meta}
    return Sample(prompt, target, images=(image.image,), meta=about, chat=chat)


def boxes(image: AnnotatedImage) -> dict[str, list[Box]]:
    """The boxes of every category in an image."""
    found: dict[str, list[Box]] = {category: [] for category in image.categories}
    for thing in image.things:
        found[thing.category].append(thing.box)
    return found
