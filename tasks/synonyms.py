"""Which words name which category of object: the table by which objects in a caption are counted."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from headscope.errors import UsageError
from tasks.nouns import singular

NOTHING = "-"
"""In place of a category: phrases that name no object although a word in them does, such as `bus stop`."""

_COCO = Path(__file__).with_name("data") / "coco_synonyms.csv"

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Synonyms:
    """Phrases, as tuples of lower-case singular words, and the category each of them names.

    Every category is named by its own name as well. Make one with `coco_synonyms`, `read_synonyms` or `named_as`.
    """

    phrases: Mapping[Phrase, str]

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories there are, in the table's order."""
        return tuple(dict.fromkeys(category for category in self.phrases.values() if category != NOTHING))

    @property
    def longest(self) -> int:
        """Words of the longest phrase."""
        return max(map(len, self.phrases))

    def category(self, name: str) -> str:
        """The category that a name or a synonym stands for, in any case and number; UsageError if none."""
        found = self.phrases.get(phrase(name), NOTHING)
        if found == NOTHING:
            raise UsageError(
                f"{name!r} names no category of the synonym table, so captions cannot be judged by it; give a table with "
                f"a line for it (categories now: {', '.join(self.categories[:8])}, ...)"
            )
        return found


def coco_synonyms() -> Synonyms:
    """Common words for the 80 categories of COCO: a list of our own, not the one released with CHAIR."""
    return read_synonyms(_COCO)


def named_as(categories: Iterable[str]) -> Synonyms:
    """Categories that have no name but their own."""
    return _table(((category,) for category in categories), "categories")


def read_synonyms(path: str | Path) -> Synonyms:
    """A table from a text file (UTF-8) with a line a category: `category, synonym, synonym`.

    Blank lines and lines that begin with # are passed over. A line with `-` for a category lists phrases that name no
    object. Raises UsageError for a file that cannot be read, an empty entry, a category that comes twice, a word under
    two categories.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"synonyms {path} cannot be read ({error}); give a text file in UTF-8") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        row = tuple(entry.strip() for entry in line.split(","))
        wordless = [entry for entry in row if entry != NOTHING and not phrase(entry)]
        if wordless or NOTHING in row[1:]:
            raise UsageError(
                f"{path}, line {number}: {line.strip()[:60]!r} has an entry without a word; write 'category, synonym, "
                "synonym' without a comma at the end"
            )
        rows.append(row)
    return _table(rows, str(path))


def phrase(text: str) -> Phrase:
    """The words of a text, lower-case and singular."""
    return tuple(singular(word) for word in re.findall(r"[^\W_]+", text.lower()))


def _table(rows: Iterable[tuple[str, ...]], source: str) -> Synonyms:
    phrases: dict[Phrase, str] = {}
    begun: set[str] = set()
    for category, *others in rows:
        if category in begun:
            raise UsageError(f"{source}: category {category!r} has two lines; write all of its synonyms in one")
        begun.add(category)
        for entry in others if category == NOTHING else (category, *others):
            if phrases.setdefault(phrase(entry), category) != category:
                raise UsageError(
                    f"{source}: {entry!r} stands under {phrases[phrase(entry)]!r} and under {category!r}; a word can "
                    "name one category only"
                )
    if not begun - {NOTHING}:
        raise UsageError(f"{source}: there is no category; write lines such as 'couch, sofa, settee'")
    return Synonyms(phrases)
