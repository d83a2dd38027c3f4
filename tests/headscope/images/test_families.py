"""Paint a spot, find its token: what a layout says is what the real processor and the real vision tower do.

A spot is painted on a plain image, and in every view the token whose embedding moves most must be the one that the
layout gives for the spot. Attention in the tower is silenced, so that a token knows its own patches only.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from headscope import Sample, UnsupportedModelError, UsageError
from headscope.encoding import encode, layout_of, placeholder_of
from headscope.images import ImageLayout, image_layout, image_token_id
from headscope.images.families import FAMILIES
from tests.headscope.processors import PINPOINTS, PROCESSORS
from tests.tiny import IMAGE, IMAGE_TOKEN, PATCH, TINY, build

Size = tuple[int, int]
SIZES = [(70, 40), (40, 90), (53, 34)]
MARGIN = 0.7  # pixels over which resizing smears a spot
GREY, BRIGHT = (90, 110, 130), (255, 240, 20)
EVERY_FAMILY = pytest.mark.parametrize("name", PROCESSORS)
TILED = pytest.mark.parametrize("name", ["idefics3", "internvl"])


def variant(name: str, model_type: str, *, image_size: int = IMAGE, **settings: Any) -> PreTrainedModel:
    """The tiny model called `name` as another type, or with other settings, freshly drawn."""
    config = build(name).config.to_dict() | settings
    config.pop("model_type")
    config["vision_config"]["image_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(model_type, **config))
    return quiet(model.float().eval())


def quiet(model: PreTrainedModel) -> PreTrainedModel:
    """The model, changed so that its vision tower adds nothing from other patches."""
    silenced = [
        m for path, m in model.named_modules() if re.search(r"vis.*(out_proj|attn\.proj|projection_layer)$", path)
    ]
    assert len(silenced) == 2  # layers
    for module in silenced:
        module.weight.data.zero_()
        module.bias.data.zero_()
    return model


@cache
def quiet_model(name: str) -> PreTrainedModel:
    if name not in TINY:
        return variant("llava", name, image_grid_pinpoints=PINPOINTS)
    model = quiet(build(name))
    if hasattr(model.config, "image_grid_pinpoints"):
        model.config.image_grid_pinpoints = PINPOINTS
    return model


def asking(processor: Any, images: Sequence[Image.Image]) -> Sample:
    return Sample("w10 " + "".join(f"{placeholder_of(processor)} w11 " for _ in images) + "w12", images=tuple(images))


def plain(sizes: Sequence[Size]) -> list[Image.Image]:
    return [Image.new("RGB", size, GREY) for size in sizes]


def spotted(size: Size, spot: Size, radius: int) -> Image.Image:
    image = Image.new("RGB", size, GREY)
    x, y = spot
    image.paste(BRIGHT, (x - radius, y - radius, x + radius + 1, y + radius + 1))
    return image


class _ReachedError(Exception):
    """The language model was called."""


@torch.no_grad()
def embedded(model: PreTrainedModel, processor: Any, samples: Sequence[Sample]) -> Tensor:
    """What the language model is given at every place: [sample token d_model]."""
    seen = []

    def keep(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"])
        raise _ReachedError

    handle = model.model.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        model(**encode(samples, processor, torch.device("cpu")).inputs)
    except _ReachedError:
        return seen[0]
    finally:
        handle.remove()
    raise AssertionError("the language model was not called")


def spots(layout: ImageLayout, image: int, radius: int) -> list[Size]:
    """About 45 pixels all over an image, but none whose spot comes near the edge of a token."""
    width, height = layout.sizes[image]
    boxes = layout.boxes[layout.image == image]
    x = [x for x in range(width) if not _near(boxes[:, ::2], x, radius)]
    y = [y for y in range(height) if not _near(boxes[:, 1::2], y, radius)]
    found = [(a, b) for a in x for b in y]
    return found[:: len(found) // 45 or 1]


def _near(edges: Tensor, at: int, radius: int) -> bool:
    return bool(((edges > at - radius - MARGIN) & (edges < at + 1 + radius + MARGIN)).any())


def hits(model: PreTrainedModel, processor: Any, layout: ImageLayout, image: int = 0) -> float:
    """Share of the spots on one image, each in each view, that moved most the token that the layout gives for it.

    Where it gives none, as beyond a crop, a spot is a miss if it moves more than others do, since resizing smears it.
    """
    size = layout.sizes[image]
    smallest = (layout.boxes[:, 2:] - layout.boxes[:, :2]).nan_to_num(torch.inf).min()
    radius = int(smallest / 5)
    places = spots(layout, image, radius)
    clean = plain(layout.sizes)
    painted = [[*clean[:image], spotted(size, spot, radius), *clean[image + 1 :]] for spot in places]
    before = embedded(model, processor, [asking(processor, clean)])
    after = embedded(model, processor, [asking(processor, images) for images in painted])
    moved = (after - before).norm(dim=-1)
    told = [layout.at(*spot, image=image) for spot in places]
    right = []
    for view in layout.view[layout.image == image].unique():
        ours = layout.places[(layout.image == image) & (layout.view == view)]
        most, which = moved[:, ours].max(dim=1)
        said = [row[torch.isin(row, ours)].tolist() for row in told]
        right += [[int(ours[w])] == row for w, row in zip(which, said, strict=True) if row]
        usual = most[[len(row) > 0 for row in said]].median() if any(said) else torch.inf
        right += [False for m, row in zip(most, said, strict=True) if not row and m > usual]
    assert len(right) >= 9
    return sum(right) / len(right)


def layout_for(model: PreTrainedModel, processor: Any, *sizes: Size) -> ImageLayout:
    return layout_of(asking(processor, plain(sizes)), model.config, processor)


@EVERY_FAMILY
@pytest.mark.parametrize("size", SIZES)
def test_the_token_of_a_spot_is_the_one_that_moves(name: str, size: Size):
    model, processor = quiet_model(name), PROCESSORS[name]()
    assert hits(model, processor, layout_for(model, processor, size)) == 1


@EVERY_FAMILY
def test_each_of_several_images_has_tokens_of_its_own(name: str):
    model, processor = quiet_model(name), PROCESSORS[name]()
    layout = layout_for(model, processor, *SIZES[:2])
    assert [hits(model, processor, layout, image) for image in (0, 1)] == [1, 1]


# -- other settings of a family --------------------------------------------------------------------------------------


def padded_llava() -> tuple[PreTrainedModel, Any]:
    processor = PROCESSORS["llava"]()
    sizes = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    processor.image_processor = transformers.LlavaImageProcessorPil(do_pad=True, **sizes)
    return quiet_model("llava"), processor


def squashed_llava() -> tuple[PreTrainedModel, Any]:
    size = {"height": IMAGE, "width": IMAGE}
    return quiet_model("llava"), PROCESSORS["llava"](size=size, do_center_crop=False)


def cropped_small_llava() -> tuple[PreTrainedModel, Any]:
    """Resized to less than the crop, which is then padded around the image by an odd number of pixels."""
    return quiet_model("llava"), PROCESSORS["llava"](size={"height": 17, "width": 21})


def tiles_with_a_rest() -> tuple[PreTrainedModel, Any]:
    """26 pixels hold 6 patches of 4 and 2 pixels that no patch sees, as 384 hold 27 of 14 and 6."""
    pinpoints = [[26 * a, 26 * b] for a, b in [(1, 2), (2, 1), (2, 2)]]
    settings = {"image_grid_pinpoints": pinpoints}
    processor = PROCESSORS["llava_onevision"](size={"height": 26, "width": 26}, **settings)
    return variant("llava_onevision", "llava_onevision", image_size=26, **settings), processor


def whole_idefics3() -> tuple[PreTrainedModel, Any]:
    return quiet_model("idefics3"), PROCESSORS["idefics3"](do_image_splitting=False)


def uneven_idefics3() -> tuple[PreTrainedModel, Any]:
    """A longest side that is no multiple of a tile, so that both sides are stretched."""
    return quiet_model("idefics3"), PROCESSORS["idefics3"](size={"longest_edge": 59})


def whole_internvl() -> tuple[PreTrainedModel, Any]:
    processor = PROCESSORS["internvl"]()
    processor.images_kwargs = {"crop_to_patches": False}
    return quiet_model("internvl"), processor


def small_qwen() -> tuple[PreTrainedModel, Any]:
    """Room for few pixels, so that images are shrunk."""
    pixels = {"shortest_edge": 16 * PATCH**2, "longest_edge": 60 * PATCH**2}
    return quiet_model("qwen2_vl"), PROCESSORS["qwen2_vl"](size=pixels)


SETTINGS = [
    padded_llava,
    squashed_llava,
    cropped_small_llava,
    tiles_with_a_rest,
    whole_idefics3,
    uneven_idefics3,
    whole_internvl,
    small_qwen,
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.__name__)
@pytest.mark.parametrize("size", SIZES[:2])
def test_settings_of_the_image_processor_count(setting: Callable[[], tuple[PreTrainedModel, Any]], size: Size):
    model, processor = setting()
    assert hits(model, processor, layout_for(model, processor, size)) == 1


@pytest.mark.parametrize("size", SIZES[:2])
def test_onevision_thins_out_a_grid_with_too_many_tokens(size: Size):
    """Four tiles or two of 36 patches become one tile's worth; a patch between two tokens moves both a little."""
    settings = {"image_grid_pinpoints": PINPOINTS, "vision_aspect_ratio": "anyres_max_1"}
    model = variant("llava_onevision", "llava_onevision", **settings)
    processor = PROCESSORS["llava_onevision"](vision_aspect_ratio="anyres_max_1")
    layout = layout_for(model, processor, size)
    assert (layout.view == 1).sum() <= 36 + 8  # row ends
    assert hits(model, processor, layout) >= 0.85
    assert hits(model, processor, rows_for_columns(layout)) < 0.4


