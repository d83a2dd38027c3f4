"""Samples to tensors: tokenised one by one, padded on the left, images through the model's processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from headscope.errors import UsageError
from headscope.images.expanding import Expanded, expanded
from headscope.images.layout import ImageLayout
from headscope.images.opening import Size, open_image
from headscope.images.placing import image_layout
from headscope.samples import Sample, Tokens, tokenize


@dataclass(frozen=True)
class Batch:
    """Padded inputs of several samples, ready for the model's forward."""

    samples: tuple[Sample, ...]
    inputs: Mapping[str, Tensor]
    padding: Int[Tensor, " sample"]
    """Columns of padding on the left of each sample."""
    tokens: tuple[Tokens, ...]
    """Ids and marks of each sample."""
    image_sizes: tuple[tuple[Size, ...], ...]
    """Width and height of each sample's upright images."""

    @property
    def columns(self) -> int:
        """Tokens in a row, padding included."""
        return self.inputs["input_ids"].shape[1]

    def layout_of(self, index: int, config: Any, processor: Any) -> ImageLayout:
        """Where the image tokens of one sample stand, padding not counted; errors as for `image_layout`."""
        return image_layout(config, processor, self.tokens[index].ids, self.image_sizes[index])


def encode(samples: Sequence[Sample], processor: Any, device: torch.device) -> Batch:
    """One batch; UsageError as for `tokens_of`.

    Samples with images and without may be mixed; those with images must all be chats, or none of them.
    """
    images = [_opened(sample, processor) for sample in samples]
    seeing = [i for i, pictures in enumerate(images) if pictures]
    made = Expanded((), (), {})
    if seeing:
        made = expanded([samples[i] for i in seeing], [images[i] for i in seeing], processor)
    tokens = dict(zip(seeing, made.tokens, strict=True))
    rows = dict(zip(seeing, made.rows, strict=True))
    for i, sample in enumerate(samples):
        if i not in rows:
            tokens[i] = _text_tokens(sample, processor)
            rows[i] = _row(tokens[i].ids)
    inputs = _padded([rows[i] for i in range(len(samples))], processor) | dict(made.pixels)
    return Batch(
        tuple(samples),
        {name: value.to(device) for name, value in inputs.items()},
        torch.tensor([inputs["input_ids"].shape[1] - len(tokens[i].ids) for i in range(len(samples))]),
        tuple(tokens[i] for i in range(len(samples))),
        tuple(tuple(picture.size for picture in pictures) for pictures in images),
    )


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, or the processor itself where it is one."""
    return getattr(processor, "tokenizer", processor)


def placeholder_of(processor: Any) -> str | None:
    """What stands for an image in a prompt; None where the processor takes text only."""
    return getattr(processor, "image_token", None) if hasattr(processor, "image_processor") else None


def tokens_of(sample: Sample, processor: Any) -> Tokens:
    """Ids and token spans of one sample.

    A sample with images has the ids that the processor makes, image tokens included, and costs the preparing of its
    images; a mark on an image's placeholder spans all that the processor writes for it. UsageError for a prompt without
    tokens, for a model that was given without a processor, for images that cannot be read or do not match the prompt's
    placeholders, and for marks that cannot be located.
    """
    images = _opened(sample, processor)
    return expanded([sample], [images], processor).tokens[0] if images else _text_tokens(sample, processor)


def layout_of(sample: Sample, config: Any, processor: Any) -> ImageLayout:
    """Where the image tokens of a sample stand and what they show; errors as for `tokens_of` and `image_layout`."""
    sizes = [image.size for image in _opened(sample, processor)]
    return image_layout(config, processor, tokens_of(sample, processor).ids, sizes)


def pad_left(ids: Sequence[Sequence[int]], processor: Any) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [sample token] with padding on the left."""
    return _padded([_row(row) for row in ids], processor)


def _text_tokens(sample: Sample, processor: Any) -> Tokens:
    tokens = tokenize(sample, tokenizer_of(processor))
    if not tokens.ids:
        raise UsageError(f"the prompt {sample.prompt!r} has no tokens; give at least one word")
    return tokens


def _row(ids: Sequence[int]) -> dict[str, Sequence[int]]:
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def _padded(rows: Sequence[Mapping[str, Sequence[int]]], processor: Any) -> dict[str, Tensor]:
    """All that is said of single tokens, padded on the left; 0 where a row does not say it."""
    pad = tokenizer_of(processor).pad_token_id or 0
    width = max(len(row["input_ids"]) for row in rows)
    padded = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        fill = pad if name == "input_ids" else 0
        values = [list(row.get(name, ())) for row in rows]
        padded[name] = torch.tensor([[fill] * (width - len(row)) + row for row in values])
    return padded


def _opened(sample: Sample, processor: Any) -> list[Image.Image]:
    """The sample's images, as many as the prompt has placeholders for."""
    if processor is None:
        raise UsageError(
            "this model was given without a processor, so text cannot be turned into tokens; pass processor= (a "
            "tokenizer or AutoProcessor), or call model.hf(...) with tensors inside model.hooks(...)"
        )
    if sample.images and not hasattr(processor, "image_processor"):
        raise UsageError(
            f"the samples have images but {type(processor).__name__} takes text only; load a vision-language model with "
            "its AutoProcessor"
        )
    placeholder = placeholder_of(processor)
    if placeholder is not None and (count := sample.prompt.count(placeholder)) != len(sample.images):
        raise UsageError(
            f"the prompt has {count} image placeholders ({placeholder}) and the sample {len(sample.images)} images; "
            "give as many of one as of the other, or write the prompt with headscope.prompts.asked"
        )
    return [open_image(image) for image in sample.images]
