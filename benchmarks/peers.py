"""The same model in the libraries that headscope is measured against; each gets a copy, since some change their model."""

import copy
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast


def words_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """`t0 t1 ...` are tokens 0, 1, ...; nothing is added to a prompt."""
    words = {f"t{i}": i for i in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "t0")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def in_words(ids: Sequence[int]) -> str:
    """Token ids as the prompt that `words_tokenizer` turns into them."""
    return " ".join(f"t{i}" for i in ids)


def in_transformer_lens(hf: PreTrainedModel) -> Any:
    """A TransformerBridge around a copy of the model."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import helpers

    helpers._ensure_torchvision = lambda: False  # it would install packages into this environment
    hf = copy.deepcopy(hf)
    hf.config.architectures = [type(hf).__name__]
    with TemporaryDirectory() as folder:  # the bridge wants a tokenizer that was loaded from somewhere
        words_tokenizer(hf.config.vocab_size).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers("bench", hf_model=hf, tokenizer=tokenizer, device="cpu")


def in_nnsight(hf: nn.Module) -> Any:
    """A copy of the model in nnsight."""
    from nnsight import NNsight

    return NNsight(copy.deepcopy(hf))