# -- layouts that are wrong must fail --------------------------------------------------------------------------------


def rows_for_columns(layout: ImageLayout) -> ImageLayout:
    """The boxes that tokens would have if they were read column by column."""
    boxes = layout.boxes.clone()
    for view in layout.view.unique().tolist():
        grid = layout.grid(view=view)
        boxes[grid.flatten()] = layout.boxes[grid.T.flatten()]
    return replace(layout, boxes=boxes)


def whole_image_first(layout: ImageLayout) -> ImageLayout:
    order = torch.argsort(layout.view, stable=True)
    return replace(layout, view=layout.view[order], boxes=layout.boxes[order])


def without_row_ends(layout: ImageLayout) -> ImageLayout:
    """Boxes handed out one after another, as if no row ended in a token of its own."""
    nowhere = layout.boxes.isnan().any(1)
    return replace(layout, boxes=torch.cat([layout.boxes[~nowhere], layout.boxes[nowhere]]))


def without_the_crop(layout: ImageLayout) -> ImageLayout:
    grid = layout.grid()
    width, height = layout.sizes[0]
    rows, columns = grid.shape
    y, x = torch.meshgrid(torch.arange(rows) * height / rows, torch.arange(columns) * width / columns, indexing="ij")
    boxes = torch.stack([x, y, x + width / columns, y + height / rows], dim=-1)
    return replace(layout, boxes=boxes.flatten(0, 1))


