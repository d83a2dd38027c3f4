"""Families that show an image whole and then as one grid of joined tiles: LLaVA-NeXT and LLaVA-OneVision.

The image is fitted into the best of several canvases, whose tiles the tower sees one by one; their tokens are joined to
one grid, the padding around the image is cut off it, and every row of it ends in a token of its own.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import torch
from transformers.image_processing_utils import select_best_resolution

from headscope.images.opening import Size
from headscope.images.views import Axis, Cells, View, option, square_or_size, squashed


def llava_next_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """LLaVA-NeXT: the whole image squashed to a tile, then the joined tiles."""
    return [_whole_and_tiles(config, processor, size) for size in sizes]


def llava_onevision_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """LLaVA-OneVision: as LLaVA-NeXT, the grid thinned out where it has too many tokens.

    Several images in one prompt are padded to squares and shown whole, each with one token after it. The thinning is
    bilinear, so that in a grid thinned by more than two some patches between reach no token.
    """
    if len(sizes) == 1:
        most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
        return [_whole_and_tiles(config, processor, sizes[0], most=most)]
    tile, patch = square_or_size(option(processor, "size")), config.vision_config.patch_size
    squares = [[Axis(length).padded(max(size)) for length in size] for size in sizes]
    cells = [[axis.resized(to).cells(patch) for axis, to in zip(square, tile, strict=True)] for square in squares]
    return [(View(0, rows=rows, columns=columns, after=1),) for columns, rows in cells]


def _whole_and_tiles(config: Any, processor: Any, size: Size, *, most: int | None = None) -> tuple[View, ...]:
    tile = square_or_size(option(processor, "size"))
    patch = config.vision_config.patch_size
    whole = [axis.cells(patch) for axis in squashed(size, tile)]
    height, width = select_best_resolution(size[::-1], option(processor, "image_grid_pinpoints"))
    fitted = _fitted(size, (width, height))
    grid = [
        torch.cat([axis.part(begin, edge).cells(patch) for begin in range(0, axis.length, edge)])
        for axis, edge in zip(fitted, tile, strict=True)
    ]
    columns, rows = _unpadded(grid, size)
    ratio = sqrt(len(rows) * len(columns) / (most * len(whole[1]) ** 2)) if most else 1.0
    if ratio > 1.1:
        columns, rows = (_thinned(cells, int(len(cells) // ratio)) for cells in (columns, rows))
    return View(0, rows=whole[1], columns=whole[0]), View(1, rows=rows, columns=columns, row_ends=True)


def _fitted(size: Size, canvas: Size) -> tuple[Axis, Axis]:
    """The image as large as the canvas allows, in its middle."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    sides = squashed(size, (min(ceil(size[0] * scale), canvas[0]), min(ceil(size[1] * scale), canvas[1])))
    return sides[0].padded(canvas[0]), sides[1].padded(canvas[1])


def _unpadded(grid: list[Cells], size: Size) -> tuple[Cells, Cells]:
    """Columns and rows without as many at either end as the model takes for padding; half a cell may remain."""
    columns, rows = grid
    wide, high = len(columns), len(rows)
    if size[0] / size[1] > wide / high:
        cut = (high - int(round(size[1] * (wide / size[0]), 7))) // 2
        return columns, rows[cut : high - cut]
    cut = (wide - int(round(size[0] * (high / size[1]), 7))) // 2
    return columns[cut : wide - cut], rows


def _thinned(cells: Cells, count: int) -> Cells:
    """That many cells evenly in place of more."""
    edges = torch.cat([cells[:, 0], cells[-1:, 1]])
    at = torch.linspace(0, len(cells), count + 1, dtype=edges.dtype)
    before = at.long().clamp_max(len(cells) - 1)
    new = edges[before] + (at - before) * (edges[before + 1] - edges[before])
    return torch.stack([new[:-1], new[1:]], dim=1)
