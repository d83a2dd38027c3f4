"""What a vision tower's own attention says of its patches, carried over to the image tokens of the language model.

A patch is rated by the attention that the tower's class token gives it, or by what it receives from all patches, summed
over heads. A token stands for one patch, or for several that were merged; then it has their mean. Tokens that stand for
no patch (ends of rows, class tokens) have no rating: NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.vision_utils import get_vision_window_index

from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import pattern_rows
from headscope.errors import UnsupportedModelError, UsageError
from headscope.hooks import Context, Where

Source = Literal["class", "received"]
_BLOCK_ELEMENTS = 2**24


@dataclass(frozen=True)
class TowerAttention:
    """Reads, in some layers of the tower, how much attention each patch gets; one tensor [view patch] a call."""

    source: Source
    layers: tuple[int, ...]
    has_class: bool
    kept: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def where(self) -> Where:
        """Layers of the vision stack."""
        return Where(layers=self.layers, stack="vision")

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Keeps one call's attention."""
        found = _from_class(x) if self.source == "class" else _received(x, self.has_class)
        self.kept.setdefault(ctx.layer, []).append(found[:, int(self.has_class) :])


def _from_class(x: AttentionInputs) -> Float[Tensor, "view key"]:
    return pattern_rows(x, None, torch.tensor([0], device=x.query.device))[:, :, 0].sum(1)


def _received(x: AttentionInputs, has_class: bool) -> Float[Tensor, "view key"]:
    """Mean over the patches that are no padding of the attention they give, summed over heads, in blocks of rows."""
    everyone = torch.arange(x.query.shape[2], device=x.query.device)
    real = x.visible(everyone[:1])[:, 0, 0].clone()  # in a tower all see the same: what is not padding
    if has_class:
        real[:, 0] = False
    rows_at_once = max(1, _BLOCK_ELEMENTS // (x.query.shape[0] * x.n_heads * x.n_keys))
    total = torch.zeros(x.query.shape[0], x.n_keys, device=x.query.device)
    for block in everyone.split(rows_at_once):
        rows = pattern_rows(x, None, block)
        total += torch.einsum("vhqk,vq->vk", rows, real[:, block].to(rows))
    return total / real.sum(1, keepdim=True).clamp_min(1)


def has_class_token(hf: torch.nn.Module) -> bool:
    """Whether the vision tower puts a class token before its patches."""
    return any(name.rsplit(".", 1)[-1] in ("class_embedding", "cls_token") for name, _ in hf.named_parameters())


def refuse_unknown(hf: Any) -> None:
    """UnsupportedModelError for a model type whose tokens cannot be led back to patches."""
    if hf.config.model_type not in _TOKENS:
        raise UnsupportedModelError(
            f"it is not known which patches of the vision tower an image token of {hf.config.model_type!r} stands for "
            f"(known: {', '.join(_TOKENS)}); add a function to interventions/tower.py and name it in _TOKENS there"
        )


def token_ratings(
    hf: Any, inputs: Mapping[str, Any], calls: Sequence[Float[Tensor, "_ _"]], count: int
) -> Float[Tensor, " token"]:
    """The rating of every image token of a batch, in the order of the tokens; `count` is how many there are.

    `calls` are the patches' ratings as `TowerAttention` keeps them, [view patch] each. UsageError if numbers do not
    match.
    """
    if not calls:
        raise UsageError(
            "the prompt has image tokens, but the vision tower did not run; give the pixels in the same call"
        )
    found = _TOKENS[hf.config.model_type](hf, inputs, calls, count)
    if len(found) != count:
        raise UsageError(
            f"the prompt has {count} image tokens, but the vision tower's patches make {len(found)}; images only are "
            "known, so leave videos out, and give the inputs that the model's own processor makes"
        )
    return found.cpu()


def _squares(hf: Any, inputs: Mapping[str, Any], calls: Sequence[Tensor], count: int) -> Tensor:
    """Square views whose patches are merged in squares: each token the mean of so many rows and columns."""
    views = torch.cat(list(calls))
    side, wide = (round(n**0.5) for n in (count / len(views), views.shape[1]))
    if side * side * len(views) != count or wide * wide != views.shape[1] or wide % side:
        return views.flatten()
    step = wide // side
    return views.reshape(-1, side, step, side, step).mean((2, 4)).flatten()


def _one_to_one(hf: Any, inputs: Mapping[str, Any], calls: Sequence[Tensor], count: int) -> Tensor:
    views = torch.cat(list(calls))
    keeps_class = count == len(views) * (views.shape[1] + 1)  # the model may hand on the class token too
    return torch.nn.functional.pad(views, (int(keeps_class), 0), value=torch.nan).flatten()


def _joined_tiles(hf: Any, inputs: Mapping[str, Any], calls: Sequence[Tensor], count: int) -> Tensor:
    """Packed by the model's own function, as if the ratings were features."""
    views, config = torch.cat(list(calls)).unsqueeze(-1), hf.config
    sizes = inputs["image_sizes"]
    images = inputs.get("batch_num_images")
    alone = [True] * len(sizes) if images is None else [n == 1 for n in images.tolist() for _ in range(n)]
    lengths = [
        image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size) if tiled else 1
        for size, tiled in zip(sizes, alone, strict=True)
    ]
    option = "vision_aspect_ratio" if hasattr(config, "vision_aspect_ratio") else "vision_feature_select_strategy"
    newline = torch.tensor([torch.nan], device=views.device)
    packed, _ = hf.model.pack_image_features(
        views.split(lengths), sizes, image_newline=newline, **{option: getattr(config, option)}
    )
    return torch.cat([image.flatten() for image in packed])


def _merged_in_turn(hf: Any, inputs: Mapping[str, Any], calls: Sequence[Tensor], count: int) -> Tensor:
    """Patches come in the order in which they are merged."""
    vision = hf.config.vision_config
    return torch.cat([call.flatten() for call in calls]).reshape(-1, vision.spatial_merge_size**2).mean(1)


def _merged_in_windows(hf: Any, inputs: Mapping[str, Any], calls: Sequence[Tensor], count: int) -> Tensor:
    """As before, in the order of the tower's windows."""
    vision = hf.config.vision_config
    order, _ = get_vision_window_index(
        inputs["image_grid_thw"], vision.spatial_merge_size, vision.window_size, vision.patch_size
    )
    merged = _merged_in_turn(hf, inputs, calls, count)
    return merged[order.argsort().to(merged.device)] if len(order) == len(merged) else merged


_Tokens = Callable[[Any, Mapping[str, Any], Sequence[Tensor], int], Tensor]
_TOKENS: Mapping[str, _Tokens] = {
    "llava": _one_to_one,
    "llava_next": _joined_tiles,
    "llava_onevision": _joined_tiles,
    "qwen2_vl": _merged_in_turn,
    "qwen2_5_vl": _merged_in_windows,
    "qwen3_vl": _merged_in_turn,
    "idefics3": _squares,
    "gemma3": _squares,
    "internvl": _squares,
    "paligemma": _one_to_one,
}
"""From ratings of patches to ratings of tokens, for each model type."""
