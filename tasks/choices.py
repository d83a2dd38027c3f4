"""Multiple choice and classification: one of a few answers is right, and a model is judged by what it gives each of them.

No answer is generated: `meta["options"]` of a sample holds the texts that may stand behind its prompt, and the task's
`rule` says how they are compared (`experiments.filtering.choosing.choice_scores` does it).

last_token       the next-token logit of each option's last token. Multiple choice asks for a letter so; classification
                 compares verbalisers so, as the released code of ACT does (Yu et al. 2024, arXiv 2406.15765): exact where
                 each is one token, and a model of the end of a word where it is not.
likelihood       the log-probability of each option behind the prompt, summed over its tokens.
mean_likelihood  the same divided by the number of its tokens, for options of different length.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from headscope.errors import UsageError
from headscope.prompts import asked
from headscope.samples import Sample, Task
from headscope.scoring import exact_match

Rule = Literal["last_token", "likelihood", "mean_likelihood"]


@runtime_checkable
class ChoiceTask(Task, Protocol):
    """A task whose samples name their options; `target` is the right one of them."""

    @property
    def rule(self) -> Rule:
        """How options are compared."""


@dataclass(frozen=True)
class Question:
    """A prompt, what may stand behind it, and which of these is right (counted from 0)."""

    prompt: str
    options: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError("the prompt is empty; give the text that is to be answered")
        if len(self.options) < 2:
            raise UsageError(f"{len(self.options)} options were given; a choice needs at least 2")
        twice = [option for option, times in Counter(option.strip() for option in self.options).items() if times > 1]
        if twice or not all(option.strip() for option in self.options):
            raise UsageError(f"option {(twice or [''])[0]!r} is empty or given twice; options must be told apart")
        if not 0 <= self.answer < len(self.options):
            raise UsageError(f"the answer is option {self.answer}, but there are options 0 to {len(self.options) - 1}")


@dataclass(frozen=True)
class Choices:
    """Questions with options of their own.

    With `last_token` the options are listed under capital letters behind the prompt, and the letters are compared;
    otherwise the prompt stands as it is, and the options are compared behind it. `closing` ends a list of options.
    """

    questions: tuple[Question, ...]
    rule: Rule = "last_token"
    closing: str = "\nAnswer:"

    def __post_init__(self) -> None:
        check_rule(self.rule)
        _check_some(self.questions)
        longest = max(len(question.options) for question in self.questions)
        if self.rule == "last_token" and longest > len(ascii_uppercase):
            raise UsageError(f"a question has {longest} options, more than there are letters; use rule='likelihood'")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a question, as a chat where the tokenizer has a template for one."""
        return [self._sample(question, tokenizer) for question in self.questions]

    def _sample(self, question: Question, tokenizer: Any) -> Sample:
        if self.rule != "last_token":
            return choice_sample(question, tokenizer)
        letters = tuple(ascii_uppercase[: len(question.options)])
        listed = "".join(f"\n{letter}. {option}" for letter, option in zip(letters, question.options, strict=True))
        return choice_sample(Question(question.prompt + listed + self.closing, letters, question.answer), tokenizer)

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer is the right option (or its letter), else 0.0."""
        return exact_match(answer, sample.target)


@dataclass(frozen=True)
class Classification:
    """Questions that all have the same options: the verbalisers of the classes."""

    questions: tuple[Question, ...]
    rule: Rule = "last_token"

    def __post_init__(self) -> None:
        check_rule(self.rule)
        _check_some(self.questions)
        first = self.questions[0].options
        other = next((question.options for question in self.questions if question.options != first), None)
        if other is not None:
            raise UsageError(f"one question has classes {first}, another {other}; use Choices where options differ")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """A sample a question, as a chat where the tokenizer has a template for one."""
        return [choice_sample(question, tokenizer) for question in self.questions]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if a generated answer is the right verbaliser, else 0.0."""
        return exact_match(answer, sample.target)


def choice_sample(question: Question, tokenizer: Any) -> Sample:
    """A question in the words of the tokenizer's chat template, if it has one, its options in `meta`."""
    prompt, chat = asked(tokenizer, question.prompt, images=0)
    meta = {"question": question.prompt, "options": question.options, "answer": question.answer}
    return Sample(prompt, question.options[question.answer], meta=meta, chat=chat)


def check_rule(rule: str) -> None:
    """UsageError for a rule that is not known."""
    if rule not in get_args(Rule):
        raise UsageError(f"rule {rule!r} is not known; use one of {', '.join(get_args(Rule))}")


def _check_some(questions: Sequence[Question]) -> None:
    if not questions:
        raise UsageError("no question was given; ask at least one")


def read_choices(path: str | Path) -> tuple[Question, ...]:
    """Questions of a JSONL file: `prompt`, `options` (a list of texts), `answer`, one object a line.

    The answer is an option's text, its place counted from 0 (a number), or its capital letter. UsageError names the line.
    """
    found = []
    for place, row in _rows(path, ("prompt", "options", "answer")):
        options = row["options"]
        if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
            raise UsageError(f"{place}: options is {options!r}; give a list of texts")
        found.append(_question(place, row["prompt"], tuple(options), _answer(place, row["answer"], options)))
    return tuple(found)


def read_classification(path: str | Path, verbalisers: Mapping[str, str]) -> tuple[Question, ...]:
    """Questions of a JSONL file: `prompt` and `label`, one object a line; `verbalisers` maps each label to its word.

    UsageError names the line.
    """
    labels, words = list(verbalisers), tuple(verbalisers.values())
    found = []
    for place, row in _rows(path, ("prompt", "label")):
        label = str(row["label"])
        if label not in labels:
            raise UsageError(f"{place}: label {label!r} has no verbaliser; those with one are {', '.join(labels)}")
        found.append(_question(place, row["prompt"], words, labels.index(label)))
    return tuple(found)


def _rows(path: str | Path, fields: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row of a file stands, and what it holds; blank lines are passed over."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give a JSONL file in UTF-8, one object a line") from error
    if not any(line.strip() for line in lines):
        raise UsageError(f"{path} holds no question; give an object with {', '.join(fields)} on each line")
    for number, line in enumerate(lines, 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{place}: this is not JSON ({error}); write one object a line") from error
        missing = [name for name in fields if not isinstance(row, dict) or name not in row]
        if missing:
            raise UsageError(f"{place}: {missing[0]!r} is missing; give {', '.join(fields)}")
        yield place, row


def _answer(place: str, answer: Any, options: Sequence[str]) -> int:
    letters = ascii_uppercase[: len(options)]
    if isinstance(answer, int) and not isinstance(answer, bool):
        return answer
    if isinstance(answer, str) and answer in options:
        return options.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer in letters:
        return letters.index(answer)
    raise UsageError(f"{place}: answer {answer!r} is no option; give an option's text, its place from 0 or its letter")


def _question(place: str, prompt: Any, options: tuple[str, ...], answer: int) -> Question:
    if not isinstance(prompt, str):
        raise UsageError(f"{place}: prompt is {prompt!r}; give a text")
    try:
        return Question(prompt, options, answer)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
