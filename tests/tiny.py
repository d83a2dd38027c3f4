"""One table of tiny random models, a row an architecture: built from a config in milliseconds, no downloads.

Default initialisation leaves attention near uniform, which hides most errors, so the weights are redrawn: attention is
peaked, norms and biases are asymmetric, logits stay of order 1-10. Every call of `build` returns a fresh model.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

VOCAB = 99
PAD, BOS, EOS = 0, 1, 2
IMAGE_TOKEN, VIDEO_TOKEN = 5, 6
FIRST_WORD = 10  # ids below are special, and prompts hold none but image tokens
WINDOW = 8  # sliding-window models attend to this many tokens, fewer than a prompt holds
IMAGE, PATCH = 24, 4  # pixels a side: 36 patches

Kind = Literal["decoder", "vlm", "encoder", "vision", "dual", "encoder_decoder"]
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Tiny:
    """A recipe for a small random model and a batch it accepts."""

    name: str
    build: Callable[[], PreTrainedModel]
    """A fresh model, the same weights each time, in eval mode and fp32."""
    inputs: Callable[[], Inputs]
    """Keyword arguments for the forward: no padding, no attention mask, at least 12 text tokens where there is text."""
    generates: bool
    """Whether `.generate(**inputs())` continues text; it never stops before `max_new_tokens`."""
    kind: Kind


def build(name: str) -> PreTrainedModel:
    """A fresh model of the row called `name`, in either table."""
    return (TINY | UNSUPPORTED)[name].build()


def prompt(length: int = 16, *, batch: int = 1, seed: int = 0) -> Inputs:
    """Random words, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(FIRST_WORD, VOCAB, (batch, length), generator=generator)}


def left_padded(inputs_a: Mapping[str, Tensor], inputs_b: Mapping[str, Tensor], pad_id: int = PAD) -> Inputs:
    """One batch of two prompts, the shorter padded on the left, with its attention mask."""
    rows = [inputs["input_ids"][0] for inputs in (inputs_a, inputs_b)]
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True, padding_side="left")
    return {
        "input_ids": pad(rows, padding_value=pad_id),
        "attention_mask": pad([torch.ones_like(row) for row in rows]),
    }


