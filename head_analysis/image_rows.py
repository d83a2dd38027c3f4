"""Attention of every head over the tokens of an image, at one word of an answer: what an overlay is drawn from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from head_analysis.forced import answered, head_grid, run
from headscope.hooks import Record, Where
from headscope.model import HookedModel
from headscope.samples import Sample


@torch.no_grad()
def image_rows(
    model: HookedModel, sample: Sample, answer: Sequence[int] = (), *, step: int = 0
) -> Float[Tensor, "layer head token"]:
    """Attention of the query that predicts token `step` of an answer, over the sample's image tokens in their order.

    Weights are those of the whole row, so they sum to the share that the image gets. Costs one pass.
    """
    batch, rows = model.encode([sample]), Record("pattern", Where(positions=(-1,)))
    places = model.image_layout(sample).places
    with model.hooks(rows):
        run(model, answered(model, batch.inputs, [answer[:step]]))
    return head_grid(model, {layer: seen[0][0, :, 0, places].T for layer, seen in rows.seen.items()}).movedim(0, -1)
