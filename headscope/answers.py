"""How a task's answers are asked for and written down: room to answer, where an answer ends, a row for the table.

Beyond `headscope.samples.Task` a task may have `sees_images` (true if its samples are written for the whole processor,
not for its tokenizer), `answer_tokens` (the room an answer needs), `stop` (strings that end an answer) and `details`
(what is noted beside the score).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from headscope.errors import UsageError
from headscope.generation import Generation
from headscope.model import HookedModel
from headscope.samples import Sample, Task


@runtime_checkable
class Detailed(Protocol):
    """A task that notes more of an answer than its score."""

    def details(self, sample: Sample, answer: str) -> Mapping[str, Any]:
        """Names and values that go into the table of answers, such as the counts that metrics are made of."""


def asked_of(model: HookedModel, task: Task, max_new_tokens: int | None = None) -> tuple[list[Sample], int]:
    """A task's samples for a model, and the tokens to allow an answer.

    By default those are the task's `answer_tokens`, or twice the longest target and some. UsageError if the
    model came without a tokenizer, or a sample and its answer exceed the model's context.
    """
    if model.tokenizer is None:
        raise UsageError(
            f"{model.name} came without a tokenizer, so it cannot be asked in words; save its tokenizer beside it"
        )
    samples = list(task.samples(model.processor if getattr(task, "sees_images", False) else model.tokenizer))
    room = max_new_tokens or getattr(task, "answer_tokens", None) or _answer_room(samples, model.tokenizer)
    _check_context(model, samples, room)
    return samples, room


def _answer_room(samples: Sequence[Sample], tokenizer: Any) -> int:
    return 8 + 2 * max(len(tokenizer(sample.target, add_special_tokens=False).input_ids) for sample in samples)


def stop_strings(task: Task) -> tuple[str, ...]:
    """Strings after which an answer is over: the task's own, or a new line."""
    return getattr(task, "stop", ("\n",))


def answer_row(task: Task, answer: Generation) -> dict[str, Any]:
    """What was asked of one sample, the task's `details` of the answer if it has any, the answer and its score."""
    sample = answer.sample
    asked = {key: sample.meta[key] for key in ("length", "tokens", "depth", "repeat") if key in sample.meta}
    noted = task.details(sample, answer.text) if isinstance(task, Detailed) else {}
    score = task.score(sample, answer.text)
    return {**asked, **noted, "target": sample.target, "answer": answer.text, "score": score}


def _check_context(model: HookedModel, samples: Sequence[Sample], room: int) -> None:
    longest = max((len(model.tokens(sample).ids) for sample in samples), default=0)
    if model.context_length is not None and longest + room > model.context_length:
        raise UsageError(
            f"a prompt of {longest} tokens and an answer of up to {room} do not fit the context of {model.name}, "
            f"{model.context_length} tokens; ask for shorter lengths"
        )
