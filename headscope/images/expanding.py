"""What a processor makes of prompts with images: ids with image tokens in them, pixels, and where each mark went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from headscope.errors import UsageError
from headscope.samples import Sample, Span, Tokens

_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "offset_mapping")
_OF_TEXT = (*_PER_TOKEN, "text_replacement_offsets", "labels")  # labels, PaliGemma's, would have a loss worked out


@dataclass(frozen=True)
class Expanded:
    """Several prompts, expanded."""

    tokens: tuple[Tokens, ...]
    rows: tuple[Mapping[str, Sequence[int]], ...]
    """For each prompt, what is said of its tokens, without padding."""
    pixels: Mapping[str, Tensor]
    """Inputs for the vision tower, for all prompts together."""


def expanded(samples: Sequence[Sample], images: Sequence[Sequence[Image.Image]], processor: Any) -> Expanded:
    """Prompts with images through the processor, in one call.

    Marks are found through the characters that the processor says it replaced. UsageError where it refuses the
    samples, or cannot say what it replaced.
    """
    chats = {sample.chat for sample in samples}
    if len(chats) > 1:
        raise UsageError(
            "samples with images are prepared together, and some of these are chats and some are not; run them apart"
        )
    marked = any(sample.marks for sample in samples)
    if marked and not getattr(processor.tokenizer, "is_fast", False):
        raise UsageError(
            f"{type(processor.tokenizer).__name__} cannot say which characters a token covers; load a fast tokenizer "
            "(AutoProcessor.from_pretrained(..., use_fast=True))"
        )
    offsets = {"return_offsets_mapping": True, "return_text_replacement_offsets": True} if marked else {}
    try:
        made = processor(
            text=[sample.prompt for sample in samples],
            images=[list(pictures) for pictures in images],
            add_special_tokens=not chats.pop(),
            padding=processor.tokenizer.pad_token is not None,  # PaliGemma's cannot do without
            padding_side="left",
            images_kwargs={"return_tensors": "pt"},  # of the images only: what is said of tokens stays in rows
            **offsets,
        )
    except ValueError as error:
        raise UsageError(f"{type(processor).__name__} does not take these samples: {error}") from error
    padding = [list(mask).index(1) for mask in made["attention_mask"]]
    rows = [{name: list(made[name][i][n:]) for name in _PER_TOKEN if name in made} for i, n in enumerate(padding)]
    replaced = made.get("text_replacement_offsets", [None] * len(samples))
    marks = [_marks(*of_sample, processor) for of_sample in zip(samples, images, rows, replaced, strict=True)]
    return Expanded(
        tuple(Tokens(tuple(map(int, row["input_ids"])), found) for row, found in zip(rows, marks, strict=True)),
        tuple({name: values for name, values in row.items() if name != "offset_mapping"} for row in rows),
        dict(BatchFeature({k: v for k, v in made.items() if k not in _OF_TEXT}, tensor_type="pt")),
    )


def _marks(
    sample: Sample,
    images: Sequence[Image.Image],
    row: Mapping[str, Sequence[Any]],
    replaced: Sequence[Mapping[str, Any]] | None,
    processor: Any,
) -> dict[str, Span]:
    if not sample.marks:
        return {}
    if replaced is None:
        raise UsageError(
            f"marks {', '.join(sample.marks)} cannot be located, because {type(processor).__name__} does not say what it "
            "replaced; leave the marks out, or name places in tokens"
        )
    written = processor.prepare_inputs_layout(images=[list(images)], text=[sample.prompt])[1][0]
    parts = _parts(sample.prompt, written, replaced, processor.image_token)
    offsets = row["offset_mapping"]
    return {mark: _tokens_on(_moved(sample.characters(mark), parts), offsets, mark) for mark in sample.marks}


@dataclass(frozen=True)
class _Part:
    """A placeholder, or the text between two of them: its characters in the prompt and in the expanded text."""

    old: Span
    new: Span
    text: bool


def _parts(prompt: str, written: str, replaced: Sequence[Mapping[str, Any]], placeholder: str) -> list[_Part]:
    """The prompt from its start to its end, a part of text before and after every placeholder.

    The processor starts from `written`. That is the prompt itself, but for processors that put something around the
    text (PaliGemma).
    """
    parts, place, old_end, new_end = [], 0, 0, 0
    ends = [*(change["span"][0] for change in replaced), len(written)]
    for number, (text, end) in enumerate(zip(prompt.split(placeholder), ends, strict=True)):
        begin = new_end + _only(text, written[old_end:end])
        parts.append(_Part((place, place + len(text)), (begin, begin + len(text)), text=True))
        place += len(text)
        if number < len(replaced):
            new, old_end = tuple(replaced[number]["new_span"]), replaced[number]["span"][1]
            new_end = new[1]
            parts.append(_Part((place, place + len(placeholder)), new, text=False))
            place += len(placeholder)
    return parts


def _only(text: str, around: str) -> int:
    """Where a text stands in what the processor made of it; UsageError if it stands there twice, or no more."""
    if text == around or not text:
        return 0
    if around.find(text) < 0 or around.find(text) != around.rfind(text):
        raise UsageError(
            f"the processor rewrote {text!r} as {around!r}, in which marks cannot be located; leave the marks out, or "
            "name places in tokens"
        )
    return around.index(text)


def _moved(characters: Span, parts: Sequence[_Part]) -> Span:
    """Characters of the expanded text; those of a placeholder become all that replaced it."""
    start, end = characters
    touching = [part for part in parts if part.old[0] < end and part.old[1] > start]
    first, last = touching[0], touching[-1]
    before = max(0, start - first.old[0]) if first.text else 0
    after = max(0, last.old[1] - end) if last.text else 0
    return first.new[0] + before, last.new[1] - after


def _tokens_on(characters: Span, offsets: Sequence[Span], mark: str) -> Span:
    start, end = characters
    touching = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    if not touching:
        raise UsageError(f"no token covers mark {mark!r}; give a mark with more than white space in it")
    return touching[0], touching[-1] + 1
