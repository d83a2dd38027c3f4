"""Tasks of lm_eval by name: its own, or those of YAML files in a folder; loaded, or refused with a reason."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.harness.installed import require_harness
from headscope.errors import UsageError

require_harness()
from lm_eval.tasks import TaskManager  # noqa: E402


def load_tasks(
    names: Sequence[str], *, include_path: Path | None = None, num_fewshot: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """The tasks of these names, groups and tags of lm_eval by their members, each with its data.

    Names (`mmlu_*` too) are looked for in the YAML files of `include_path`, and then among lm_eval's own.
    `num_fewshot` counts examples where the task does not say that it takes none, as in lm_eval. UsageError for what is
    not known, cannot be loaded (data that must be fetched without a network), runs code that a model wrote, or shows
    images.
    """
    tasks: dict[str, Any] = {}
    with seeded(seed):
        manager = _manager(names, include_path)
        for name in dict.fromkeys(match for asked in names for match in _matches(manager, asked)):
            tasks |= _loaded(manager, name)
    for name, task in tasks.items():
        _refuse_unfit(name, task)
        before = task.get_config("num_fewshot")
        if before is None or (num_fewshot is not None and before != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
    return tasks


def facts_of(tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What tells a task from another version of it: its version, output type, examples, and where its data are from."""
    return {
        name: {
            "version": str(task.VERSION),
            "output_type": task.OUTPUT_TYPE,
            "num_fewshot": task.get_config("num_fewshot"),
            "dataset": [task.DATASET_PATH, task.DATASET_NAME],
        }
        for name, task in tasks.items()
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, what draws at random without a seed of its own, as tasks and sampling models do, draws from this one."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def _manager(names: Sequence[str], include_path: Path | None) -> TaskManager:
    if include_path is not None:
        if not include_path.is_dir():
            raise UsageError(f"--include-path {include_path} is no folder; give one that holds the YAML files of tasks")
        mine = TaskManager(include_path=str(include_path), include_defaults=False)
        if all(mine.match_tasks([name]) for name in names):
            return mine  # lm_eval's own are some ten thousand files, which take seconds to read
    return TaskManager(include_path=None if include_path is None else str(include_path))


def _matches(manager: TaskManager, name: str) -> list[str]:
    found = manager.match_tasks([name])
    if not found:
        close = get_close_matches(name, manager.all_tasks, 3)
        near = f"; there are {', '.join(close)}" if close else ""
        raise UsageError(
            f"task {name!r} is not known{near}: `lm_eval ls tasks` lists lm_eval's own, --include-path DIR adds yours (a "
            "file that is not valid is passed over)"
        )
    return list(found)


def _loaded(manager: TaskManager, name: str) -> dict[str, Any]:
    try:
        return dict(manager.load([name])["tasks"])
    except Exception as error:  # a task may run code of its own and fetch its data by any library
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"task {name!r} cannot be loaded ({type(error).__name__}: {reason[0] if reason else 'no reason given'}); "
            "where its data must be fetched, do that once while there is a network, or give a task with local data"
        ) from error


def _refuse_unfit(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(
            f"task {name!r} runs code that the model wrote, which is not done here; ask it with lm_eval itself "
            "(--confirm_run_unsafe_code), in a sandbox"
        )
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"task {name!r} shows images or plays sound, and the harness is asked in words only")
