"""The layout of a sample's image tokens, by the rules of the model's family."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import UnsupportedModelError, UsageError
from headscope.images.families import FAMILIES
from headscope.images.layout import ImageLayout
from headscope.images.opening import Size


def image_token_id(config: Any) -> int | None:
    """Id of the token that stands for a piece of an image in the model's input; None for a model without images."""
    found = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((token for token in found if token is not None), None)


def image_layout(config: Any, processor: Any, ids: Sequence[int], sizes: Sequence[Size]) -> ImageLayout:
    """Where the image tokens among `ids` stand and what they show, for images of these sizes (width, height).

    `ids` are the tokens that the processor made of one sample, without padding, and the sizes those of its upright
    images. Nothing is run: the places follow from the sizes and the settings of model and processor. Raises
    UnsupportedModelError for a model type whose order of tokens is not known, UsageError where the number of image
    tokens is not what such images give.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedModelError(
            f"the order of image tokens is not known for model type {config.model_type!r} (known: "
            f"{', '.join(FAMILIES)}); add a function to headscope/images/families and name it in FAMILIES there"
        )
    views = family(config, processor, sizes)
    wanted = image_token_id(config)
    places = torch.tensor([place for place, token in enumerate(ids) if token == wanted], dtype=torch.long)
    boxes = [_cut(view.boxes(), size) for shown, size in zip(views, sizes, strict=True) for view in shown]
    counts = [len(box) for box in boxes]
    if sum(counts) != len(places):
        raise UsageError(
            f"there are {len(places)} image tokens, but {config.model_type} makes {sum(counts)} of images of sizes "
            f"{list(sizes)} with these settings; give the processor that belongs to the model, and its own tokens"
        )
    numbers = [(image, view.number) for image, shown in enumerate(views) for view in shown]
    image, view = (torch.tensor(n, dtype=torch.long) for n in (zip(*numbers, strict=True) if numbers else ((), ())))
    lengths = torch.tensor(counts, dtype=torch.long)
    return ImageLayout(
        places,
        image.repeat_interleave(lengths),
        view.repeat_interleave(lengths),
        torch.cat([*boxes, torch.zeros(0, 4)]),
        tuple(sizes),
    )


def _cut(boxes: Float[Tensor, "token 4"], size: Size) -> Float[Tensor, "token 4"]:
    """Boxes cut at the edges of the image; NaN where nothing is left."""
    width, height = size
    cut = boxes.clamp(torch.zeros(4), torch.tensor([width, height] * 2)).float()
    shown = (cut[:, 0] < cut[:, 2]) & (cut[:, 1] < cut[:, 3])  # not so of NaN
    cut[~shown] = torch.nan
    return cut
