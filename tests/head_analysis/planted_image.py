"""A LLaVA whose weights are set by hand, so that it is known which head sees what of the image.

Images are 24 pixels a side, 36 tokens of 4 x 4. A token knows how red, green and blue its patch is, and a black patch is
a sink: one dimension of its state is huge, as that of `<s>` is. The model writes one sentence whatever it sees, word by
word: `a cat with one dog and two bird .` A cat is red, a dog green, a bird blue. Every layer has the same four heads:

FINDER   at `a`, `one` and `two` it attends to the colour of what comes next
NAMER    at `cat`, `dog` and `bird` it attends to the colour of that
BLIND    attends to text only
DRAWN    attends to sinks

Heads write to a part of the stream that nothing reads.
"""

from itertools import pairwise

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from head_analysis.object_words import ObjectWord
from headscope import HookedModel, Sample

SIDE, PATCH, LAYERS, WIDTH, D_HEAD = 24, 4, 3, 96, 24
FINDER, NAMER, BLIND, DRAWN = range(4)
SINK = 5
"""The dimension that is huge at sinks."""
ANSWER = "a cat with one dog and two bird ."
COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0), "bird": (0, 0, 255)}
GREY = (128, 128, 128)
_WORDS = "<s> </s> <pad> <unk> <image> what is it ? a cat with one dog and two bird .".split()
_TEXT, _IMAGE, _RED, _SCRATCH, _WORD = 0, 1, 2, 8, 40  # where in the stream these begin
_SEEN = {"a": "cat", "one": "dog", "two": "bird"}
Boxes = dict[str, list[tuple[int, int, int, int]]]


def planted_image_model(*, sinks: bool = True) -> HookedModel:
    """The model; without `sinks` no dimension is huge anywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = LlavaForConditionalGeneration(_config()).eval()
        _plant_tower(hf, black=60.0 * sinks)
        _plant_language(hf, start=60.0 * sinks)
    return HookedModel(hf, _processor(), name="planted image")


def scene(boxes: Boxes, *, black: tuple[int, int] | None = None, words: int = 1) -> Sample:
    """A grey image with coloured boxes, and a black patch at a row and column; `words` makes the prompt longer."""
    image = Image.new("RGB", (SIDE, SIDE), GREY)
    for name, mine in boxes.items():
        for box in mine:
            image.paste(COLOURS[name], box)
    if black is not None:
        row, column = black
        image.paste((0, 0, 0), (column * PATCH, row * PATCH, (column + 1) * PATCH, (row + 1) * PATCH))
    prompt = " ".join(["what", *["is"] * words, "<image>", *["it"] * words, "?"])
    return Sample(prompt, images=(image,), meta={"boxes": boxes})


def named(boxes: Boxes) -> list[ObjectWord]:
    """The objects of the answer, hallucinated where they have no box."""
    places = {name: ANSWER.index(name) for name in COLOURS}
    return [ObjectWord(name, at, at + len(name), name not in boxes) for name, at in places.items()]


def _config() -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(_WORDS),
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=D_HEAD,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "default", "rope_theta": 1e14},  # places matter in the first dimensions only
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        ),
        image_token_index=_WORDS.index("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
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
        image_mean=[GREY[0] / 255] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images, fast, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


@torch.no_grad()
def _plant_tower(hf: LlavaForConditionalGeneration, *, black: float) -> None:
    """Patches go through as they are; red, green, blue and blackness of each end up in the stream."""
    tower = hf.model.vision_tower
    for name, weight in tower.named_parameters():
        if "embedding" in name or "out_proj" in name or "fc2" in name:
            weight.zero_()
    patches = next(m for m in tower.modules() if isinstance(m, torch.nn.Conv2d))
    for channel in range(3):
        patches.weight[channel, channel] = 1 / PATCH**2
    first, second = hf.model.multi_modal_projector.linear_1, hf.model.multi_modal_projector.linear_2
    for weight in (first.weight, first.bias, second.weight, second.bias):
        weight.zero_()
    for channel in range(3):
        first.weight[channel, channel] = 1.0
        second.weight[_RED + channel, channel] = 1.0
    first.weight[3, :3] = -1.0  # the tower's norm makes about -2 of each colour of black, +2 of one full colour
    first.bias[3] = -5.0
    second.weight[SINK, 3] = black
    second.bias[_IMAGE] = 1.0


@torch.no_grad()
def _plant_language(hf: LlavaForConditionalGeneration, *, start: float) -> None:
    ids = {word: i for i, word in enumerate(_WORDS)}
    words = hf.get_input_embeddings().weight.zero_()
    words[:, _TEXT] = 1.0
    words[:, _WORD : _WORD + len(_WORDS)] = torch.eye(len(_WORDS))
    words[0, SINK] = start
    said = ["?", *ANSWER.split(), "</s>"]
    out = hf.lm_head.weight.zero_()
    for word, after in pairwise(said):
        out[ids[after], _WORD + ids[word]] = 1.0
    for layer in hf.model.language_model.layers:
        layer.mlp.down_proj.weight.zero_()
        attention = layer.self_attn
        q, k, v, o = (getattr(attention, f"{name}_proj").weight.zero_() for name in "qkvo")
        q, k, v = (weight.view(4, D_HEAD, WIDTH) for weight in (q, k, v))
        slow = [D_HEAD - 1 - i for i in range(4)]  # dimensions that the rotation leaves alone
        for colour, (before, name) in enumerate(_SEEN.items()):
            for head, word in ((FINDER, before), (NAMER, name)):
                q[head, slow[colour], _WORD + ids[word]] = 8.0
                k[head, slow[colour], _RED + colour] = 8.0
        q[BLIND, slow[0], _TEXT], k[BLIND, slow[0], _TEXT] = 20.0, 20.0
        q[DRAWN, slow[0], _TEXT], k[DRAWN, slow[0], SINK] = 10.0, 10.0
        for head in range(4):
            v[head, :3, _RED : _RED + 3] = torch.eye(3)  # colours
            v[head, 3, _TEXT] = 0.2
        o.copy_(_scattered(o))


def _scattered(o: Tensor) -> Tensor:
    """Every head writes into the scratch part."""
    out = torch.zeros_like(o)
    out[_SCRATCH : _SCRATCH + 20] = 0.01 * torch.randn(20, o.shape[1])
    return out
