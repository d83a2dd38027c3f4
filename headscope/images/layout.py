"""Where the image tokens of a sample stand, and which pixels of the image each stands for."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headscope.errors import UsageError
from headscope.images.opening import Size
from headscope.samples import Span

Number = int | float
Box = tuple[Number, Number, Number, Number]
"""Left, top, right and bottom in pixels of the upright image."""


@dataclass(frozen=True)
class ImageLayout:
    """The image tokens of one sample, in their order in the prompt.

    Boxes are what a token stands for by its place: attention inside the vision tower, and the filter with which the
    image was resized, let it know of pixels around its box as well.
    """

    places: Int[Tensor, " token"]
    """Place of each image token in the sample's own tokens, padding not counted."""
    image: Int[Tensor, " token"]
    """Which of the sample's images it belongs to."""
    view: Int[Tensor, " token"]
    """0 for the view of the whole image; 1, 2, ... for tiles, or 1 for all tiles where the model joins them to one."""
    boxes: Float[Tensor, "token 4"]
    """Left, top, right, bottom in pixels of the upright image, cut at its edges; NaN where a token shows no pixel of it
    (padding, class tokens, the ends of rows)."""
    sizes: tuple[Size, ...]
    """Width and height of each upright image."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """For each image, the spans of places (start, end) in which its tokens stand without a gap."""
        return tuple(_runs(self.places[self.image == i].tolist()) for i in range(len(self.sizes)))

    def at(self, x: int, y: int, image: int = 0) -> Int[Tensor, " place"]:
        """Places of the tokens that show a pixel, at most one from each view; a token does if it shows its centre."""
        width, height = self._size(image)
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(f"pixel ({x}, {y}) lies outside image {image}, which is {width} wide and {height} high")
        left, top, right, bottom = self.boxes.unbind(1)
        x_in = (left <= x + 0.5) & (x + 0.5 < right)
        y_in = (top <= y + 0.5) & (y + 0.5 < bottom)
        return self.places[(self.image == image) & x_in & y_in]

    def inside(self, box: Box, image: int = 0) -> Bool[Tensor, " token"]:
        """Whether the centre of each token's box lies in `box`; a box smaller than a token may hold none."""
        self._size(image)
        left, top, right, bottom = box
        if not (left < right and top < bottom):
            raise UsageError(f"box {box} is empty; give left, top, right, bottom with left < right and top < bottom")
        x, y = ((self.boxes[:, :2] + self.boxes[:, 2:]) / 2).unbind(1)
        return (self.image == image) & (left <= x) & (x < right) & (top <= y) & (y < bottom)

    def grid(self, image: int = 0, view: int = 0) -> Int[Tensor, "row column"]:
        """Indices into the layout's tokens, arranged as they lie in one view; rows that show no pixel are left out."""
        self._size(image)
        shown = (self.image == image) & (self.view == view) & ~self.boxes.isnan().any(1)
        if not shown.any():
            has = sorted(set(self.view[self.image == image].tolist()))
            raise UsageError(f"image {image} has no view {view}; its views are {', '.join(map(str, has))}")
        tokens = shown.nonzero().squeeze(1)
        return tokens.reshape(len(self.boxes[tokens, 1].unique()), -1)

    def heat(
        self, values: Float[Tensor, " token"], image: int = 0, *, views: Collection[int] | None = None
    ) -> Float[Tensor, "height width"]:
        """A number of each token spread over the pixels it shows; NaN where no token shows a pixel.

        Within a view a pixel gets the mean over the tokens that show it, weighted by how much of the pixel each shows.
        Where several views show it, each view counts the same, however many tokens it has; `views` picks some.
        """
        width, height = self._size(image)
        if len(values) != len(self):
            raise UsageError(f"{len(values)} values were given for {len(self)} image tokens; give one for each")
        ours = (self.image == image) & ~self.boxes.isnan().any(1)
        total, count = torch.zeros(height, width), torch.zeros(height, width)
        for view in sorted(set(self.view[ours].tolist())):
            if views is not None and view not in views:
                continue
            tokens = ours & (self.view == view)
            left, top, right, bottom = self.boxes[tokens].float().unbind(1)
            rows, columns = _overlap(top, bottom, height), _overlap(left, right, width)
            area = rows.T @ columns
            mean = (rows * values[tokens].to(rows)[:, None]).T @ columns / area
            total += torch.where(area > 0, mean, 0.0)
            count += area > 0
        return total / count

    def _size(self, image: int) -> Size:
        if not 0 <= image < len(self.sizes):
            raise UsageError(f"image {image} was asked for, but the sample has {len(self.sizes)}, counted from 0")
        return self.sizes[image]


def _runs(places: list[int]) -> tuple[Span, ...]:
    starts = [p for i, p in enumerate(places) if i == 0 or places[i - 1] != p - 1]
    ends = [p + 1 for i, p in enumerate(places) if i == len(places) - 1 or places[i + 1] != p + 1]
    return tuple(zip(starts, ends, strict=True))


def _overlap(begin: Float[Tensor, " token"], end: Float[Tensor, " token"], length: int) -> Float[Tensor, "token pixel"]:
    """How much of each pixel along one side lies between begin and end."""
    pixel = torch.arange(length)
    shared = torch.minimum(end[:, None], pixel + 1.0) - torch.maximum(begin[:, None], pixel.float())
    return shared.clamp_min(0)
