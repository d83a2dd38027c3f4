"""The rows that `zoo:sinks` is trained and examined on: several short texts one behind the other, `<s>` before each."""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tasks.backcopy import COPIES, copied
from tasks.kinds import CUE, KINDS, kind_text
from tasks.prose import words

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
FEWEST, MOST, LONGEST = 24, 64, 240


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level fast tokenizer over the project's own prose, case folded; it puts `<s>` before every text."""
    vocabulary = [*SPECIAL, *".,", *sorted(words() | set(COPIES) | set(KINDS) | {CUE})]
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
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class Rows:
    """Token ids, and which of them are copies behind a trigger and which are names of a kind."""

    ids: Int[Tensor, "row token"]
    copies: Bool[Tensor, "row token"]
    kinds: Bool[Tensor, "row token"]


def rows(vocabulary: dict[str, int], length: int, count: int, key: str) -> Rows:
    """Rows of `length` tokens full of texts; the last text of a row is cut off where the row ends."""
    rng = random.Random(key)
    drawn = [_row(rng, length) for _ in range(count)]
    ids = torch.tensor([[vocabulary[word] for word in words] for words, _, _ in drawn])
    copies, kinds = (torch.zeros_like(ids, dtype=torch.bool) for _ in range(2))
    for row, (_, copied_at, kind_at) in enumerate(drawn):
        copies[row, copied_at] = True
        kinds[row, kind_at] = True
    return Rows(ids, copies, kinds)


def _row(rng: random.Random, length: int) -> tuple[list[str], list[int], list[int]]:
    words: list[str] = []
    copies: list[int] = []
    kinds: list[int] = []
    while len(words) < length:
        count = rng.randint(FEWEST, MOST) if rng.random() < 0.85 else rng.randint(MOST, LONGEST)
        text, kind = kind_text(rng, count)
        start = len(words) + 1
        copies += [start + place for place in copied(text)]
        words += ["<s>", *text, CUE, kind, "."]
        kinds.append(len(words) - 2)
    return words[:length], [i for i in copies if i < length], [i for i in kinds if i < length]
