"""A planted LLaVA that names the colour of the one box in its image, by one head that sees it.

Images are 24 pixels a side, 36 tokens of 4 x 4, grey but for the box. Asked `?`, SEER looks at the coloured tokens and
copies the colour into the output: 10 logits, in proportion to its attention. The others write nothing: GAZER looks at
all image tokens alike, STARER at the one ten places back whatever it shows, EVERYWHERE at all tokens alike, and the rest
at `<s>`, which carries the huge dimension.
"""

import random

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from head_analysis.object_words import ObjectWord
from headscope import Head, HookedModel, Sample
from tests.planted.wiring import (
    CONSTANT,
    D_HEAD,
    D_MODEL,
    EACH,
    Wire,
    always,
    column,
    llama_config,
    place_key,
    place_query,
    plant,
    reads,
    slot,
    where,
    writes,
)

LAYERS, HEADS = 2, 4
STARER, GAZER = Head(0, 1), Head(0, 2)
SEER, EVERYWHERE = Head(1, 1), Head(1, 3)
SIDE, PATCH = 24, 4
TOKENS = (SIDE // PATCH) ** 2
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
GREY = 128

_WORDS = ("<s>", "</s>", "<pad>", "<unk>", "<image>", "what", "?", *COLOURS)
_SLOTS = {word: i for i, word in enumerate(("<s>", "what", "?", *COLOURS))}
_IMAGE = len(_SLOTS)
"""The slot that all image tokens have."""
_SEEN = [_SLOTS[colour] for colour in COLOURS]
_NOTHING = torch.zeros(D_HEAD, D_MODEL)


def seeing_model(*, seer: bool = True) -> HookedModel:
    """The model; without its `seer` that head looks at `<s>` as well."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        processor = _processor()
        hf = LlavaForConditionalGeneration(_config(processor.tokenizer)).eval()
        _plant_tower(hf)
        plant(
            hf.model.language_model, hf.lm_head, _wires(seer), processor.tokenizer, _SLOTS, noise=0.0, massive=["<s>"]
        )
    return HookedModel(hf, processor, name="planted seeing")


def scenes(n: int, *, seed: int = 0) -> list[Sample]:
    """Images with one box at a random place, 1 to 3 tokens high and wide; `meta` holds its place and size in tokens."""
    found = []
    for i in range(n):
        rng = random.Random(f"scenes/{seed}/{i}")
        width, height = rng.randint(1, 3), rng.randint(1, 3)
        left, top = (PATCH * rng.randint(0, SIDE // PATCH - size) for size in (width, height))
        box = (left, top, left + PATCH * width, top + PATCH * height)
        names = list(COLOURS)
        colour, foil = names[(i + seed) % 3], names[(i + seed + 1) % 3]
        image = Image.new("RGB", (SIDE, SIDE), (GREY,) * 3)
        image.paste(COLOURS[colour], box)
        meta = {"boxes": {colour: [box]}, "tokens": width * height, "foil": f" {foil}"}
        found.append(Sample("what <image> ?", f" {colour}", images=(image,), meta=meta))
    return found


def spoken(sample: Sample) -> list[ObjectWord]:
    """The one object that the right answer names."""
    colour = sample.target.strip()
    return [ObjectWord(colour, 0, len(colour), False)]


def _wires(seer: bool) -> dict[Head, Wire]:
    start = where(slot(_SLOTS["<s>"]), [_SLOTS["<s>"]])
    rest = always(slot(_SLOTS["<s>"], 30.0))
    still = Wire(rest, start, _NOTHING, writes("output"))
    colours = torch.stack([slot(colour, 60.0) for colour in _SEEN]).sum(0)
    seen = reads("token", only=_SEEN)
    wires = {Head(layer, head): still for layer in range(LAYERS) for head in range(HEADS)}
    wires[STARER] = Wire(always(place_query(10, 300.0)), always(place_key()), _NOTHING, writes("output"))
    wires[GAZER] = Wire(
        always(slot(_IMAGE, 60.0)) + rest, where(slot(_IMAGE), [_IMAGE]) + start, _NOTHING, writes("output")
    )
    wires[EVERYWHERE] = Wire(_NOTHING, _NOTHING, _NOTHING, writes("output"))
    if seer:
        wires[SEER] = Wire(where(colours, [_SLOTS["?"]]) + rest, seen + start, seen, writes("output"))
    return wires


def _config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=llama_config(tokenizer, layers=LAYERS, heads=HEADS),
        image_token_index=_WORDS.index("<image>"),
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _processor() -> LlavaProcessor:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[GREY / 255] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images, fast, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


@torch.no_grad()
def _plant_tower(hf: LlavaForConditionalGeneration) -> None:
    """A token of full colour gets that colour's slot, a grey one nothing but the constant and the image's slot."""
    tower = hf.model.vision_tower
    for name, weight in tower.named_parameters():
        if "embedding" in name or "out_proj" in name or "fc2" in name:
            weight.zero_()
    patches = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d))
    first, second = hf.model.multi_modal_projector.linear_1, hf.model.multi_modal_projector.linear_2
    for weight in (first.weight, first.bias, second.weight, second.bias):
        weight.zero_()
    for channel, number in enumerate(_SEEN):
        patches.weight[channel, channel] = 1 / PATCH**2
        first.weight[channel, channel] = 10.0  # far enough from 0 that the gelu cuts what is dark
        second.weight[column("token", number), channel] = 1 / (10.0 * _bright())
    second.bias[column("token", _IMAGE)] = 1.0
    second.bias[CONSTANT] = EACH


def _bright() -> float:
    """What the norm of the tower makes of the one bright channel of a full colour."""
    pixels = torch.zeros(16)
    pixels[:3] = (torch.tensor([255.0, 0.0, 0.0]) - GREY) / 255 / 0.5
    return float(torch.nn.functional.layer_norm(pixels, (16,))[0])
