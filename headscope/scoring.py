"""How right a generated answer is when the right words are known: exact match, ROUGE-1 recall, containment.

All three compare words, so case, punctuation and spacing do not count. Words are not stemmed: a retrieval head copies,
so another form of the word is another word. (The success filter of the retrieval-head code uses a stemmer.)
"""

import re
from collections import Counter
from itertools import chain

from headscope.errors import UsageError

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


def words(text: str) -> list[str]:
    """The runs of letters and digits in lower case, so `Don't!` is `don` and `t`."""
    return _WORD.findall(text.lower())


def exact_match(answer: str, target: str) -> float:
    """1.0 if the answer's first sentence is the target word for word, else 0.0; a new line ends a sentence too.

    A target that holds sentence ends of its own (`St. Petersburg`) is compared with as many sentences of the answer.
    """
    wanted = _sentences(target)
    if not wanted:
        raise _wordless(target)
    return float(list(chain(*_sentences(answer)[: len(wanted)])) == list(chain(*wanted)))


def rouge1_recall(answer: str, target: str) -> float:
    """Share of the target's words that stand anywhere in the answer; a word wanted twice must stand there twice."""
    wanted = Counter(words(target))
    if not wanted:
        raise _wordless(target)
    return (wanted & Counter(words(answer))).total() / wanted.total()


def contains(answer: str, target: str) -> float:
    """1.0 if the target's words stand in the answer next to each other and in order, else 0.0."""
    given, wanted = words(answer), words(target)
    if not wanted:
        raise _wordless(target)
    starts = range(len(given) - len(wanted) + 1)
    return float(any(given[start : start + len(wanted)] == wanted for start in starts))


def _sentences(text: str) -> list[list[str]]:
    return [found for part in _SENTENCE_END.split(text) if (found := words(part))]


def _wordless(target: str) -> UsageError:
    return UsageError(f"the target {target!r} holds no letter or digit to compare; give the answer in words")
