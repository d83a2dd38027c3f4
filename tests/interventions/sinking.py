"""A GPT-2 whose weights are set by hand so that one head of every layer gives most of its attention to one word.

In head 0 every query looks for the word `key0`; in the other heads all keys are alike, so attention is spread evenly.
What heads write to the stream is small, so that layers above see the same, with and without an edit.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from headscope import HookedModel
from tests.head_analysis.planted import planted_tokenizer

LAYERS, HEADS, WIDTH = 5, 4, 16
SINK = "key0"


def sinking(score: float = 3.0) -> HookedModel:
    """The model; `score` is by how much the sink's score exceeds that of other keys."""
    tokenizer = planted_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=64,
            n_positions=64,
            n_embd=HEADS * WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=8,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        hf = GPT2LMHeadModel(config).eval()
        _plant(hf, tokenizer.convert_tokens_to_ids(SINK), score)
    hf.generation_config.eos_token_id = None
    return HookedModel(hf, tokenizer, name="sinking")


@torch.no_grad()
def _plant(hf: GPT2LMHeadModel, sink: int, score: float) -> None:
    hf.transformer.wte.weight.copy_(torch.eye(64))
    hf.transformer.wpe.weight.zero_()
    hf.lm_head.weight.normal_()
    after_norm = 64**0.5 * (1 - 1 / 64) ** 0.5  # of the one dimension that a word has
    for block in hf.transformer.h:
        block.mlp.c_proj.weight.zero_()
        block.mlp.c_proj.bias.zero_()
        weight, bias = block.attn.c_attn.weight.zero_(), block.attn.c_attn.bias.zero_()
        bias[0] = score * WIDTH**0.5  # query of head 0
        weight[sink, 64] = 1 / after_norm  # key of head 0
        weight[:, 128:].normal_(0, 0.1)
        block.attn.c_proj.weight.normal_(0, 0.01)


WRONG, RIGHT = "n0", "n1"
"""The two answers of `misled`."""
MISLEADING, USEFUL = "key0", "key1"
"""The sinks of its two heads."""


def misled() -> HookedModel:
    """A model of the same kind in which two heads of layer 2 decide between two answers, n0 and n1.

    L2H0 gives most of its attention to `key0`, if it is there, which speaks for n0; all other words speak for n1. L2H1
    gives most of its attention to `key1`, which speaks for n0 and louder; other words say nothing there. A head with its
    sink calibrated is told from one without: L2H0 changes from n0 to n1, L2H1 from n0 to what L2H0 says.
    """
    model = sinking()
    tokenizer, hf = model.tokenizer, model.hf
    answers = [tokenizer.convert_tokens_to_ids(word) for word in (WRONG, RIGHT)]
    misleading, useful = (tokenizer.convert_tokens_to_ids(word) for word in (MISLEADING, USEFUL))
    after_norm = 64**0.5 * (1 - 1 / 64) ** 0.5
    with torch.no_grad():
        for block in hf.transformer.h:
            block.attn.c_attn.weight[:, 128:] = 0
        attention = hf.transformer.h[2].attn
        weight, bias = attention.c_attn.weight, attention.c_attn.bias
        bias[WIDTH] = bias[0]
        weight[useful, 64 + WIDTH] = 1 / after_norm
        bias[128 + 1] = 1  # value of L2H0: its first dimension for n0, its second for n1
        weight[misleading, 128:130] = torch.tensor([1.0, -1.0]) / after_norm
        weight[useful, 128 + WIDTH] = 2.5 / after_norm
        attention.c_proj.weight.zero_()
        hf.lm_head.weight.zero_()
        for dimension, answer in enumerate(answers):
            for head in (0, 1):
                attention.c_proj.weight[head * WIDTH + dimension, 60 + dimension] = 1
            hf.lm_head.weight[answer, 60 + dimension] = 1
    return model
