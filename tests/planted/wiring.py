"""Llama models whose weights are set by hand, so that it is known what every head does and what it is worth.

The residual stream has sections of 64 slots each, one slot a known word, and a large constant that every token carries,
spread over sixteen dimensions so that none of them stands out. The constant decides the norms, so each norm is the same
division for every token to about one part in a thousand, and what heads read, match and write adds up as if there were
no norms. A word may carry one huge dimension more, as attention sinks do; what it is read as shrinks by a fourteenth.
MLPs add nothing. A head is 128 wide: rotary pairs turn from 1 radian a token to next to nothing; the eight fastest tell
places apart, the slow ones hold the slots of a word unturned.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from headscope import Head, HookedModel

SLOTS = 64
SECTIONS = ("token", "before", "flag", "inhibit", "output")
_SPREAD = 16
D_MODEL = SLOTS * len(SECTIONS) + 24 + _SPREAD  # which 4, 5 and 6 heads divide
CONSTANT = slice(D_MODEL - _SPREAD, D_MODEL)
MASSIVE, HUGE = SLOTS * len(SECTIONS), 40.0
"""The dimension that marks sinks, and its size there; elsewhere it is 0."""
SIZE = 100.0
"""Length of the constant; what heads write is of order 1."""
EACH = SIZE / _SPREAD**0.5
"""What each of its dimensions holds."""
D_HEAD, PAIRS, PLACE_PAIRS = 128, 64, 8
THETA = 1e8
LOGIT = 10.0
"""Logit of a word whose slot in `output` holds 1."""

_SEEN = D_MODEL**0.5 / SIZE
"""What a norm multiplies by."""
_CONTENT = torch.tensor([*range(PAIRS // 2, PAIRS), *range(PAIRS + PAIRS // 2, D_HEAD)])


def column(section: str, slot: int) -> int:
    """Where a slot of a section stands in the stream."""
    return SECTIONS.index(section) * SLOTS + slot


def place_query(offset: int, strength: float) -> Tensor:
    """[d_head] that scores `strength` on the key `offset` places back and less everywhere else."""
    angle = offset * THETA ** (-torch.arange(PLACE_PAIRS) / PAIRS)
    query = torch.zeros(D_HEAD)
    query[:PLACE_PAIRS], query[PAIRS : PAIRS + PLACE_PAIRS] = angle.cos(), -angle.sin()
    return query * strength / PLACE_PAIRS


def place_key() -> Tensor:
    """[d_head] of the key that `place_query` is made for."""
    return torch.zeros(D_HEAD).index_fill(0, torch.arange(PLACE_PAIRS), 1.0)


def slot(number: int, strength: float = 1.0) -> Tensor:
    """[d_head] that stands for one slot."""
    return torch.zeros(D_HEAD).index_fill(0, _CONTENT[number], strength)


def reads(section: str, strength: float = 1.0, *, only: Iterable[int] = range(SLOTS)) -> Tensor:
    """[d_head d_model] that turns every slot of a section into the vector that stands for it."""
    weight = torch.zeros(D_HEAD, D_MODEL)
    for number in only:
        weight[:, column(section, number)] = slot(number, strength)
    return weight


def always(vector: Tensor) -> Tensor:
    """[d_head d_model] that gives the same vector for every token."""
    weight = torch.zeros(D_HEAD, D_MODEL)
    weight[:, CONSTANT] = vector[:, None] / (SIZE * _SPREAD**0.5)
    return weight


def where(vector: Tensor, slots: Iterable[int]) -> Tensor:
    """[d_head d_model] that gives a vector for tokens with one of these slots."""
    weight = torch.zeros(D_HEAD, D_MODEL)
    weight[:, [column("token", number) for number in slots]] = vector[:, None]
    return weight


def writes(section: str, strength: float = 1.0) -> Tensor:
    """[d_model d_head] that turns vectors which stand for slots into slots of a section."""
    weight = torch.zeros(D_MODEL, D_HEAD)
    for number in range(SLOTS):
        weight[column(section, number), _CONTENT[number]] = strength
    return weight


@dataclass(frozen=True)
class Wire:
    """What one head asks, what it answers to, what it hands over and where it writes that."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


def wired(
    wires: Mapping[Head, Wire],
    tokenizer: PreTrainedTokenizerFast,
    slots: Mapping[str, int],
    *,
    layers: int,
    heads: int = 4,
    noise: float = 0.0,
    massive: Collection[str] = (),
    name: str = "planted",
) -> HookedModel:
    """The model; words without a slot are all alike. Heads without a wire look at all tokens alike and write `noise`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf = LlamaForCausalLM(llama_config(tokenizer, layers=layers, heads=heads)).eval()
        plant(hf.model, hf.lm_head, wires, tokenizer, slots, noise=noise, massive=massive)
    return HookedModel(hf, tokenizer, name=name)


def llama_config(tokenizer: PreTrainedTokenizerFast, *, layers: int, heads: int) -> LlamaConfig:
    """Of a model that `plant` can set the weights of."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        head_dim=D_HEAD,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=128,
        rms_norm_eps=1e-9,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def plant(
    stack: LlamaModel,
    unembedding: torch.nn.Linear,
    wires: Mapping[Head, Wire],
    tokenizer: PreTrainedTokenizerFast,
    slots: Mapping[str, int],
    *,
    noise: float = 0.0,
    massive: Collection[str] = (),
) -> None:
    """Sets all weights of a stack of layers and of what reads words from it; `massive` words carry the huge dimension."""
    for layer, block in enumerate(stack.layers):
        block.mlp.down_proj.weight.zero_()
        for head in range(stack.config.num_attention_heads):
            _set(block.self_attn, head, wires.get(Head(layer, head)) or _idle(noise))
    words = stack.embed_tokens.weight.zero_()
    words[:, CONSTANT] = EACH
    unembedding.weight.zero_()
    for word, number in slots.items():
        token = tokenizer.convert_tokens_to_ids(word)
        words[token, column("token", number)] = 1.0
        unembedding.weight[token, column("output", number)] = LOGIT / _SEEN
    words[[tokenizer.convert_tokens_to_ids(word) for word in massive], MASSIVE] = HUGE


@torch.no_grad()
def scramble(model: HookedModel, heads: Iterable[Head], *, seed: int) -> HookedModel:
    """The model itself, with the entries of each weight of these heads in another order: a control without structure."""
    generator = torch.Generator().manual_seed(seed)
    for layer, head in heads:
        attention, part = model.hf.model.layers[layer].self_attn, slice(head * D_HEAD, (head + 1) * D_HEAD)
        inward = [getattr(attention, f"{kind}_proj").weight[part] for kind in "qkv"]
        for weight in (*inward, attention.o_proj.weight[:, part]):
            order = torch.randperm(weight.numel(), generator=generator)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return model


def _set(attention: Any, head: int, wire: Wire) -> None:
    rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
    attention.q_proj.weight[rows] = wire.query * D_HEAD**0.5 / _SEEN
    attention.k_proj.weight[rows] = wire.key / _SEEN
    attention.v_proj.weight[rows] = wire.value / _SEEN
    attention.o_proj.weight[:, rows] = wire.out


def _idle(noise: float) -> Wire:
    nothing = torch.zeros(D_HEAD, D_MODEL)
    out = torch.zeros(D_MODEL, D_HEAD)
    out[column("output", 0) : column("output", 0) + SLOTS] = noise * torch.randn(SLOTS, D_HEAD)
    return Wire(nothing, nothing, reads("token"), out)
