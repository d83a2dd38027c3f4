"""A GPT-2 whose weights are set by hand, so that it is known which head copies and why.

The residual stream has four parts of one head's width: the token itself, the token before it, the place, the output.
L0H1 attends to the place before and writes the token found there into the second part. L1H2 attends to the place whose
second part is the present token, so to what followed it last time, and writes the token found there to the output: an
induction head. All other heads look at the first token and write noise, far too small to change an answer.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from headscope import Head, HookedModel, Sample
from headscope.scoring import exact_match

BEFORE = Head(0, 1)
"""Writes down which token came before; needed while the prompt is read, copies nothing."""
COPIER = Head(1, 2)
"""Copies."""
LAYERS, HEADS, WIDTH = 2, 4, 64

_SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", ".")
KEYS = tuple(f"key{i}" for i in range(10))
NEEDLE_WORDS = tuple(f"n{i}" for i in range(20))
FILLER = tuple(f"f{i}" for i in range(20))


def planted(*, copier: bool = True) -> HookedModel:
    """The model; with `copier=False` L1H2 is one of the others, and nothing copies."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=WIDTH,
            n_positions=WIDTH,
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
        _plant(hf, copier)
    return HookedModel(hf, planted_tokenizer(), name="planted")


@torch.no_grad()
def _plant(hf: GPT2LMHeadModel, copier: bool) -> None:
    token, before, place, output = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(4))
    one = torch.eye(WIDTH)
    for layer, block in enumerate(hf.transformer.h):
        block.mlp.c_proj.weight.zero_()
        block.mlp.c_proj.bias.zero_()
        for head in range(HEADS):
            q, k, v = (_columns(block, kind, head) for kind in range(3))
            for weight, bias in (q, k, v):
                weight.zero_()
                bias.zero_()
            out = block.attn.c_proj.weight[head * WIDTH : (head + 1) * WIDTH]
            out.zero_()
            v[0][token] = one / 10  # about 1 after the norm, which multiplies by about 10
            if (layer, head) == BEFORE:
                q[0][place] = 4 * one.roll(-1, 1)
                k[0][place] = one
                out[:, before] = one
            elif copier and (layer, head) == COPIER:
                q[0][token] = 4 * one
                k[0][before] = one
                out[:, output] = one
            else:
                q[1][0] = 40.0
                k[0][place] = one
                out[:, output] = 0.02 * torch.randn(WIDTH, WIDTH)
        block.attn.c_proj.bias.zero_()
    hf.transformer.wte.weight.zero_()[:, token] = one
    hf.transformer.wpe.weight.zero_()[:, place] = one
    hf.lm_head.weight.zero_()[:, output] = one


def _columns(block: torch.nn.Module, kind: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    start = (kind * HEADS + head) * WIDTH
    return block.attn.c_attn.weight[:, start : start + WIDTH], block.attn.c_attn.bias[start : start + WIDTH]


def planted_tokenizer() -> PreTrainedTokenizerFast:
    """A token a word; every prompt begins with `<s>`."""
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *KEYS, *NEEDLE_WORDS, *FILLER])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@dataclass(frozen=True)
class Copying:
    """Filler, somewhere in it a key with a needle of `words` behind it, and at the end the key again."""

    lengths: tuple[int, ...] = (14, 20, 27)
    words: int = 4
    repeats: int = 2
    seed: int = 0
    stop: tuple[str, ...] = (".",)

    def samples(self, tokenizer: object) -> list[Sample]:
        return [self._sample(length, repeat) for length in self.lengths for repeat in range(self.repeats)]

    def score(self, sample: Sample, answer: str) -> float:
        return exact_match(answer, sample.target)

    def _sample(self, length: int, repeat: int) -> Sample:
        rng = random.Random(f"{self.seed}/{length}/{repeat}")
        key, needle = rng.choice(KEYS), " ".join(rng.sample(NEEDLE_WORDS, self.words))
        filler = list(islice(cycle(rng.sample(FILLER, len(FILLER))), length - self.words - 4))
        at = rng.randint(1, len(filler) - 1)
        text = " ".join([*filler[:at], key, needle, ".", *filler[at:], key])
        return Sample(text, needle, {"needle": needle}, meta={"length": length, "repeat": repeat})


def others(*heads: Head) -> Sequence[Head]:
    """Every head of the planted model but these."""
    every = [Head(layer, head) for layer in range(LAYERS) for head in range(HEADS)]
    return [head for head in every if head not in heads]
