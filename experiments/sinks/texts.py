"""Plain texts of given lengths in tokens, from a user's files or from filler in words that the model knows."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.samples import Sample
from tasks import prose
from tasks.backcopy import written
from tasks.haystack import Piece, most, read, refuse_unknown, stream, take
from tasks.kinds import CUE, kind_text, knows_kinds
from tasks.scene_world import scene

_WORDS = 40
"""Words and stops of a short text."""


def text_samples(
    model: HookedModel, lengths: tuple[int, ...], n: int, *, path: Path | None = None, seed: int = 0
) -> list[Sample]:
    """`n` texts of each length, lengths in turn: whole sentences, as many as fit.

    Each text of a user's file (or folder of .txt files) starts at a random sentence and goes on at the beginning after
    the end, so texts from a short file overlap. Filler is that of `tasks.prose`; for models whose vocabulary lacks its
    words captions of scenes, and for those that have the words of `tasks.kinds` texts of it, one behind the other, each
    begun as a text begins. UsageError for lengths beyond the model's context, files with too little text, and words that
    the tokenizer does not know.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UsageError(f"{model.name} came without a tokenizer, so it can read no text; save its tokenizer beside it")
    if model.context_length is not None and max(lengths) > model.context_length:
        raise UsageError(
            f"length {max(lengths)} does not fit the context of {model.name}, {model.context_length} tokens; ask for "
            "shorter lengths"
        )
    own = None if path is None else read(path)
    if own is not None:
        _refuse_unknown(own, path, tokenizer)
    filler = _prose if own is not None else _filler_for(model, tokenizer)
    made = []
    for i in range(n):
        for length in lengths:
            key = f"text/{seed}/{length}/{i}"
            pieces = take(stream(own, key) if own is not None else filler(key), tokenizer, 1.5 * length + 64)
            made.append(Sample(_cut(model, pieces, length, path), meta={"length": length}))
    return made


def _cut(model: HookedModel, pieces: list[Piece], length: int, path: Path | None) -> str:
    def text(kept: int) -> str:
        return "".join(piece.text + piece.gap for piece in pieces[:kept]).strip()

    def size(kept: int) -> int:
        return len(model.tokens(text(kept)).ids)

    if size(1) > length:
        raise UsageError(f"a single sentence takes {size(1)} tokens, more than length {length}; ask for a longer one")
    kept = most(pieces, length, size)
    if kept == len(pieces):
        raise UsageError(
            f"{path} holds {size(kept)} tokens, too few for length {length}; give more text, or shorter lengths"
        )
    return text(kept)


def _filler_for(model: HookedModel, tokenizer: Any) -> Callable[[str], Iterator[Piece]]:
    """Filler in words that the model knows, by a key."""
    if knows_kinds(tokenizer):
        return partial(_packed, tokenizer)
    if _knows(tokenizer, " ".join(sorted(prose.words()))):
        return _prose
    _refuse_unknown_filler(model, tokenizer)
    return _captions


def _prose(key: str) -> Iterator[Piece]:
    return stream(None, key)


def _captions(key: str) -> Iterator[Piece]:
    return (Piece(scene(f"usual/{key}/{i}", violating=False).caption(), " ") for i in count())


def _packed(tokenizer: Any, key: str) -> Iterator[Piece]:
    """Short texts; where the tokenizer begins every prompt by itself, it begins the first of them."""
    given = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
    for i in count():
        words, kind = kind_text(random.Random(f"{key}/{i}"), _WORDS)
        text = f"{written(words)} {CUE} {kind}."
        yield Piece(text if given and not i else f"{tokenizer.bos_token} {text}", " ")


def _refuse_unknown(own: Sequence[Piece], path: Path | None, tokenizer: Any) -> None:
    """UsageError for the first sentence with a word that the tokenizer does not know."""
    if tokenizer.unk_token_id is None:
        return
    for piece in own:
        if tokenizer.unk_token_id in tokenizer(piece.text, add_special_tokens=False)["input_ids"]:
            raise UsageError(
                f"the tokenizer does not know all words of {piece.text[:60]!r} in {path}; give texts in words of the "
                "model's vocabulary"
            )


def _knows(tokenizer: Any, text: str) -> bool:
    try:
        refuse_unknown(text, tokenizer)
    except UsageError:
        return False
    return True


def _refuse_unknown_filler(model: HookedModel, tokenizer: Any) -> None:
    known = (next(_captions(str(i))).text for i in range(64))
    if not _knows(tokenizer, " ".join(known)):
        raise UsageError(
            f"the tokenizer of {model.name} does not know the words of the built-in filler; give texts of its kind "
            "with --texts"
        )
