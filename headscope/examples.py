"""Inputs on which a model shows all its attention layers, made from what the model itself says it takes."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from headscope.encoding import encode
from headscope.errors import UsageError
from headscope.prompts import asked
from headscope.samples import Sample

TOKENS = 16


def example_inputs(hf: Any, processor: Any = None, *, seed: int = 0) -> Mapping[str, Tensor]:
    """Keyword arguments for one forward pass: random tokens, an image where the model needs or can be given one.

    A vision-language model without a processor gets text only, and its vision tower stays out of sight until an
    `example` is given. UsageError if nothing can be made up.
    """
    takes = inspect.signature(hf.forward).parameters
    generator = torch.Generator().manual_seed(seed)
    inputs: dict[str, Tensor] = {}
    if "input_ids" in takes:
        if "pixel_values" in takes and hasattr(processor, "image_processor"):
            return _picture_and_words(hf, processor)
        vocabulary = hf.get_input_embeddings().num_embeddings if not _is_dual(hf) else hf.config.text_config.vocab_size
        low = min(100, vocabulary // 2)  # special tokens usually come first
        inputs["input_ids"] = torch.randint(low, vocabulary, (1, TOKENS), generator=generator)
        if hf.config.is_encoder_decoder:  # another length than the text, which tells cross attention from the rest
            inputs["decoder_input_ids"] = torch.randint(low, vocabulary, (1, TOKENS // 2), generator=generator)
    if "pixel_values" in takes and (_is_dual(hf) or "input_ids" not in takes):
        vision = getattr(hf.config, "vision_config", hf.config)
        size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
        channels = getattr(vision, "num_channels", 3)
        inputs["pixel_values"] = torch.randn(1, channels, size, size, generator=generator)
    if not inputs:
        raise UsageError(
            f"no example input can be made up for {type(hf).__name__}, which takes {', '.join(takes)}; "
            "pass example={...}, the keyword arguments of one forward pass"
        )
    return {name: value.to(hf.device) for name, value in inputs.items()}


def _is_dual(hf: Any) -> bool:
    """Whether text and image are encoded side by side (CLIP), so that both must be given."""
    return hasattr(hf.config, "projection_dim") and hasattr(hf.config, "vision_config")


def _picture_and_words(hf: Any, processor: Any) -> Mapping[str, Tensor]:
    prompt, chat = asked(processor, "What is in the picture?")
    image = Image.effect_noise((96, 96), 64).convert("RGB")
    return encode([Sample(prompt, images=(image,), chat=chat)], processor, hf.device).inputs
