"""What heads put out on reference text: the material of mean and resample ablation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.hooks import Where
from headscope.model import HookedModel
from headscope.samples import Sample


@dataclass(frozen=True)
class HeadOutputs:
    """z vectors of every head of a stack at many places: layer -> [place head d_head]."""

    outputs: Mapping[int, Float[Tensor, "place head d_head"]]
    n_samples: int


def head_outputs(
    model: HookedModel,
    samples: Sequence[Sample | str],
    *,
    where: Where | None = None,
    places: int = 4096,
    seed: int = 0,
) -> HeadOutputs:
    """Outputs of all heads on `samples`, at up to `places` of their tokens drawn at random.

    `where` narrows the tokens or layers (`Where(positions=(-1,))`: the last token of every prompt). Costs one forward
    pass of the samples; memory is layers x places x heads x d_head.
    """
    everything = torch.cat(model.record(samples, "z", where=where), 1)
    order = torch.randperm(everything.shape[1], generator=torch.Generator().manual_seed(seed))[:places]
    layers = [layer for layer in model.layers(where.stack if where else None) if _asked(where, layer)]
    chosen = everything[:, order.to(everything.device)]
    return HeadOutputs(dict(zip(layers, chosen, strict=True)), len(samples))


def _asked(where: Where | None, layer: int) -> bool:
    return where is None or where.layers is None or layer in where.layers
