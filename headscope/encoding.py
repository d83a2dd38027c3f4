"""Samples to tensors: tokenised one by one, padded on the left, images through the model's processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.errors import UsageError
from headscope.samples import Sample, Tokens, tokenize


@dataclass(frozen=True)
class Batch:
    """Padded inputs of several samples, ready for the model's forward."""

    samples: tuple[Sample, ...]
    inputs: Mapping[str, Tensor]
    padding: Int[Tensor, " sample"]
    """Columns of padding on the left of each sample."""

    @property
    def columns(self) -> int:
        """Tokens in a row, padding included."""
        return self.inputs["input_ids"].shape[1]


def encode(samples: Sequence[Sample], processor: Any, device: torch.device) -> Batch:
    """One batch; UsageError as for `tokens_of`, or if the samples have images and the processor takes none."""
    if any(sample.images for sample in samples):
        inputs = _with_images(samples, processor)
    else:
        inputs = pad_left([tokens_of(sample, processor).ids for sample in samples], processor)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    padding = inputs["attention_mask"].int().argmax(1).cpu()
    return Batch(tuple(samples), inputs, padding)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, or the processor itself where it is one."""
    return getattr(processor, "tokenizer", processor)


def tokens_of(sample: Sample, processor: Any) -> Tokens:
    """Ids and token spans of one sample.

    A sample with images has the ids that the processor makes, image tokens included; marks in it cannot be located
    (UsageError), because the processor writes text that the prompt does not hold. UsageError also for a prompt without
    tokens, and for a model that was given without a processor.
    """
    if processor is None:
        raise UsageError(
            "this model was given without a processor, so text cannot be turned into tokens; pass processor= (a "
            "tokenizer or AutoProcessor), or call model.hf(...) with tensors inside model.hooks(...)"
        )
    if not sample.images:
        tokens = tokenize(sample, tokenizer_of(processor))
        if not tokens.ids:
            raise UsageError(f"the prompt {sample.prompt!r} has no tokens; give at least one word")
        return tokens
    if sample.marks:
        raise UsageError(
            f"marks {', '.join(sample.marks)} cannot be located in a sample with images; leave the marks out, or name "
            "places in tokens"
        )
    return Tokens(tuple(_with_images([sample], processor)["input_ids"][0].tolist()), {})


def pad_left(ids: Sequence[Sequence[int]], processor: Any) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [sample token] with padding on the left."""
    pad = tokenizer_of(processor).pad_token_id
    width = max(map(len, ids))
    rows = [[0 if pad is None else pad] * (width - len(row)) + list(row) for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def _with_images(samples: Sequence[Sample], processor: Any) -> dict[str, Tensor]:
    if not hasattr(processor, "image_processor"):
        raise UsageError(
            f"the samples have images but {type(processor).__name__} takes text only; load a vision-language model with "
            "its AutoProcessor"
        )
    return dict(
        processor(
            text=[sample.prompt for sample in samples],
            images=[list(sample.images) for sample in samples],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
    )
