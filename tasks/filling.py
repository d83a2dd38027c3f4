"""Templates filled with words of one token, so that prompts that differ in a word still match token by token."""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from headscope.errors import UsageError
from headscope.samples import Sample, Span, tokenize


def filled(template: str, words: Mapping[str, str]) -> tuple[str, dict[str, Span]]:
    """The template with `words` in its fields, and the characters that each field became."""
    text, spans = "", {}
    for literal, name, _, _ in Formatter().parse(template):
        text += literal
        if name is not None:
            spans[name] = (len(text), len(text) + len(words[name]))
            text += words[name]
    return text, spans


def one_token_words(words: Sequence[str], tokenizer: Any) -> tuple[str, ...]:
    """Those of the words that are one token of their own behind a space, each with a token that no other has."""
    before = _ids("and", tokenizer)
    found: dict[int, str] = {}
    for word in words:
        ids = _ids(f"and {word}", tokenizer)
        if ids[: len(before)] == before and len(ids) == len(before) + 1 and ids[-1] != tokenizer.unk_token_id:
            found.setdefault(ids[-1], word)
    return tuple(found.values())


def check_single(sample: Sample, tokenizer: Any, names: Sequence[str]) -> dict[str, Span]:
    """Token spans of a sample's marks; UsageError if one of `names` is not one token, or END not the last."""
    tokens = tokenize(sample, tokenizer)
    for name in names:
        start, end = tokens.marks[name]
        if end != start + 1:
            raise UsageError(
                f"{name} ({sample.prompt[slice(*sample.characters(name))]!r}) takes {end - start} tokens in its "
                "prompt; give words that the tokenizer keeps whole"
            )
    if tokens.marks["END"][1] != len(tokens.ids):
        raise UsageError(
            f"the tokenizer writes {len(tokens.ids) - tokens.marks['END'][1]} tokens behind the prompt, so the "
            "answer would not be the next token; use one that adds none at the end"
        )
    return dict(tokens.marks)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids
