"""Needle in a haystack: a fact is hidden in a long text, and a question at the end asks for it.

Follows the detection protocol of Wu et al. 2024 (https://arxiv.org/abs/2404.15574, section 2) with these departures:
places are characters, found in tokens through offsets, where the released code compares sets of token ids; the needle
stands at the sentence end nearest to the wanted depth, where the code walks back to one whose token ids belong to one
tokenizer; the length counts the whole prompt, question and special tokens included.

Everything random is drawn per (seed, length, repeat). So the samples of one length and repeat share their facts and
their haystack, cut at the same sentence, and differ in nothing but the depth of the fact that is asked: compare depths
within them, and count texts, not samples, as independent. Depths nearest to the same sentence end give the same prompt,
which happens where a length holds fewer sentences than there are depths.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from headscope.errors import UsageError
from headscope.samples import Sample, Span, Tokens, tokenize
from tasks.facts import Fact, secret_facts
from tasks.prose import NAMES, sentences
from headscope.scoring import exact_match, rouge1_recall, words

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


@dataclass(frozen=True)
class Needle:
    """Questions about a fact hidden in a text, over lengths and depths.

    Args:
        lengths: Tokens of the whole prompt; no prompt is longer, and none shorter by more than about a sentence.
        depths: That many depths evenly from 0 to 1 (a single one is 0.5), or the depths themselves. Depth is the share
            of the text's tokens that stand before the needle: 0 is before the first sentence, 1 after the last.
        repeats: Independent facts and haystacks for each length.
        n_needles: Facts in the text. One is asked; the others stand at random depths.
        facts: Facts to draw from; consecutive repeats ask different ones. By default `tasks.facts.secret_facts`.
        haystack: A text file, or a folder whose .txt files are read in order of their names. Each haystack starts at a
            random sentence and goes on at the beginning after the end. By default `tasks.prose`, which has no end.
        seed: Another seed gives other facts and other haystacks.
        metric: `exact` scores whether the answer's first sentence is the target; `rouge1` the share of its words.
    """

    lengths: tuple[int, ...] = (256, 512)
    depths: int | tuple[float, ...] = 10
    repeats: int = 1
    n_needles: int = 1
    facts: tuple[Fact, ...] = ()
    haystack: Path | str | None = None
    seed: int = 0
    metric: Literal["exact", "rouge1"] = "exact"

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise UsageError(f"lengths {self.lengths} must be positive numbers of tokens; give for example (256, 512)")
        if not self._fractions:
            raise UsageError(
                f"depths {self.depths} names no depth; give a positive count or fractions such as (0.0, 0.5)"
            )
        for depth in self._fractions:
            if not 0 <= depth <= 1:
                raise UsageError(f"depth {depth} is not a fraction of the text; give depths from 0 to 1")
        if self.repeats < 1:
            raise UsageError(f"repeats is {self.repeats}; ask for at least 1")
        available = len(self.facts) or len(NAMES)
        if not 1 <= self.n_needles <= available:
            source = "facts given" if self.facts else "names to make facts of"
            raise UsageError(
                f"n_needles is {self.n_needles}, but there are {available} {source}; ask for 1 to {available} needles"
            )
        if self.metric not in ("exact", "rouge1"):
            raise UsageError(f"metric {self.metric!r} is not known; choose 'exact' or 'rouge1'")
        self._check_facts()

    def _check_facts(self) -> None:
        for fact in self.facts:
            if (times := fact.statement.count(fact.answer)) != 1 or not words(fact.answer):
                raise UsageError(
                    f"the answer {fact.answer!r} stands {times} times in {fact.statement!r}; word the statement so "
                    "that its answer, one word or more, stands in it once"
                )
        if self.n_needles > 1 and len({fact.question for fact in self.facts}) < len(self.facts):
            raise UsageError("two facts have the same question, so its answer is not one; give each its own question")

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt: what the model's context must hold, apart from the answer."""
        return max(self.lengths)

    @property
    def _fractions(self) -> tuple[float, ...]:
        if isinstance(self.depths, tuple):
            return self.depths
        return (0.5,) if self.depths == 1 else tuple(i / (self.depths - 1) for i in range(self.depths))

    def samples(self, tokenizer: Any) -> list[Sample]:
        """One sample per length, repeat and depth, in this order, written for the tokenizer (a fast one).

        Marks are `needle` (the answer inside the statement: what a retrieval head copies), `statement` and `question`.
        In `meta`, `depth_found` is the depth that the sentence end allowed, `tokens` the real length, and `unknown` the
        share of the haystack's tokens that the tokenizer does not know. A tokenizer with a chat template gets a chat.
        Raises UsageError where a needle does not fit, the text is too short or a word of a needle is unknown.
        """
        own = None if self.haystack is None else _read(Path(self.haystack))
        return [
            sample
            for length in self.lengths
            for repeat in range(self.repeats)
            for sample in self._column(tokenizer, own, length, repeat)
        ]

    def score(self, sample: Sample, answer: str) -> float:
        """How right an answer is between 0 and 1, by `metric`."""
        return {"exact": exact_match, "rouge1": rouge1_recall}[self.metric](answer, sample.target)

    def _column(self, tokenizer: Any, own: "list[_Piece] | None", length: int, repeat: int) -> list[Sample]:
        """The samples of all depths in one text, cut to the most sentences with which each of them fits."""
        page = self._page(tokenizer, own, length, repeat)
        for text in [part for fact in page.facts for part in (fact.statement, fact.question)]:
            _refuse_unknown(text, tokenizer)
        if self._least(page) > length:
            raise self._too_long(page, own, length)

        kept = _most(page.haystack, length, lambda n: page.size(n, self._fractions[0]))
        while True:  # the same text has some tokens more or less where a needle parts other words
            written = [page.write(kept, depth) for depth in self._fractions]
            tokens = [tokenize(Sample(text.prompt, marks=text.marks, chat=text.chat), tokenizer) for text in written]
            if (size := max(len(tokenized.ids) for tokenized in tokens)) <= length:
                break
            kept -= 1
        if kept == len(page.haystack) and length - size > max(piece.size for piece in page.haystack):
            raise self._too_short(page, length, size)

        asked = {"length": length, "repeat": repeat, "n_needles": self.n_needles, "seed": self.seed}
        return [
            text.sample(asked | {"depth": depth} | _found(tokenized, tokenizer.unk_token_id))
            for depth, text, tokenized in zip(self._fractions, written, tokens, strict=True)
        ]

    def _page(self, tokenizer: Any, own: "list[_Piece] | None", length: int, repeat: int) -> "_Page":
        key = f"needle/{self.seed}/{length}/{repeat}"
        rng = random.Random(key)
        if self.facts:
            order = random.Random(f"needle/{self.seed}/{length}").sample(self.facts, len(self.facts))
            asked = order.pop(repeat % len(order))
            facts: tuple[Fact, ...] = (asked, *rng.sample(order, self.n_needles - 1))
        else:
            facts = secret_facts(self.n_needles, seed=key)
        if own is None:
            stream: Iterator[_Piece] = (_Piece(text, " ") for text in sentences(key))
        else:
            start = rng.randrange(len(own))
            stream = iter(own[start:] + own[:start])
        return _Page(
            tokenizer,
            facts,
            _measured([_Piece(fact.statement, " ") for fact in facts], tokenizer),
            tuple(rng.random() for _ in facts[1:]),
            _take(stream, tokenizer, 1.5 * length + 64),  # a sentence may have fewer tokens in its place than alone
        )

    def _least(self, page: "_Page") -> int:
        """Tokens of the longest prompt with one sentence of haystack; with none, depth would mean nothing."""
        return max(page.size(1, depth) for depth in self._fractions)

    def _too_long(self, page: "_Page", own: "list[_Piece] | None", length: int) -> UsageError:
        # Every length draws its own facts, so the length to name is one for which this was tried.
        enough = next(
            tried
            for tried in count(self._least(page))
            if all(self._least(self._page(page.tokenizer, own, tried, i)) <= tried for i in range(self.repeats))
        )
        needles = "needle" if self.n_needles == 1 else f"{self.n_needles} needles"
        return UsageError(
            f"{needles} and question take {page.size(0, 0.0)} tokens, and one sentence of haystack "
            f"{page.haystack[0].size} more; length {length} is too short; ask for at least {enough}"
        )

    def _too_short(self, page: "_Page", length: int, size: int) -> UsageError:
        has = sum(piece.size for piece in page.haystack)
        return UsageError(
            f"the haystack {str(self.haystack or 'tasks.prose')!r} has {has} tokens, and length {length} needs "
            f"{has + length - size}; give more text, or lengths up to {size}"
        )


class _Piece(NamedTuple):
    """A sentence, the white space behind it, and how many tokens it has when it stands alone."""

    text: str
    gap: str
    size: int = 0


@dataclass(frozen=True)
class _Page:
    """What is drawn for one length and repeat: the fact that is asked, the others and their places, the haystack."""

    tokenizer: Any
    facts: tuple[Fact, ...]
    statements: list[_Piece]
    places: tuple[float, ...]
    haystack: list[_Piece]

    def write(self, kept: int, depth: float) -> "_Written":
        """The prompt with the first `kept` sentences of the haystack and the asked fact at `depth`."""
        pieces = self.haystack[:kept]
        for statement, place in zip(self.statements[1:], self.places, strict=True):
            _insert(pieces, statement, place)
        at = _insert(pieces, self.statements[0], depth)
        before = sum(len(piece.text) + len(piece.gap) for piece in pieces[:at])
        text = "".join(piece.text + piece.gap for piece in pieces[:-1]) + pieces[-1].text
        return _render(text, before, self.facts[0], self.tokenizer)

    def size(self, kept: int, depth: float) -> int:
        """Tokens of that prompt."""
        text = self.write(kept, depth)
        return len(self.tokenizer(text.prompt, add_special_tokens=not text.chat)["input_ids"])


@dataclass(frozen=True)
class _Written:
    """A prompt and where in its characters things stand: the marks of the sample, and `text` around the needle."""

    prompt: str
    chat: bool
    fact: Fact
    marks: dict[str, Span]

    def sample(self, meta: dict[str, Any]) -> Sample:
        marks = {mark: self.marks[mark] for mark in ("needle", "statement", "question")}
        return Sample(self.prompt, self.fact.answer, marks, meta=meta | {"fact": self.fact.statement}, chat=self.chat)


