"""Real processors for the tiny vision-language models, built from settings: PIL image processors and a word tokenizer.

Words are `w10` to `w98`, as in the text models' tests, but for those whose ids stand for a family's own tokens.
"""

from collections.abc import Callable
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.video_processing_utils import BaseVideoProcessor

from tests.tiny import BOS, EOS, FIRST_WORD, IMAGE, IMAGE_TOKEN, PAD, PATCH, VIDEO_TOKEN, VOCAB

UNKNOWN, NEWLINE, BEGIN, END = 3, 4, 7, 8
TILES = 3  # rows and columns of tiles that the tokenizer has names for
PINPOINTS = [[a * IMAGE, b * IMAGE] for a, b in [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1)]]


def word_tokenizer(image: str = "<image>", **more: str | int) -> PreTrainedTokenizerFast:
    """Words between blanks, new lines tokens of their own; every prompt begins with `<s>`.

    `image` is the token at the id of an image token; `more` names other tokens, by the attribute of the tokenizer that
    holds them (`boi_token="<boi>"`), or new ones by their ids.
    """
    words = {f"w{i}": i for i in range(FIRST_WORD, VOCAB)}
    named = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN, "\n": NEWLINE, image: IMAGE_TOKEN}
    named |= {"<video>": VIDEO_TOKEN, "<begin>": BEGIN, "<end>": END}
    named |= {token: i for token, i in more.items() if isinstance(i, int)}
    left = {word: i for word, i in words.items() if i not in named.values()}
    tokenizer = Tokenizer(models.WordLevel(named | left, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    attributes = {name: token for name, token in more.items() if isinstance(token, str)}
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in named if token != "\n"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=attributes,
    )


def _without_videos(name: str, *parts: Any, **settings: Any) -> Any:
    """A processor that would look for torchvision, which its video processor needs, only to check that one."""
    unchecked = {"check_argument_for_proper_class": lambda self, name, argument: type(argument)}
    return type(name, (getattr(transformers, name),), unchecked)(*parts, BaseVideoProcessor(), **settings)


def llava(**settings: Any) -> Any:
    images = transformers.CLIPImageProcessorPil(
        **{"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}} | settings
    )
    return transformers.LlavaProcessor(
        images,
        word_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def llava_next(**settings: Any) -> Any:
    sizes = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    images = transformers.LlavaNextImageProcessorPil(**sizes | {"image_grid_pinpoints": PINPOINTS} | settings)
    return transformers.LlavaNextProcessor(
        images,
        word_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def llava_onevision(*, vision_aspect_ratio: str = "anyres_max_9", **settings: Any) -> Any:
    sizes = {"size": {"height": IMAGE, "width": IMAGE}, "image_grid_pinpoints": PINPOINTS}
    return _without_videos(
        "LlavaOnevisionProcessor",
        transformers.LlavaOnevisionImageProcessorPil(**sizes | settings),
        word_tokenizer(),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=vision_aspect_ratio,
        image_token="<image>",
    )


def qwen(name: str, **settings: Any) -> Any:
    """The processor of Qwen2-VL, 2.5 or 3, whose images differ in their settings only."""
    pixels = {"shortest_edge": 16 * PATCH**2, "longest_edge": 200 * PATCH**2}
    images = transformers.Qwen2VLImageProcessorPil(
        **{"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "size": pixels} | settings
    )
    kinds = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}
    tokenizer = word_tokenizer("<|image_pad|>", video_token="<video>", image_token="<|image_pad|>")
    return _without_videos(kinds[name], images, tokenizer)


def idefics3(**settings: Any) -> Any:
    tiles = [f"<row_{row + 1}_col_{column + 1}>" for row in range(TILES) for column in range(TILES)]
    names = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    tokenizer = word_tokenizer(**{name: VOCAB - 1 - i for i, name in enumerate(names)})
    sizes = {"size": {"longest_edge": 2 * IMAGE}, "max_image_size": {"longest_edge": IMAGE}}
    images = transformers.Idefics3ImageProcessorPil(**sizes | settings)
    return transformers.Idefics3Processor(images, tokenizer, image_seq_len=(IMAGE // PATCH // 2) ** 2)


def gemma3(**settings: Any) -> Any:
    images = transformers.Gemma3ImageProcessorPil(**{"size": {"height": IMAGE, "width": IMAGE}} | settings)
    tokens = {"boi_token": "<begin>", "eoi_token": "<end>", "image_token": "<image>"}
    return transformers.Gemma3Processor(images, word_tokenizer(**tokens), image_seq_length=9)


def internvl(**settings: Any) -> Any:
    images = transformers.GotOcr2ImageProcessorPil(
        **{"size": {"height": IMAGE, "width": IMAGE}, "max_patches": 6, "crop_to_patches": True} | settings
    )
    tokens = {"start_image_token": "<begin>", "end_image_token": "<end>", "context_image_token": "<image>"}
    tokenizer = word_tokenizer(**tokens, video_token="<video>")
    return _without_videos("InternVLProcessor", images, tokenizer, image_seq_length=9)


def paligemma(**settings: Any) -> Any:
    images = transformers.SiglipImageProcessorPil(**{"size": {"height": IMAGE, "width": IMAGE}} | settings)
    images.image_seq_length = (IMAGE // PATCH) ** 2
    return transformers.PaliGemmaProcessor(images, word_tokenizer(image_token="<image>"))


PROCESSORS: dict[str, Callable[..., Any]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": lambda **settings: qwen("qwen2_vl", **settings),
    "qwen2_5_vl": lambda **settings: qwen("qwen2_5_vl", **settings),
    "qwen3_vl": lambda **settings: qwen("qwen3_vl", **settings),
    "idefics3": idefics3,
    "gemma3_mm": gemma3,
    "internvl": internvl,
    "paligemma": paligemma,
}
"""A builder of the processor of each tiny model; settings are those of its image processor."""
