"""Prompts of your own for patching and sweeps: a JSONL file of prompts with right and wrong answers, and counterfactuals.

Answers are taken as they stand in the file: for most tokenizers an answer behind a word begins with its space, as in
{"prompt": "The capital of France is", "target": " Paris", "foil": " Rome", "counterfactual": "The capital of Italy is"}.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headscope.errors import UsageError
from headscope.samples import Sample, Task
from headscope.scoring import exact_match

_FIELDS = ("prompt", "target", "foil", "counterfactual")


@runtime_checkable
class PairTask(Task, Protocol):
    """A task whose prompts have corrupted versions that match them token by token."""

    def counterfactuals(self, tokenizer: Any) -> Sequence[Sample]:
        """The corrupted prompts, in the order of `samples`."""


@dataclass(frozen=True)
class Pair:
    """A prompt, its right answer, a wrong one, and the prompt for which the wrong one would be right; "" is none."""

    prompt: str
    target: str = ""
    foil: str = ""
    counterfactual: str = ""


@dataclass(frozen=True)
class OwnPrompts:
    """Prompts that a user wrote, with what they name of answers."""

    pairs: tuple[Pair, ...]

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The prompts, `foil` in `meta` where one is named."""
        return [Sample(one.prompt, one.target, meta={"foil": one.foil} if one.foil else {}) for one in self.pairs]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer's first sentence is the target word for word, else 0.0."""
        return exact_match(answer, sample.target)


@dataclass(frozen=True)
class OwnPairs(OwnPrompts):
    """Such prompts with a counterfactual each."""

    def counterfactuals(self, tokenizer: Any) -> list[Sample]:
        """The counterfactuals; their right answer is the foil."""
        return [Sample(one.counterfactual, one.foil, meta={"foil": one.target}) for one in self.pairs]


def read_pairs(path: str | Path) -> OwnPrompts:
    """The prompts of a JSONL file; OwnPairs if all have a counterfactual. UsageError names the line that cannot be used.

    Each line is an object with `prompt`, and where they are needed `target`, `foil` and `counterfactual`, all texts.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give a JSONL file in UTF-8, one object a line") from error
    found = [_pair(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path} holds no prompt; give an object with {', '.join(_FIELDS)} on each line")
    paired = [bool(one.counterfactual) for one in found]
    if any(paired) and not all(paired):
        raise UsageError(
            f"{path}: prompt {paired.index(False) + 1} has no counterfactual and others do; give one to all, or to none"
        )
    return (OwnPairs if all(paired) else OwnPrompts)(tuple(found))


def _pair(place: str, line: str) -> Pair:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: this is not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict) or "prompt" not in row:
        raise UsageError(f"{place}: 'prompt' is missing; give an object with {', '.join(_FIELDS)}")
    if strange := [name for name in row if name not in _FIELDS]:
        raise UsageError(f"{place}: {strange[0]!r} is not known; the names are {', '.join(_FIELDS)}")
    if wrong := [name for name, text in row.items() if not isinstance(text, str)]:
        raise UsageError(f"{place}: {wrong[0]} is {row[wrong[0]]!r}; give a text")
    if not row["prompt"].strip():
        raise UsageError(f"{place}: the prompt is empty; give the text that is to be continued")
    return Pair(**row)