@EVERY_FAMILY
def test_rows_taken_for_columns_are_found_out(name: str):
    model, processor = quiet_model(name), PROCESSORS[name]()
    assert hits(model, processor, rows_for_columns(layout_for(model, processor, SIZES[0]))) < 0.5


@TILED
def test_the_whole_image_before_its_tiles_is_found_out(name: str):
    model, processor = quiet_model(name), PROCESSORS[name]()
    assert hits(model, processor, whole_image_first(layout_for(model, processor, SIZES[0]))) < 0.3


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_row_ends_forgotten_are_found_out(name: str):
    model, processor = quiet_model(name), PROCESSORS[name]()
    assert hits(model, processor, without_row_ends(layout_for(model, processor, SIZES[0]))) < 0.7  # of two views, one


def test_a_crop_forgotten_is_found_out():
    model, processor = quiet_model("llava"), PROCESSORS["llava"]()
    assert hits(model, processor, without_the_crop(layout_for(model, processor, SIZES[0]))) < 0.5


# -- at the published sizes -------------------------------------------------------------------------------------------


def published(name: str) -> tuple[Any, Any]:
    """Config and processor with the settings that transformers gives them by itself, those of published models."""
    kinds = {
        "llava_next": "LlavaNext",
        "llava_onevision": "LlavaOnevision",
        "qwen2_vl": "Qwen2VL",
        "internvl": "InternVL",
    }
    config = getattr(transformers, f"{kinds[name]}Config")()
    processor = PROCESSORS[name]()
    images = {"internvl": "GotOcr2"}.get(name, kinds[name])
    processor.image_processor = getattr(transformers, f"{images}ImageProcessorPil")()
    if name == "internvl":
        processor.image_processor.size = {"height": 448, "width": 448}
        processor.image_seq_length = 256
    if name == "llava_next":
        edge = {"height": 336, "width": 336}
        processor.image_processor = transformers.LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size=edge)
    processor.patch_size = 14
    processor.num_image_tokens = 27**2
    return config, processor


@pytest.mark.parametrize(
    ("name", "around"), [("llava_next", 0), ("llava_onevision", 0), ("qwen2_vl", 0), ("internvl", 2)]
)
def test_images_of_any_size_have_as_many_tokens_as_the_processor_says(name: str, around: int):
    config, processor = published(name)
    draw = torch.Generator().manual_seed(0)
    sizes = (40 * 60 ** torch.rand(60, 2, generator=draw)).int().tolist()  # 40 to 2400 pixels, small and large alike
    made = [sum(len(view.boxes()) for view in FAMILIES[name](config, processor, [(w, h)])[0]) for w, h in sizes]
    said = processor._get_num_multimodal_tokens(image_sizes=[(h, w) for w, h in sizes])["num_image_tokens"]
    assert [count + around for count in made] == said


