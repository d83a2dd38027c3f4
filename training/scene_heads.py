"""How much every head of a scenes model depends on the image, measured and held down while it trains."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from training.scene_data import Packed


@contextmanager
def head_outputs(model: LlavaForConditionalGeneration) -> Iterator[list[Float[Tensor, "scene token head d_head"]]]:
    """A list that is filled, layer by layer, with what every head hands to the output projection."""
    seen: list[Tensor] = []
    heads = model.model.language_model.config.num_attention_heads
    handles = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].unflatten(-1, (heads, -1)))  # a hook that returns None changes nothing
        )
        for layer in model.model.language_model.layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def divergence(z: Float[Tensor, "scene token head d_head"], packed: Packed) -> Float[Tensor, "pair head"]:
    """L2 norm of what the image changes in a head's output, where the same text is said with sight and without."""
    z = z.flatten(0, 1)
    change: Tensor = z[packed.twins[:, 0]] - z[packed.twins[:, 1]]
    return (change.square().sum(-1) + 1e-6).sqrt()  # the small number keeps the gradient at zero finite


def dependence(outputs: list[Float[Tensor, "scene token head d_head"]], packed: Packed) -> Float[Tensor, ""]:
    """Mean over heads of the root mean square of their divergence: a group lasso, which lets go of whole heads.

    In units of the mean norm of a head's output, so that smaller outputs gain nothing.
    """
    change = torch.stack([divergence(z, packed).square().mean(0).sqrt() for z in outputs])
    size = torch.stack([z.detach().norm(dim=-1).mean() for z in outputs]).mean()
    return change.mean() / size
