"""What operators know of the tokens of a prompt, found again among the keys of an attention call."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from headscope.errors import UsageError
from headscope.hooks import Context
from headscope.prompting import Prompt


def image_columns(prompt: Prompt, asked: str) -> Bool[Tensor, "sample column"]:
    """Which columns of a prompt are image tokens; UsageError if the model was called without token ids."""
    if prompt.image is None:
        raise UsageError(
            f"{asked} must know which tokens of the prompt stand for the image, but the model was called without "
            "input_ids; call it with token ids instead of inputs_embeds"
        )
    return prompt.image


def prompt_places(prompt: Prompt, columns: Shaped[Tensor, "sample column"]) -> Shaped[Tensor, "sample place"]:
    """What is said of a prompt's columns, by the places of its tokens, padding not counted; 0 behind the last."""
    mask = prompt.inputs.get("attention_mask")
    if mask is None or mask.shape != columns.shape:
        return columns
    moved = torch.zeros_like(columns)
    for sample, real in enumerate(mask.bool().cpu()):
        moved[sample, : int(real.sum())] = columns[sample, real]
    return moved


def at_keys(known: Shaped[Tensor, "sample place"], ctx: Context) -> Shaped[Tensor, "sample key"]:
    """What is known of the places of a prompt, for every key; 0 for keys that are not among these places."""
    places = ctx.key_positions
    inside = (places >= 0) & (places < known.shape[1])
    return known.gather(1, places.clamp(0, known.shape[1] - 1)) * inside


def image_keys(ctx: Context) -> Bool[Tensor, "sample key"]:
    """Keys that are image tokens; UsageError where they are not known."""
    if ctx.image_keys is None:
        ctx.in_region("image")  # says why
    assert ctx.image_keys is not None  # known together with the queries
    return ctx.image_keys
