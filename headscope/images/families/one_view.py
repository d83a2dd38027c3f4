"""Families that show every image once: LLaVA 1.5, PaliGemma, Gemma 3 and Qwen-VL."""

from collections.abc import Sequence
from typing import Any

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from headscope.errors import UnsupportedModelError
from headscope.images.opening import Size
from headscope.images.views import Axis, View, option, shown, side, squashed


def llava_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """LLaVA 1.5: the shortest side resized and the centre cropped, so that a long image loses its ends.

    Some checkpoints pad to a square or squash instead, as their image processor says.
    """
    if config.vision_config.model_type == "pixtral":
        raise UnsupportedModelError(
            "the order of image tokens is not known for LLaVA with a Pixtral tower, whose rows end in tokens of their "
            "own; add a function to headscope/images/families and call it from llava_views"
        )
    dropped = processor.vision_feature_select_strategy == "default"
    classes = processor.num_additional_image_tokens - dropped
    patch = config.vision_config.patch_size
    return [(_grid(shown(processor, size), patch, before=max(0, classes)),) for size in sizes]


def paligemma_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """PaliGemma: squashed to a square, a token a patch."""
    return [(_grid(shown(processor, size), config.vision_config.patch_size),) for size in sizes]


def gemma3_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """Gemma 3: squashed to a square, patches pooled to 16 x 16 tokens; without pan and scan."""
    if option(processor, "do_pan_and_scan"):
        raise UnsupportedModelError(
            "the layout of Gemma 3's tokens is known without pan and scan only; set "
            "processor.images_kwargs['do_pan_and_scan'] to False"
        )
    vision = config.vision_config
    pooled = vision.image_size // vision.patch_size // int(config.mm_tokens_per_image**0.5)
    return [(_grid(shown(processor, size), vision.patch_size * pooled),) for size in sizes]


def qwen_views(config: Any, processor: Any, sizes: Sequence[Size]) -> list[tuple[View, ...]]:
    """Qwen2-VL, 2.5 and 3: resized to a multiple of the token's side, patches merged two by two."""
    step = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    return [(_grid(_smart(processor, size, step), step),) for size in sizes]


def _smart(processor: Any, size: Size, step: int) -> tuple[Axis, Axis]:
    if not option(processor, "do_resize"):
        return Axis(size[0]), Axis(size[1])
    pixels = option(processor, "size")
    fewest, most = side(pixels, "shortest_edge"), side(pixels, "longest_edge")
    if fewest is None or most is None:
        raise UnsupportedModelError(
            f"an image processor of Qwen-VL with size {pixels} is not known; shortest_edge and longest_edge, the fewest "
            "and most pixels, were expected. Please report the model"
        )
    height, width = smart_resize(size[1], size[0], step, min_pixels=fewest, max_pixels=most)
    return squashed(size, (width, height))


def _grid(sides: tuple[Axis, Axis], step: int, *, before: int = 0) -> View:
    return View(0, rows=sides[1].cells(step), columns=sides[0].cells(step), before=before)
