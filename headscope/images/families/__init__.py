"""How each family of vision-language models shows an image: the views of it, in the order of their tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headscope.images.families.anyres import llava_next_views, llava_onevision_views
from headscope.images.families.one_view import gemma3_views, llava_views, paligemma_views, qwen_views
from headscope.images.families.tiles import idefics3_views, internvl_views
from headscope.images.opening import Size
from headscope.images.views import View

Family = Callable[[Any, Any, Sequence[Size]], list[tuple[View, ...]]]
"""Config, processor and the sizes of a sample's images to the views of each image."""

FAMILIES: Mapping[str, Family] = {
    "llava": llava_views,
    "llava_next": llava_next_views,
    "llava_onevision": llava_onevision_views,
    "qwen2_vl": qwen_views,
    "qwen2_5_vl": qwen_views,
    "qwen3_vl": qwen_views,
    "idefics3": idefics3_views,
    "gemma3": gemma3_views,
    "internvl": internvl_views,
    "paligemma": paligemma_views,
}
"""The function for each model type, the `model_type` of its config."""
