"""The text side of a needle in a haystack: sentences measured in tokens, cut to a length, parted by facts, asked about.

The first sentence of haystack is not optional: with none, depth would mean nothing.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count, islice
from pathlib import Path
from typing import Any, NamedTuple

from headscope.errors import UsageError
from headscope.samples import Sample
from tasks.facts import Fact
from tasks.prose import sentences

# White space after . ! ? (closing quotes and brackets may follow), a blank line, or a full-width stop.
_GAP = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["')\]\u2019\u201d]))\s+|\s*\n\s*\n\s*|(?<=[\u3002\uff01\uff1f])\s*""",
)
_PLAIN = ("", "\nQuestion: ", "\nAnswer:")
_CHAT = (
    "Read this book, then answer a question about it.\n<book>\n",
    "\n</book>\nAnswer with the exact words of the book and nothing else.\nQuestion: ",
    "",
)


class Piece(NamedTuple):
    """A sentence, the white space behind it, and how many tokens it has when it stands alone."""

    text: str
    gap: str
    size: int = 0


def read(path: Path) -> list[Piece]:
    """The sentences of a text file or of a folder's .txt files, not yet measured; UsageError if there is no text."""
    if not path.exists():
        raise UsageError(f"the haystack {str(path)!r} does not exist; give a text file or a folder of .txt files")
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        text = "\n\n".join(file.read_text(encoding="utf-8").strip() for file in files)
    except UnicodeDecodeError as error:
        raise UsageError(f"the haystack {str(path)!r} is not UTF-8 text ({error}); convert it first") from error
    pieces = list(split(text))
    if not pieces:
        raise UsageError(f"the haystack {str(path)!r} holds no text; give a text file or a folder of .txt files")
    return pieces


def split(text: str) -> Iterator[Piece]:
    """The sentences of a text and the headings between its blank lines, with the white space behind each."""
    start = 0
    for gap in _GAP.finditer(text):
        if gap.start() > start:
            yield Piece(text[start : gap.start()], gap.group())
        start = gap.end()
    if text[start:].strip():
        yield Piece(text[start:].strip(), "\n\n")


def stream(own: Sequence[Piece] | None, key: str) -> Iterator[Piece]:
    """Endless filler drawn for a key, or all of your own sentences, from a random one on, then from the beginning."""
    if own is None:
        return (Piece(text, " ") for text in sentences(key))
    start = random.Random(f"haystack/{key}").randrange(len(own))
    return chain(own[start:], own[:start])


def measured(pieces: Sequence[Piece], tokenizer: Any) -> list[Piece]:
    """The pieces with their sizes."""
    encoded = tokenizer([piece.text for piece in pieces], add_special_tokens=False)["input_ids"]
    return [piece._replace(size=len(ids)) for piece, ids in zip(pieces, encoded, strict=True)]


def take(stream: Iterator[Piece], tokenizer: Any, tokens: float) -> list[Piece]:
    """Measured sentences from the stream until they hold so many tokens or the stream ends."""
    taken: list[Piece] = []
    total = 0
    while total < tokens and (more := list(islice(stream, 64))):
        more = measured(more, tokenizer)
        taken += more
        total += sum(piece.size for piece in more)
    return taken


def insert(pieces: list[Piece], new: Piece, depth: float) -> int:
    """Puts a piece at the sentence end nearest to `depth`, in the paragraph of the sentence before; its index."""
    ends = [0, *accumulate(piece.size for piece in pieces)]
    at = min(range(len(ends)), key=lambda i: abs(ends[i] - depth * ends[-1]))
    if at:
        new = new._replace(gap=pieces[at - 1].gap or " ")
        pieces[at - 1] = pieces[at - 1]._replace(gap=" ")
    pieces.insert(at, new)
    return at


def most(haystack: Sequence[Piece], length: int, size: Callable[[int], int]) -> int:
    """The most sentences for which `size` stays within `length`; 1 where not even one does.

    The size of a sentence alone is close to what it adds to the prompt, so a few calls of `size` settle it; where it is
    not close, halving does.
    """
    sums = [0, *accumulate(piece.size for piece in haystack)]
    fits, fails, guess = 1, len(sums), 1
    for calls in count(1):
        slack = length - size(guess)
        fits, fails = (guess, fails) if slack >= 0 else (fits, guess)
        if fails - fits <= 1:
            break
        near = bisect_right(sums, sums[guess] + slack) - 1
        guess = min(max(near, fits + 1), fails - 1) if calls < 5 else (fits + fails) // 2
    return fits


@dataclass(frozen=True)
class Page:
    """What is drawn for one sample: the facts, the one that is asked last; their places; the haystack."""

    tokenizer: Any
    facts: tuple[Fact, ...]
    statements: list[Piece]
    places: tuple[float, ...]
    haystack: list[Piece]

    def write(self, kept: int) -> Sample:
        """The sample with the first `kept` sentences of the haystack."""
        pieces, at = self.haystack[:kept], 0
        for statement, place in zip(self.statements, self.places, strict=True):
            at = insert(pieces, statement, place)
        before = sum(len(piece.text) + len(piece.gap) for piece in pieces[:at])
        text = "".join(piece.text + piece.gap for piece in pieces[:-1]) + pieces[-1].text
        return _render(text, before, self.facts[-1], self.tokenizer)

    def size(self, kept: int) -> int:
        """Tokens of that prompt."""
        sample = self.write(kept)
        return len(self.tokenizer(sample.prompt, add_special_tokens=not sample.chat)["input_ids"])


def _render(text: str, before: int, fact: Fact, tokenizer: Any) -> Sample:
    """The text with its question, as plain text or as the message of a chat; `before` is the statement's place."""
    chat = bool(getattr(tokenizer, "chat_template", None))
    opening, middle, closing = _CHAT if chat else _PLAIN
    prompt = body = (
        opening + text + middle + fact.question + closing + (f" {fact.lead}" if fact.lead and not chat else "")
    )
    if chat:
        message = [{"role": "user", "content": body}]
        prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    if (times := prompt.count(body)) != 1:
        raise UsageError(
            f"the chat template writes the message {times} times word for word instead of once, so nothing in it can "
            "be located; set tokenizer.chat_template to another one, or to None for a plain prompt"
        )
    if (times := prompt.count(fact.statement)) != 1:
        raise UsageError(
            f"the statement {fact.statement!r} stands {times} times in the prompt; give a fact that the haystack does "
            "not hold already"
        )
    start = prompt.index(body) + len(opening)
    question = start + len(text) + len(middle)
    statement = start + before
    answer = statement + fact.statement.index(fact.answer)
    marks = {
        "text": (start, start + len(text)),
        "statement": (statement, statement + len(fact.statement)),
        "needle": (answer, answer + len(fact.answer)),
        "question": (question, question + len(fact.question)),
    }
    return Sample(prompt, fact.answer, marks, chat=chat)


def refuse_unknown(text: str, tokenizer: Any) -> None:
    """UsageError for the first word that the tokenizer does not know: nobody could copy or be asked for it."""
    if tokenizer.unk_token_id is None:
        return
    parts = re.findall(r"\w+|[^\w\s]", text)
    for part, ids in zip(parts, tokenizer(parts, add_special_tokens=False)["input_ids"], strict=True):
        if tokenizer.unk_token_id in ids:
            raise UsageError(
                f"the tokenizer does not know {part!r} in {text!r}, so no answer about it can be scored; use facts in "
                "words of the model's vocabulary"
            )
