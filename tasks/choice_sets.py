"""Choices made up on the spot, for models that were trained on such text: whose secret words begin with what?"""

import random
from dataclasses import dataclass, replace
from typing import Any

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import exact_match
from tasks.choices import Rule, check_rule
from tasks.facts import Fact, secret_facts
from tasks.haystack import Page, Piece, measured, most, refuse_unknown, stream, take
from tasks.prose import NAMES


@dataclass(frozen=True)
class SecretChoices:
    """Texts of filler with secret words of several people; the options are the first words of each.

    Every sample has facts and filler of its own. The right option and the wrong ones stand in the text alike, so knowing
    which words are secret is not enough: the name decides.

    Args:
        n: Samples.
        options: People in a text, and so options; chance is 1 / options.
        length: Tokens of the whole prompt; none is longer.
        labels: With these, each person's secret words begin with another of them, and the options are the same in every
            sample: a classification. Their number takes the place of `options`.
        rule: How options are compared, see `tasks.choices`; the words of `zoo:needle` are single tokens.
        seed: Another seed gives other samples.
    """

    n: int = 32
    options: int = 2
    length: int = 128
    labels: tuple[str, ...] = ()
    rule: Rule = "likelihood"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rule(self.rule)
        people = len(self.labels) or self.options
        if self.n < 1 or not 2 <= people <= len(NAMES):
            raise UsageError(
                f"{self.n} samples with {people} options were asked for; ask for at least 1 sample, and 2 to "
                f"{len(NAMES)} options"
            )
        if len(set(self.labels)) < len(self.labels) or any(len(label.split()) != 1 for label in self.labels):
            raise UsageError(f"labels {self.labels} are not all different and one word each; give each once")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The samples for a tokenizer (a fast one); UsageError where the facts do not fit the length."""
        return [self._sample(tokenizer, i) for i in range(self.n)]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer begins with the right option, else 0.0."""
        return exact_match(" ".join(answer.split()[: len(sample.target.split())]), sample.target)

    def _sample(self, tokenizer: Any, index: int) -> Sample:
        key = f"choices/{self.seed}/{index}"
        rng = random.Random(key)
        facts = self._facts(rng, key)
        for part in (text for fact in facts for text in (fact.statement, fact.question)):
            refuse_unknown(part, tokenizer)
        statements = measured([Piece(fact.statement, " ") for fact in facts], tokenizer)
        filler = take(stream(None, key), tokenizer, 1.5 * self.length + 64)
        page = Page(tokenizer, facts, statements, tuple(rng.random() for _ in facts), filler)
        if page.size(1) > self.length:
            raise UsageError(
                f"{len(facts)} facts, a question and one sentence take {page.size(1)} tokens, more than length "
                f"{self.length}; ask for a longer one"
            )
        sample = page.write(most(filler, self.length, page.size))
        words = [fact.answer.split()[0] for fact in facts]
        options = self.labels or tuple(rng.sample(words, len(words)))
        meta = {"question": facts[-1].question, "options": options, "answer": options.index(words[-1])}
        return replace(sample, target=words[-1], meta=meta)

    def _facts(self, rng: random.Random, key: str) -> tuple[Fact, ...]:
        """Facts whose answers begin with different words; the last is asked about."""
        if self.labels:
            facts = secret_facts(len(self.labels), seed=key)
            first = rng.sample(self.labels, len(self.labels))
            return tuple(_beginning(fact, word) for fact, word in zip(facts, first, strict=True))
        tries = (secret_facts(self.options, seed=f"{key}/{i}") for i in range(1000))
        return next(facts for facts in tries if len({fact.answer.split()[0] for fact in facts}) == len(facts))


def _beginning(fact: Fact, word: str) -> Fact:
    answer = " ".join([word, *(other for other in fact.answer.split()[1:] if other != word)])
    return replace(fact, statement=f"{fact.lead} {answer}.", answer=answer)
