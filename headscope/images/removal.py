"""The same prompt without its image: three senses of "removed", for comparisons with and without.

delete          the image tokens are taken out and later tokens move up, as if the prompt had been text all along.
keep_positions  they are taken out, and the tokens that stay keep the positions they had.
blank_image     they stay, and every pixel is the value that the model's normalisation maps to zero.

Text around an image that carries no feature of it (start and end marks, row separators) stays in all three. He et al.
2024 (arXiv 2412.13949) drop the visual tokens and do not say what becomes of positions; `delete` is the default here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from headscope.errors import UsageError

Removal = Literal["delete", "keep_positions", "blank_image"]

_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def image_free(
    hf: Any, inputs: Mapping[str, Any], image: Bool[Tensor, "sample column"], *, removal: Removal = "delete"
) -> dict[str, Tensor]:
    """Tensors for one pass without the image, padded on the left; `image` says which columns are image tokens.

    UsageError for a removal that is not known, and for a prompt that holds nothing but image tokens.
    """
    if removal not in get_args(Removal):
        raise UsageError(f"removal {removal!r} is not known; use one of {', '.join(get_args(Removal))}")
    if removal == "blank_image":
        given = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        return {**given, **{name: _blank(value) for name, value in given.items() if name == "pixel_values"}}
    tokens = token_inputs(inputs)
    image = image.to(tokens["input_ids"].device)
    keep = tokens["attention_mask"].bool() & ~image
    if not keep.any(1).all():
        raise UsageError("a prompt holds nothing but image tokens, so nothing is left without the image; add some text")
    rows = {name: [row[kept] for row, kept in zip(value, keep, strict=True)] for name, value in tokens.items()}
    if removal == "keep_positions":
        positions = _positions(hf, inputs, tokens["attention_mask"])
        axes = [[row[kept] for row, kept in zip(axis, keep, strict=True)] for axis in positions]
        padded = torch.stack([_padded(axis) for axis in axes])
        return {**{name: _padded(value) for name, value in rows.items()}, "position_ids": padded.squeeze(0)}
    return {name: _padded(value) for name, value in rows.items()}


def continued_inputs(inputs: Mapping[str, Tensor], answers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Inputs with each sample's answer behind its prompt, padded on the left to one length again."""
    tokens = token_inputs(inputs)
    device = tokens["input_ids"].device
    real = tokens["attention_mask"].bool()
    extended = {}
    for name, value in tokens.items():
        fill = {"input_ids": None, "attention_mask": 1}.get(name, 0)
        tails = [
            torch.tensor(list(answer), device=device)
            if fill is None
            else torch.full((len(answer),), fill, device=device)
            for answer in answers
        ]
        rows = [torch.cat([row[kept], tail.to(value)]) for row, kept, tail in zip(value, real, tails, strict=True)]
        extended[name] = _padded(rows)
    return {**inputs, **extended}


def with_and_without(
    inputs: Mapping[str, Any], image: Bool[Tensor, "sample column"], hf: Any, *, removal: Removal = "delete"
) -> dict[str, Tensor]:
    """One batch of twice the samples: as they are, then without their images.

    UsageError where the inputs hold image tokens but no pixels.
    """
    if image.any() and not any(_belongs_to_images(name, value) for name, value in inputs.items()):
        raise UsageError(
            f"the prompt has image tokens but no pixels ({', '.join(inputs)}), so it cannot be run with and without its "
            "image; hand the model pixel_values, not images that are encoded already (mm_encoder_outputs)"
        )
    bare = image_free(hf, inputs, image, removal=removal)
    pixels = {name: value for name, value in inputs.items() if _belongs_to_images(name, value)}
    if removal == "blank_image":
        pixels = {name: torch.cat([value, bare[name]]) for name, value in pixels.items()}
    tokens, bare_tokens = token_inputs(inputs), token_inputs(bare)
    both = {name: _padded([*tokens[name], *bare_tokens[name]]) for name in tokens}
    if removal == "keep_positions":
        plain = _positions(hf, inputs, tokens["attention_mask"])
        kept = bare["position_ids"].reshape(len(plain), -1, bare["position_ids"].shape[-1])
        both["position_ids"] = torch.stack([_padded([*a, *b]) for a, b in zip(plain, kept, strict=True)]).squeeze(0)
    return {**both, **pixels}


def token_inputs(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs that have an entry for every token of the prompt, a mask included."""
    found = {name: inputs[name] for name in _TOKEN_INPUTS if isinstance(inputs.get(name), Tensor)}
    found.setdefault("attention_mask", torch.ones_like(found["input_ids"]))
    return found


def _blank(pixels: Tensor) -> Tensor:
    """Pixels of one value. Tiles of nothing but zeros are padding, by which Idefics knows them, and stay so."""
    if pixels.ndim < 4:
        return torch.zeros_like(pixels)
    real = pixels.abs().amax((-3, -2, -1), keepdim=True) > 0
    return torch.where(real, torch.finfo(pixels.dtype).tiny, 0.0).to(pixels).expand_as(pixels).contiguous()


def _belongs_to_images(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and name.startswith(("pixel_", "image_", "batch_num_images"))


def _padded(rows: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_side="left")


def _positions(hf: Any, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
    """Positions the model would give these tokens [axis sample column]; three axes in Qwen-VL, else one."""
    inner = next((module for module in hf.modules() if hasattr(module, "get_rope_index")), None)
    if inner is None or "mm_token_type_ids" not in inputs:
        return (mask.cumsum(1) - 1).clamp_min(0).unsqueeze(0)
    given = {
        name: value for name, value in inputs.items() if name in (*_TOKEN_INPUTS, "image_grid_thw", "video_grid_thw")
    }
    return inner.get_rope_index(**{**given, "attention_mask": mask})[0]
