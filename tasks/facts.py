"""Facts that a text states once and a question asks for: what a needle in a haystack is made of."""

import random
from dataclasses import dataclass

from tasks.prose import CONTENT_WORDS, NAMES


@dataclass(frozen=True)
class Fact:
    """One statement, the question that asks for it, and the words of the statement that answer the question.

    `lead` is put in the answerer's mouth after "Answer:", so that a model without instruction tuning goes straight to
    the answer; chat models are not given it.
    """

    statement: str
    question: str
    answer: str
    lead: str = ""

    def __post_init__(self) -> None:
        if self.answer not in self.statement:
            raise ValueError(
                f"the answer {self.answer!r} does not occur in the statement {self.statement!r}; "
                "a retrieval head copies, so the answer must stand in the statement word for word"
            )


def secret_facts(count: int, *, seed: int | str, min_words: int = 4, max_words: int = 8) -> tuple[Fact, ...]:
    """`count` facts about different people, each with an answer of random content words that no prior can guess."""
    if not 1 <= count <= len(NAMES):
        raise ValueError(f"{count} facts asked for; there are names for 1 to {len(NAMES)}")
    rng = random.Random(f"facts/{seed}")
    names = rng.sample(NAMES, count)
    return tuple(_secret(name, rng.sample(CONTENT_WORDS, rng.randint(min_words, max_words))) for name in names)


def _secret(name: str, words: list[str]) -> Fact:
    answer = " ".join(words)
    lead = f"The secret words of {name}:"
    return Fact(f"{lead} {answer}.", f"What are the secret words of {name}?", answer, lead)