# -- known by hand ---------------------------------------------------------------------------


def test_llava_sees_the_centre_of_a_wide_image():
    """640 x 480 becomes 448 x 336, of which the middle 336 are kept: 80 pixels are lost on either side."""
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    config = transformers.LlavaConfig(image_token_id=IMAGE_TOKEN)
    layout = image_layout(config, PROCESSORS["llava"](**sizes), [IMAGE_TOKEN] * 576, [(640, 480)])
    assert layout.grid().shape == (24, 24)
    assert layout.boxes[0].tolist() == pytest.approx([80, 0, 100, 20])
    assert layout.boxes[-1].tolist() == pytest.approx([540, 460, 560, 480])
    assert layout.at(79, 0).tolist() == []


def test_llava_with_class_tokens_begins_with_one_that_shows_nothing():
    processor = PROCESSORS["llava"]()
    processor.vision_feature_select_strategy = "full"
    layout = image_layout(quiet_model("llava").config, processor, [IMAGE_TOKEN] * 37, [(24, 24)])
    assert layout.boxes.isnan().all(1).nonzero().flatten().tolist() == [0]
    assert layout.at(0, 0).tolist() == [1]


def test_tokens_over_padding_show_no_pixel():
    """A square around 48 x 24 has 12 rows of padding above and below, half of all tokens."""
    model, processor = padded_llava()
    layout = layout_for(model, processor, (48, 24))
    nowhere = layout.boxes.isnan().any(1).reshape(6, 6)
    assert nowhere.all(1).tolist() == [True, False, False, False, False, True] or nowhere.sum() == 12
    assert layout.boxes[~nowhere.flatten()][0].tolist() == pytest.approx([0, 0, 8, 4])


def test_internvl_tiles_a_panorama():
    """896 x 448 is two tiles of 448 side by side, of 16 x 16 tokens each, and the whole of it in a third."""
    config = transformers.InternVLConfig(image_token_id=IMAGE_TOKEN)
    processor = PROCESSORS["internvl"](size={"height": 448, "width": 448}, max_patches=12)
    layout = image_layout(config, processor, [IMAGE_TOKEN] * 768, [(896, 448)])
    assert layout.view.tolist() == [1] * 256 + [2] * 256 + [0] * 256
    assert layout.boxes[[1, 256, 512]].tolist() == [[28, 0, 56, 28], [448, 0, 476, 28], [0, 0, 56, 28]]


def test_gemma_pools_to_sixteen_rows():
    config = transformers.Gemma3Config(
        vision_config={"image_size": 896, "patch_size": 14}, image_token_index=IMAGE_TOKEN
    )
    processor = PROCESSORS["gemma3_mm"](size={"height": 896, "width": 896})
    layout = image_layout(config, processor, [IMAGE_TOKEN] * 256, [(1600, 800)])
    assert layout.grid().shape == (16, 16)
    assert layout.boxes[17].tolist() == [100, 50, 200, 100]


# -- what is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_family_is_named():
    config = transformers.AutoConfig.for_model("blip-2")
    with pytest.raises(UnsupportedModelError, match=r"'blip-2' \(known: llava, .*headscope/images/families"):
        image_layout(config, PROCESSORS["llava"](), [], [])


def test_a_processor_of_another_model_is_found_out():
    with pytest.raises(
        UsageError, match=r"there are 35 image tokens, but llava makes 36 of images of sizes \[\(24, 24\)"
    ):
        image_layout(quiet_model("llava").config, PROCESSORS["llava"](), [IMAGE_TOKEN] * 35, [(24, 24)])


def test_pan_and_scan_is_refused():
    processor = PROCESSORS["gemma3_mm"]()
    processor.images_kwargs = {"do_pan_and_scan": True}
    with pytest.raises(UnsupportedModelError, match="without pan and scan"):
        image_layout(quiet_model("gemma3_mm").config, processor, [IMAGE_TOKEN] * 9, [(24, 24)])


def test_a_pixtral_tower_is_refused():
    config = transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig())
    with pytest.raises(UnsupportedModelError, match="Pixtral"):
        image_layout(config, PROCESSORS["llava"](), [], [(24, 24)])


@EVERY_FAMILY
def test_text_alone_has_an_empty_layout(name: str):
    processor = PROCESSORS[name]()
    layout = layout_of(Sample("w10 w11"), quiet_model(name).config, processor)
    assert (len(layout), layout.spans, layout.boxes.shape) == (0, (), (0, 4))


@EVERY_FAMILY
def test_the_image_token_is_read_from_the_config(name: str):
    assert image_token_id(quiet_model(name).config) == IMAGE_TOKEN


def test_a_text_model_has_no_image_token():
    assert image_token_id(build("llama").config) is None
