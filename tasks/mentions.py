"""Where a text names objects: words mapped to categories through a table of synonyms, with their places."""

import re
from dataclasses import dataclass
from itertools import pairwise

from tasks.nouns import singular
from tasks.synonyms import NOTHING, Synonyms

_QUALIFIERS = frozenset({"adult", "baby", "infant", "orange"})
"""Directly before another object these say which one it is (`baby elephant`, `orange cat`) and are no object."""

_JOINT = re.compile(r"\s+|-")


@dataclass(frozen=True)
class Mention:
    """An object named in a text: its category, and where (start, end), in characters of the text."""

    category: str
    start: int
    end: int


def find_mentions(text: str, synonyms: Synonyms) -> list[Mention]:
    """Every object that a text names, in order; a category named twice is there twice.

    Words are compared in lower case and in the singular, the longest phrase of the table first (`hot dog` before `dog`).
    The words of a phrase must stand side by side, parted by space or a hyphen only.
    """
    words = [(singular(found.group().lower()), *found.span()) for found in re.finditer(r"[^\W_]+", text)]
    found: list[tuple[Mention, bool]] = []
    i = 0
    while i < len(words):
        length = _longest(words[i:], text, synonyms)
        if length:
            parts = tuple(word for word, _, _ in words[i : i + length])
            mention = Mention(synonyms.phrases[parts], words[i][1], words[i + length - 1][2])
            found.append((mention, length == 1 and parts[0] in _QUALIFIERS))
        i += max(1, length)
    following = [*(after for after, _ in found), None][1:]
    return [
        mention
        for (mention, qualifier), after in zip(found, following, strict=True)
        if mention.category != NOTHING and not (qualifier and after and _joined(mention, after, text))
    ]


def _longest(words: list[tuple[str, int, int]], text: str, synonyms: Synonyms) -> int:
    """Words of the longest phrase that begins here; 0 if none does."""
    for length in range(min(synonyms.longest, len(words)), 0, -1):
        part = words[:length]
        gaps = (text[a[2] : b[1]] for a, b in pairwise(part))
        if tuple(word for word, _, _ in part) in synonyms.phrases and all(map(_JOINT.fullmatch, gaps)):
            return length
    return 0


def _joined(a: Mention, b: Mention, text: str) -> bool:
    return bool(_JOINT.fullmatch(text[a.end : b.start]))
