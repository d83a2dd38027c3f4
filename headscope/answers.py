"""How a task's answers are asked for and written down: room to answer, where an answer ends, a row for the table."""

from collections.abc import Sequence
from typing import Any

from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.model import HookedModel
from headscope.samples import Sample, Task


def answer_room(samples: Sequence[Sample], tokenizer: Any) -> int:
    """Tokens to allow an answer: twice the longest target and a few more."""
    return 8 + 2 * max(len(tokenizer(sample.target, add_special_tokens=False).input_ids) for sample in samples)


def stop_strings(task: Task) -> tuple[str, ...]:
    """Strings after which an answer is over: the task's own, or a new line."""
    return getattr(task, "stop", ("\n",))


def answer_row(task: Task, answer: Generation) -> dict[str, Any]:
    """What was asked of one sample, what was answered, and the task's score."""
    sample = answer.sample
    asked = {key: sample.meta[key] for key in ("length", "tokens", "depth", "repeat") if key in sample.meta}
    score = task.score(sample, answer.text)
    return {**asked, "target": sample.target, "answer": answer.text, "score": score}


def check_context(model: HookedModel, samples: Sequence[Sample]) -> None:
    """UsageError if a sample is longer than the positions the model was made for."""
    longest = max((len(model.tokens(sample).ids) for sample in samples), default=0)
    if model.context_length is not None and longest > model.context_length:
        raise UsageError(
            f"a prompt of {longest} tokens does not fit the context of {model.name}, {model.context_length} tokens; "
            "ask for shorter lengths"
        )