def _pixels(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _around_images(counts: Sequence[int], *, types: str = "") -> Inputs:
    """Six words before, between and after runs of image tokens; `types` names the map of what each token is."""
    words = prompt(6 * (len(counts) + 1))["input_ids"].split(6, dim=1)
    runs = [torch.full((1, count), IMAGE_TOKEN) for count in counts]
    parts = [part for pair in zip(words, runs, strict=False) for part in pair] + [words[-1]]
    ids = torch.cat(parts, dim=1)
    return {"input_ids": ids} | ({types: (ids == IMAGE_TOKEN).long()} if types else {})


def _one_image(count: int, *, types: str = "", tiles: Sequence[int] = (1,), **extra: Tensor) -> Inputs:
    """A prompt with one square image; `tiles` are the dimensions before the channels."""
    return _around_images([count], types=types) | {"pixel_values": _pixels(*tiles, 3, IMAGE, IMAGE)} | extra


def _two_grids() -> Inputs:
    """A Qwen prompt with two images of different size: flattened patches, and 2x2 patches merged into a token."""
    grids = torch.tensor([[1, 4, 6], [1, 6, 8]])
    patches = grids.prod(-1)
    text = _around_images((patches // 4).tolist(), types="mm_token_type_ids")
    return text | {"pixel_values": _pixels(int(patches.sum()), 3 * 2 * PATCH**2), "image_grid_thw": grids}


def _started(ids: Tensor) -> Tensor:
    """Words after the decoder's start token, which `generate` would put before them."""
    return nn.functional.pad(ids, (1, 0), value=BOS)


def _images(*, batch: int = 2) -> Inputs:
    return {"pixel_values": _pixels(batch, 3, IMAGE, IMAGE)}


def _redraw(model: PreTrainedModel, peak: float) -> None:
    """Replaces the weights in place so that scores have a standard deviation of about `peak ** 2`."""
    seen = set()
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in seen:  # a head tied to the embedding keeps the embedding's scale
                continue
            seen.add(id(weight))
            scores = set(re.split(r"[._]", path)) & {"q", "k", "kv", "qkv", "query", "key", "Wqkv"} or "c_attn" in path
            if name in ("A_log", "dt_bias"):  # the decay of a linear-attention layer
                continue
            if name == "logit_scale":
                weight.data.fill_(2.5)
            elif weight.ndim == 1:
                # additive, since some norms store the distance from 1
                shift = peak - 1 if scores and name == "weight" else 0.0
                spread = 1.0 if name == "sinks" else 0.15
                weight.data += shift + spread * torch.randn_like(weight)
            else:
                weight.data.normal_(0, _spread(module, weight) * (peak if scores else 1.3))


def _spread(module: nn.Module, weight: Tensor) -> float:
    """Standard deviation under which the layer keeps unit variance."""
    if isinstance(module, nn.Embedding) or weight.shape[0] == 1:  # the latter are class tokens and positions
        return 0.5
    if isinstance(module, Conv1D):
        return weight.shape[0] ** -0.5
    if weight.ndim == 3 and not isinstance(module, nn.Conv1d):
        # experts are [expert, in, out] or [expert, out, in]: between the two
        return weight[0].numel() ** -0.25
    return weight[0].numel() ** -0.5


def _construct(auto: str, model_type: str, config: Mapping[str, Any], peak: float) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # configs keep and complete the dicts they are given, and rows share theirs
        model = getattr(transformers, auto).from_config(AutoConfig.for_model(model_type, **copy.deepcopy(config)))
        _redraw(model, peak)
    if model.can_generate():
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
    return model.float().eval()


def _row(
    kind: Kind,
    auto: str,
    name: str,
    inputs: Callable[[], Inputs],
    *,
    model_type: str = "",
    peak: float = 1.8,
    **config: Any,
) -> Tiny:
    recipe = partial(_construct, auto, model_type or name, config, peak)
    return Tiny(name, recipe, inputs, kind in ("decoder", "vlm", "encoder_decoder"), kind)


_SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {"vocab_size": VOCAB, "max_position_embeddings": 256} | _SHAPE | _SPECIAL
_GQA = _TEXT | {"num_key_value_heads": 2}
_HEAD_DIM = _GQA | {"head_dim": 8}
_GEMMA = _HEAD_DIM | {"query_pre_attn_scalar": 8, "sliding_window": WINDOW}
_EXPERTS = {"num_experts_per_tok": 2}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
_VISION = _SHAPE | {"image_size": IMAGE, "patch_size": PATCH}
_TOWER = _SHAPE | {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
_IMAGE_IDS = {"image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN}
_LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 16}

_decoder = partial(_row, "decoder", "AutoModelForCausalLM")
_vlm = partial(_row, "vlm", "AutoModelForImageTextToText")
_encoder = partial(_row, "encoder", "AutoModelForMaskedLM", inputs=partial(prompt, batch=2))
_vision = partial(_row, "vision", "AutoModel", inputs=_images)
_dual = partial(_row, "dual", "AutoModel", inputs=lambda: prompt(batch=2) | _images())
_pair = partial(
    _row,
    "encoder_decoder",
    "AutoModelForSeq2SeqLM",
    inputs=lambda: prompt(batch=2) | {"decoder_input_ids": _started(prompt(12, batch=2, seed=1)["input_ids"])},
    decoder_start_token_id=BOS,
)


def _qwen_vl(name: str, *, text: Mapping[str, Any], tower: Mapping[str, Any]) -> Tiny:
    head = {"text_config": dict(text) | _MROPE, "vision_config": _TOWER | tower}
    return _vlm(name, _two_grids, **head, **_IMAGE_IDS, vision_start_token_id=7, vision_end_token_id=8)


_DECODERS = [
    _decoder("llama", prompt, **_GQA),
    _decoder("llama_mha", prompt, model_type="llama", **_TEXT),
    _decoder("qwen2", prompt, **_GQA),
    _decoder(
        "qwen2_sliding",
        prompt,
        model_type="qwen2",
        **_GQA | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    _decoder("qwen3", prompt, **_HEAD_DIM),
    _decoder("mistral", prompt, **_GQA, sliding_window=WINDOW),
    _decoder("mixtral", prompt, **_GQA, **_EXPERTS, num_local_experts=4),
    _decoder("gemma", prompt, **_HEAD_DIM),
    # the default cap of 50 would not bend scores of this size
    _decoder("gemma2", prompt, **_GEMMA, attn_logit_softcapping=4.0, **_MIXED),
    _decoder("gemma3", prompt, model_type="gemma3_text", **_GEMMA, **_MIXED),
    _decoder("gpt2", prompt, **_TEXT),
    _decoder("gpt_neox", prompt, **_TEXT),
    _decoder("phi3", prompt, **_GQA),
    _decoder("olmo2", prompt, **_GQA),
    _decoder("opt", prompt, **_TEXT, ffn_dim=48, word_embed_proj_dim=32),
    _decoder(
        "gpt_oss",
        prompt,
        **_HEAD_DIM | _EXPERTS | _MIXED,
        num_local_experts=4,
        sliding_window=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ),
    _decoder(
        "deepseek_v3",
        prompt,
        **_TEXT | _MLA | _EXPERTS,
        num_key_value_heads=4,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        num_mtp_layers=0,
    ),
    _decoder(
        "qwen3_next",
        prompt,
        **_HEAD_DIM | _LINEAR | _EXPERTS,
        num_experts=4,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
    _decoder("bitnet", prompt, **_GQA),
]

_BART = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
_SIGLIP = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
_LLAMA, _QWEN2 = ({"model_type": name} | _GQA for name in ("llama", "qwen2"))

_VLMS = [
    _vlm(
        "llava",
        partial(_one_image, 36),
        text_config=_LLAMA,
        vision_config=_VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE_TOKEN,
    ),
    _vlm(
        "llava_next",
        # as llava_onevision
        partial(_one_image, 36 + 6 * 7, tiles=(1, 2), image_sizes=torch.tensor([[IMAGE, IMAGE]])),
        text_config=_LLAMA,
        vision_config=_VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[[IMAGE, IMAGE], [IMAGE, 2 * IMAGE]],
    ),
    _vlm(
        "llava_onevision",
        # 36 tokens for the whole image, then 6 rows of 6 with a newline each for its only tile
        partial(_one_image, 36 + 6 * 7, tiles=(1, 2), image_sizes=torch.tensor([[IMAGE, IMAGE]])),
        text_config=_QWEN2,
        vision_config=_SIGLIP,
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=[[IMAGE, IMAGE], [IMAGE, 2 * IMAGE]],
    ),
    _qwen_vl("qwen2_vl", text=_GQA, tower={"embed_dim": 32, "mlp_ratio": 2}),
    _qwen_vl(
        "qwen2_5_vl",
        text=_GQA,
        # windows of 4x4 patches in layer 0, which do not divide either image
        tower={"out_hidden_size": 32, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]},
    ),
    _qwen_vl(
        "qwen3_vl",
        text=_HEAD_DIM,
        tower={"out_hidden_size": 32, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
    _vlm(
        "idefics3",
        partial(_one_image, 9, tiles=(1, 1)),
        text_config=_LLAMA,
        vision_config=_VISION,
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
    ),
    _vlm(
        "gemma3_mm",
        partial(_one_image, 9, types="token_type_ids"),
        model_type="gemma3",
        text_config=_GEMMA | _MIXED,
        vision_config=_SIGLIP,
        mm_tokens_per_image=9,
        image_token_index=IMAGE_TOKEN,
        boi_token_index=7,
        eoi_token_index=8,
    ),
    _vlm(
        "internvl",
        partial(_one_image, 9),
        text_config=_QWEN2,
        vision_config=_VISION,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=9,
    ),
    _vlm(
        "paligemma",
        partial(_one_image, 36, types="token_type_ids"),
        text_config=_HEAD_DIM | {"model_type": "gemma"},
        vision_config=_SIGLIP,
        image_token_index=IMAGE_TOKEN,
        projection_dim=32,
    ),
]

_OTHERS = [
    *(_encoder(name, **_TEXT) for name in ("bert", "roberta", "distilbert")),
    _encoder("modernbert", **_TEXT, **_MIXED, local_attention=WINDOW, cls_token_id=BOS, sep_token_id=EOS),
    *(_vision(name, **_VISION) for name in ("vit", "dinov2")),
    *(_dual(name, text_config=_TEXT, vision_config=_VISION, projection_dim=32) for name in ("clip", "siglip")),
    # T5 does not divide scores by the root of the head dimension
    _pair("t5", peak=1.0, vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **_SPECIAL),
    _pair(
        "bart",
        vocab_size=VOCAB,
        d_model=32,
        max_position_embeddings=256,
        **{f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in _BART.items()},
        forced_eos_token_id=None,
        **_SPECIAL,
    ),
]

TINY: dict[str, Tiny] = {row.name: row for row in _DECODERS + _VLMS + _OTHERS}
"""Models whose attention goes through the attention interface of transformers."""

UNSUPPORTED: dict[str, Tiny] = {
    row.name: row
    for row in [
        _decoder("gptj", prompt, **_TEXT, rotary_dim=4),
        _decoder("falcon", prompt, **_TEXT),
        _decoder("bloom", prompt, **_TEXT),
        _encoder("deberta_v2", model_type="deberta-v2", **_TEXT),
    ]
}
"""Models which compute attention by themselves."""