def _found(tokenized: Tokens, unknown: int | None) -> dict[str, int | float]:
    """What only the tokens tell: how many, how deep the statement stands, the share of the text not known."""
    (first, last), (start, end) = tokenized.marks["text"], tokenized.marks["statement"]
    around = tokenized.ids[first:start] + tokenized.ids[end:last]
    return {
        "tokens": len(tokenized.ids),
        "depth_found": (start - first) / len(around),
        "unknown": around.count(unknown) / len(around),
    }


def _render(text: str, before: int, fact: Fact, tokenizer: Any) -> _Written:
    """The text with its question, as plain text or as the message of a chat; `before` is the statement's place."""
    chat = bool(getattr(tokenizer, "chat_template", None))
    opening, middle, closing = _CHAT if chat else _PLAIN
    prompt = body = opening + text + middle + fact.question + closing
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
    return _Written(prompt, chat, fact, marks)


def _insert(pieces: list[_Piece], new: _Piece, depth: float) -> int:
    """Puts a piece at the sentence end nearest to `depth`, in the paragraph of the sentence before; its index."""
    ends = [0, *accumulate(piece.size for piece in pieces)]
    at = min(range(len(ends)), key=lambda i: abs(ends[i] - depth * ends[-1]))
    if at:
        new = new._replace(gap=pieces[at - 1].gap or " ")
        pieces[at - 1] = pieces[at - 1]._replace(gap=" ")
    pieces.insert(at, new)
    return at


def _most(haystack: Sequence[_Piece], length: int, size: Callable[[int], int]) -> int:
    """The most sentences, at least one, for which `size` stays within `length`.

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


def _take(stream: Iterator[_Piece], tokenizer: Any, tokens: float) -> list[_Piece]:
    """Sentences from the stream until they hold so many tokens or the stream ends."""
    taken: list[_Piece] = []
    total = 0
    while total < tokens and (more := list(islice(stream, 64))):
        measured = _measured(more, tokenizer)
        taken += measured
        total += sum(piece.size for piece in measured)
    return taken


def _measured(pieces: Sequence[_Piece], tokenizer: Any) -> list[_Piece]:
    encoded = tokenizer([piece.text for piece in pieces], add_special_tokens=False)["input_ids"]
    return [piece._replace(size=len(ids)) for piece, ids in zip(pieces, encoded, strict=True)]


def _refuse_unknown(text: str, tokenizer: Any) -> None:
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


def _read(path: Path) -> list[_Piece]:
    """The sentences of a text file or of a folder's .txt files."""
    if not path.exists():
        raise UsageError(f"the haystack {str(path)!r} does not exist; give a text file or a folder of .txt files")
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        text = "\n\n".join(file.read_text(encoding="utf-8").strip() for file in files)
    except UnicodeDecodeError as error:
        raise UsageError(f"the haystack {str(path)!r} is not UTF-8 text ({error}); convert it first") from error
    pieces = list(_split(text))
    if not pieces:
        raise UsageError(f"the haystack {str(path)!r} holds no text; give a text file or a folder of .txt files")
    return pieces


def _split(text: str) -> Iterator[_Piece]:
    start = 0
    for gap in _GAP.finditer(text):
        if gap.start() > start:
            yield _Piece(text[start : gap.start()], gap.group())
        start = gap.end()
    if text[start:].strip():
        yield _Piece(text[start:].strip(), "\n\n")
