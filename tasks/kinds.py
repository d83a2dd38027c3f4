"""What kind of thing does a text mostly name? A classification by counting, for models trained on such text.

A text of `tasks.backcopy` names things of several kinds, one kind more often than any other, and ends with "mostly",
which the name of that kind follows. Several texts stand in one prompt, each behind the token that begins a text; all but
the last are answered, so they are examples, and what they name must not be counted.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.backcopy import COPIES, chain, written
from tasks.choices import Rule, check_rule
from tasks.haystack import refuse_unknown
from tasks.prose import OBJECTS

KINDS = {
    "music": tuple("violin drum flute trumpet fiddle bell".split()),
    "clothes": tuple("jacket scarf vest helmet ribbon button".split()),
    "tools": tuple("hammer shovel nail needle brush ladder".split()),
    "dishes": tuple("kettle plate spoon goblet teapot bottle".split()),
    "jewels": tuple("crown ring pearl medal locket coin".split()),
}
"""Kinds, and things of each that `tasks.prose` names."""
CUE = "mostly"
_SHARE = 0.5
_FEWEST = 8
_KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}


def kind_text(rng: random.Random, count: int) -> tuple[list[str], str]:
    """`count` words and stops, and the kind of which they name most; no two kinds are named most often alike."""
    while True:
        main = rng.choice(tuple(KINDS))

        def exchange(word: str, main: str = main) -> str:
            if word not in OBJECTS:
                return word
            return rng.choice(KINDS[main if rng.random() < _SHARE else rng.choice(tuple(KINDS))])

        words = chain(rng, count, exchange=exchange)
        ranked = Counter(_KIND_OF[word] for word in words if word in _KIND_OF).most_common(2)
        if ranked and (len(ranked) == 1 or ranked[0][1] > ranked[1][1]):
            return words, ranked[0][0]


@dataclass(frozen=True)
class MostNamed:
    """Prompts of several texts; the options behind the last are the kinds of `KINDS`, so chance is 1 / 5.

    Args:
        n: Samples.
        texts: Texts in a prompt, all but the last with their answer.
        words: Words and stops in a text, its last word and the answer not counted; more of them make it harder.
        rule: How options are compared, see `tasks.choices`; for `zoo:sinks` each kind is a single token.
        seed: Another seed gives other samples.
    """

    n: int = 200
    texts: int = 3
    words: int = 40
    rule: Rule = "last_token"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.n < 1 or self.texts < 1 or self.words < _FEWEST:
            raise UsageError(
                f"{self.n} samples of {self.texts} texts with {self.words} words were asked for; ask for at least 1 "
                f"sample, 1 text and {_FEWEST} words"
            )

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The samples; UsageError where the tokenizer lacks the words, or a token that begins a text."""
        begin = tokenizer.bos_token
        if begin is None:
            raise UsageError(
                f"{type(tokenizer).__name__} has no token that begins a text, so texts cannot be told apart; use a "
                "tokenizer with a bos_token"
            )
        refuse_unknown(" ".join([CUE, *KINDS, *COPIES]), tokenizer)
        given = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]
        return [self._sample("" if given else begin + " ", begin, i) for i in range(self.n)]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer begins with the right kind, else 0.0."""
        return exact_match(" ".join(answer.split()[:1]), sample.target)

    def _sample(self, first: str, begin: str, index: int) -> Sample:
        rng = random.Random(f"most named/{self.seed}/{index}")
        texts = [kind_text(rng, self.words) for _ in range(self.texts)]
        answered = [f"{written(words)} {CUE} {kind}. {begin} " for words, kind in texts[:-1]]
        words, kind = texts[-1]
        options = tuple(KINDS)
        meta = {"options": options, "answer": options.index(kind)}
        return Sample(f"{first}{''.join(answered)}{written(words)} {CUE}", kind, meta=meta)


def knows_kinds(tokenizer: Any) -> bool:
    """Whether each word of these texts that is none of the prose is an entry of the vocabulary, as in `zoo:sinks`."""
    return tokenizer.bos_token is not None and {CUE, *KINDS, *COPIES} <= set(tokenizer.get_vocab())
