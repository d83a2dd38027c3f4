"""What judging has to ask, as cells: how this process asks it, and what another one must be told to ask the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from experiments.compare import Condition, as_conditions
from experiments.executors.weights import weights_digest
from headscope.answers import answer_row, asked_of, stop_strings
from headscope.clusters import Metric
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.prompting import Hook
from headscope.runs import Run
from headscope.samples import Sample, Task
from headscope.sharing import Work
from tasks.manifest import digest, item_rows


@runtime_checkable
class JudgedTask(Task, Protocol):
    """A task whose metrics are made of counts that its `details` of each answer hold, beside `image_id`."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is told of a condition; the first is what the task is about."""

    def details(self, sample: Sample, answer: str) -> Mapping[str, Any]:
        """`image_id`, the counts that the metrics are made of, and what else is worth a column."""


@dataclass(frozen=True)
class JudgingWork:
    """Cells of up to so many items of one condition."""

    work: Work
    items: tuple[str, ...]
    """What identifies each item, of which every condition is asked all."""
    places: Mapping[str, range]
    """The items of each cell."""

    @property
    def answers(self) -> int:
        """How many there will be."""
        return sum(map(len, self.places.values()))

    def refuse_others(self, run: Run, key: str, table: pd.DataFrame) -> None:
        """UsageError for a cell that answers other items."""
        if list(table["item"]) != [self.items[i] for i in self.places[key]]:
            raise UsageError(
                f"{run.path} holds answers to other items under {key!r}: images, questions or their order have changed; "
                "ask the same ones, or start a run in another folder"
            )


def judging_work(
    model: HookedModel,
    task: JudgedTask,
    conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition],
    *,
    name: str = "",
    max_new_tokens: int | None = None,
    batch_tokens: int = 8192,
    chunk: int = 100,
) -> JudgingWork:
    """The work of `judge`, whose arguments these are; nothing is asked yet."""
    if not isinstance(task, JudgedTask):
        raise UsageError(
            f"{type(task).__name__} has no metrics made of counts; judge POPE, CHAIR or the scenes, or use compare()"
        )
    if chunk < 1:
        raise UsageError(f"chunk is {chunk}; keep at least 1 item at a time")
    asked = as_conditions(conditions)
    samples, room = asked_of(model, task, max_new_tokens)
    settings = {"max_new_tokens": room, "batch_tokens": batch_tokens, "stop": stop_strings(task)}
    items = tuple(digest(row) for row in item_rows(samples))
    cells: dict[str, tuple[Condition, range]] = {}
    for condition in asked:
        for start in range(0, len(samples), chunk):
            stop = min(start + chunk, len(samples))
            key = f"{name}: " * bool(name) + f"{condition.name}, items {start}-{stop - 1}"
            cells[key] = (condition, range(start, stop))

    def answered(key: str) -> pd.DataFrame:
        condition, places = cells[key]
        table = _answered(model, task, condition, [samples[i] for i in places], settings)
        table.insert(0, "sample", places)
        table.insert(1, "item", [items[i] for i in places])
        return table

    told = {
        "weights": weights_digest(model),
        "dtype": str(model.hf.dtype),
        "max_new_tokens": room,
        "batch_tokens": batch_tokens,
        "chunk": chunk,
        "name": name,
        "conditions": [condition.name for condition in asked],
        "items": digest(items),
    }
    work = Work(tuple(cells), partial(_each, answered), columns=("item", "condition"), told=told)
    return JudgingWork(work, items, {key: places for key, (_, places) in cells.items()})


def _each(answered: Callable[[str], pd.DataFrame], keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for key in keys:
        yield key, answered(key)


def _answered(
    model: HookedModel, task: JudgedTask, condition: Condition, samples: Sequence[Sample], settings: Mapping[str, Any]
) -> pd.DataFrame:
    with model.hooks(*condition.interventions):
        answers = model.generate(samples, **settings)
    table = pd.DataFrame([answer_row(task, answer) for answer in answers])
    return table.assign(condition=condition.name, kind=condition.kind, family=condition.family)
