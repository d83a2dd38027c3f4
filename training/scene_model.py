"""The parts of `zoo:scenes`: its processor, and an untrained model whose scales fit its width."""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tasks.scene_world import COLOURS, KINDS, SIZE

PATCH = 8
IMAGE_TOKENS = (SIZE // PATCH) ** 2
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<image>")
_WORDS = (
    "user assistant is there a an in the image please describe this detail what colour color yes no shows and of picture "
    "photo it i see not nothing where which how many are one two three four objects"
)
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is not string %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image> ' }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ message['role'] + ' : ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token + ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of the tower and the language model."""

    tower_layers: int = 3
    tower_width: int = 96
    tower_mlp: int = 256
    layers: int = 6
    d_model: int = 128
    heads: int = 8
    d_head: int = 16
    d_mlp: int = 320


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level fast tokenizer in lower case; punctuation stands alone, every text begins with `<s>`."""
    vocabulary = [*SPECIAL, *".,?:", *dict.fromkeys([*_WORDS.split(), *KINDS, *COLOURS])]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=_TEMPLATE,
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Images scaled and cropped to 64 x 64 and put between -1 and 1; 64 image tokens each."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        images,
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_TEMPLATE,
    )


def _places(width: int) -> Tensor:
    """Sines of row and column at several wavelengths [patch width], as large as the patches' content.

    The library's start, a tenth of that and random, hides from a patch which others are its neighbours.
    """
    side = SIZE // PATCH
    rates = torch.pi / 2 ** torch.linspace(0, 4, width // 4)
    angles = torch.arange(side)[:, None] * rates
    waves = 0.7 * torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([waves.repeat_interleave(side, 0), waves.repeat(side, 1)], 1)


def build_model(shape: Shape, *, seed: int) -> LlavaForConditionalGeneration:
    """An untrained LLaVA; output and down projections start at half the scale that keeps a vector's norm.

    The library's own standard deviation of 0.02 is far too small for these widths: attention starts uniform, and next
    to the image the words are too small to be seen.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=shape.tower_width,
                intermediate_size=shape.tower_mlp,
                num_hidden_layers=shape.tower_layers,
                num_attention_heads=4,
                image_size=SIZE,
                patch_size=PATCH,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=shape.d_model,
                intermediate_size=shape.d_mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                head_dim=shape.d_head,
                max_position_embeddings=512,
                tie_word_embeddings=False,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_index=tokenizer.get_vocab()["<image>"],
            image_seq_length=IMAGE_TOKENS,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            half = 0.5 if name.endswith(("o_proj", "down_proj", "out_proj", "fc2")) else 1.0
            nn.init.normal_(module.weight, std=half * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.model.language_model.embed_tokens.weight)
    embeddings = model.model.vision_tower.embeddings
    nn.init.normal_(embeddings.patch_embedding.weight, std=(3 * PATCH * PATCH) ** -0.5)
    with torch.no_grad():
        embeddings.position_embedding.weight[1:] = _places(shape.tower_width)
    for key, value in (("bos", 0), ("eos", 1), ("pad", 2)):
        setattr(model.generation_config, f"{key}_token_id", value)
    return model
