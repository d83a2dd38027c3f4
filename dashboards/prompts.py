"""Prompts to look at: those a run was made on, examples for any model, or the reader's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from headscope.errors import UsageError
from headscope.images.opening import open_image
from headscope.literals import parse_call
from headscope.model import HookedModel
from headscope.prompts import asked
from headscope.samples import Sample
from tasks import Needle, Subset
from tasks.scenes import scene_captions

_MOST = 24
_STOP = ("\n",)
_FORMATS = ("PNG", "JPEG", "WEBP")
_EXAMPLES = Needle((64, 128), depths=3)


@dataclass(frozen=True)
class Example:
    """A prompt, and the strings that end an answer to it."""

    sample: Sample
    stop: tuple[str, ...] = _STOP


def task_of(facts: Mapping[str, Any]) -> Needle | None:
    """The needle task that a run says it was made with; None for any other, and for one that reads files."""
    return part_of(facts)[0]


def part_of(facts: Mapping[str, Any]) -> tuple[Needle | None, Subset | None]:
    """That task, and which part of it was asked, None for all of it."""
    config = facts.get("config")
    text = (config.get("task") or config.get("scoring")) if isinstance(config, Mapping) else None
    if not isinstance(text, str):
        return None, None
    try:
        stated = parse_call(text, {"Needle": Needle, "Subset": Subset})
    except UsageError:
        return None, None
    part = stated if isinstance(stated, Subset) else None
    task = stated if part is None else part.task
    if not isinstance(task, Needle) or task.haystack is not None or task.facts:
        return None, None
    return task, part


def examples(model: HookedModel, task: Needle | None) -> dict[str, Example]:
    """Prompts by a label: of the task, or, for models that see, of synthetic scenes.

    Empty without a tokenizer, and where it does not know the words of the examples.
    """
    if model.tokenizer is None:
        return {}
    if model.sees_images:
        scenes = scene_captions(8, seed=0).samples(model.processor)
        return {f"scene {i}": Example(sample) for i, sample in enumerate(scenes)}
    asked_for = task or _EXAMPLES
    try:
        found = asked_for.samples(model.tokenizer)[:_MOST]
    except UsageError:
        return {}
    return {
        f"needle {i}, length {sample.meta['length']}, depth {sample.meta['depth']:.2f}": Example(sample, asked_for.stop)
        for i, sample in enumerate(found)
    }


def own(model: HookedModel, text: str, image: bytes | None = None) -> Example:
    """The reader's own text, as it is, or a question about the reader's own image, as the bytes of its file.

    UsageError for an empty text and for a file that is no image.
    """
    if not text.strip():
        raise UsageError("the text is empty; write at least one word")
    if image is None:
        return Example(Sample(text))
    prompt, chat = asked(model.processor, text, 1)
    return Example(Sample(prompt, images=(_opened(image),), chat=chat))


def _opened(content: bytes) -> Image.Image:
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            return open_image(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"the file cannot be read as an image ({error}); give a PNG, JPEG or WebP file") from error
