"""Geometry of what a vision tower is shown: an image resized, padded, cropped and cut into cells of a token each."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import UnsupportedModelError
from headscope.images.opening import Size

Cells = Float[Tensor, "_ 2"]
"""Where cells begin and end along one side of the image, in its pixels."""


@dataclass(frozen=True)
class Axis:
    """One side of a prepared image: its pixel p shows pixel (p + start) / scale of the image that was given."""

    length: int
    scale: float = 1.0
    start: float = 0.0

    def resized(self, length: int) -> "Axis":
        """Stretched or shrunk to a length."""
        factor = length / self.length
        return Axis(length, self.scale * factor, self.start * factor)

    def padded(self, length: int) -> "Axis":
        """Padded on both ends, the odd pixel at the end."""
        return replace(self, length=length, start=self.start - (length - self.length) // 2)

    def cropped(self, length: int) -> "Axis":
        """The centre; padded if it is shorter, the odd pixel at the beginning."""
        return self.part((self.length - length) // 2, length)

    def part(self, begin: int, length: int) -> "Axis":
        """The pixels from `begin` on."""
        return replace(self, length=length, start=self.start + begin)

    def cells(self, step: int) -> Cells:
        """Cells of `step` pixels, as many as fit; what is left over at the end is seen by no token."""
        begin = torch.arange(self.length // step, dtype=torch.float64) * step
        return (torch.stack([begin, begin + step], dim=1) + self.start) / self.scale


@dataclass(frozen=True)
class View:
    """A grid of tokens, row by row, with the tokens around it that stand for no place."""

    number: int
    rows: Cells
    columns: Cells
    before: int = 0
    """Tokens before the grid: class tokens."""
    row_ends: bool = False
    """Whether a token ends every row."""
    after: int = 0

    def boxes(self) -> Float[Tensor, "token 4"]:
        """Left, top, right, bottom of every token, beyond the image too where the grid reaches beyond it."""
        columns = torch.cat([self.columns, torch.full((int(self.row_ends), 2), torch.nan)])
        shape = (len(self.rows), len(columns), 2)
        x, y = columns.expand(shape), self.rows[:, None].expand(shape)
        grid = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1).flatten(0, 1)
        nowhere = [torch.full((count, 4), torch.nan) for count in (self.before, self.after)]
        return torch.cat([nowhere[0], grid, nowhere[1]])


def squashed(size: Size, to: Size) -> tuple[Axis, Axis]:
    """Width and height of an image resized to another size, whatever that does to its shape."""
    return Axis(size[0]).resized(to[0]), Axis(size[1]).resized(to[1])


def option(processor: Any, name: str) -> Any:
    """What the processor asks of its image processor, or else the image processor's own setting."""
    asked = getattr(processor, "images_kwargs", {})
    return asked.get(name, getattr(processor.image_processor, name, None))


def side(size: Any, name: str) -> int | None:
    """One entry of the size in an image processor's config, None where it has none."""
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


def square_or_size(size: Any) -> Size:
    """Width and height from a size that names both, or the shortest edge of a square."""
    edge = side(size, "shortest_edge")
    width, height = (edge, edge) if edge else (side(size, "width"), side(size, "height"))
    if not width or not height:
        raise UnsupportedModelError(
            f"an image processor with size {size} is not known; width and height, or the shortest edge, were expected. "
            "Please report the model"
        )
    return width, height


def shown(processor: Any, size: Size) -> tuple[Axis, Axis]:
    """Width and height of an image padded to a square, resized and cropped, each where the processor does so."""
    sides = Axis(size[0]), Axis(size[1])
    if option(processor, "do_pad") and hasattr(processor.image_processor, "pad_to_square"):
        sides = sides[0].padded(max(size)), sides[1].padded(max(size))
    if option(processor, "do_resize"):
        sides = _resized(sides, option(processor, "size"))
    if option(processor, "do_center_crop"):
        crop = square_or_size(option(processor, "crop_size"))
        sides = sides[0].cropped(crop[0]), sides[1].cropped(crop[1])
    return sides


def _resized(sides: tuple[Axis, Axis], size: Any) -> tuple[Axis, Axis]:
    edge = side(size, "shortest_edge")
    if not edge:
        width, height = square_or_size(size)
        return sides[0].resized(width), sides[1].resized(height)
    shortest = min(axis.length for axis in sides)
    width, height = (edge if a.length == shortest else int(edge * a.length / shortest) for a in sides)
    return sides[0].resized(width), sides[1].resized(height)
