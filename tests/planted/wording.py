"""Word-level tokenizers made of the words that a task needs: GPT-2's own is not at hand, and no task may depend on it."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")


def word_level(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Every word, punctuation mark and new line of the texts is a token; every prompt begins with `<s>`."""
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\w+|[^\w\s]|\n", text))
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), "isolated"),
            pre_tokenizers.Split(" ", "removed"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
