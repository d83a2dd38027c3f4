"""Families that show an image as tiles and then whole: Idefics3 and InternVL."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from headscope.images.opening import Size
from headscope.images.views import View, option, side, square_or_size, squashed


def idefics3_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """Idefics3: tiles row by row, then the whole image; a small image, or one not split, is shown whole only."""
    edge = side(option(processor, "max_image_size"), "longest_edge") or config.vision_config.image_size
    step = config.vision_config.patch_size * config.scale_factor
    return [_tiled(size, _idefics3_canvas(processor, size, edge), (edge, edge), step) for size in sizes]


def internvl_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """InternVL: the tiles of the canvas nearest in shape, row by row, then the whole image; a single tile is that."""
    tile = square_or_size(option(processor, "size"))
    patch = config.vision_config.patch_size
    step = int((patch if isinstance(patch, int) else patch[0]) / config.downsample_ratio)
    return [_tiled(size, _internvl_canvas(processor, size, tile), tile, step) for size in sizes]


def _tiled(size: Size, canvas: Size, tile: Size, step: int) -> tuple[View, ...]:
    """Tiles on a canvas of so many columns and rows, and the whole image in one tile."""
    columns, rows = canvas
    x, y = squashed(size, (columns * tile[0], rows * tile[1]))
    places = [(column, row) for row in range(rows) for column in range(columns)] if columns * rows > 1 else []
    tiles = [
        View(
            number,
            rows=y.part(row * tile[1], tile[1]).cells(step),
            columns=x.part(column * tile[0], tile[0]).cells(step),
        )
        for number, (column, row) in enumerate(places, start=1)
    ]
    x, y = squashed(size, tile)
    return (*tiles, View(0, rows=y.cells(step), columns=x.cells(step)))


def _internvl_canvas(processor: Any, size: Size, tile: Size) -> Size:
    most = option(processor, "max_patches")
    if not option(processor, "crop_to_patches") or most <= 1:
        return 1, 1
    return get_optimal_tiled_canvas(size[::-1], tile[::-1], option(processor, "min_patches"), most)


def _idefics3_canvas(processor: Any, size: Size, edge: int) -> Size:
    """Columns and rows: the longest side is resized, and both are then stretched to whole tiles."""
    if not option(processor, "do_image_splitting"):
        return 1, 1
    width, height = size
    longest = side(option(processor, "size"), "longest_edge")
    if option(processor, "do_resize") and longest:
        nothing = np.broadcast_to(np.uint8(0), (3, height, width))
        height, width = get_resize_output_image_size(nothing, longest)
    if width >= height:
        wide = ceil(width / edge)
        return wide, ceil(int(wide * edge / (width / height)) / edge)
    high = ceil(height / edge)
    return ceil(int(high * edge * (width / height)) / edge), high
