"""Vision-aware head divergence (He et al. 2024, arXiv 2412.13949, eq. 3): how much a head depends on the image."""

from jaxtyping import Float
from torch import Tensor


def divergence(
    z_with: Float[Tensor, "*place head d_head"], z_without: Float[Tensor, "*place head d_head"]
) -> Float[Tensor, "*place head"]:
    """L2 distance of every head's output with and without the image, before W_O; in the units of z."""
    return (z_with.float() - z_without.float()).norm(dim=-1)
