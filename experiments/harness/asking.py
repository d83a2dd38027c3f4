"""Tasks of lm_eval asked under conditions: what every document scored, and what lm_eval itself makes of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from experiments.compare import Condition, as_conditions
from experiments.harness.installed import require_harness
from experiments.harness.model import HarnessModel, TooLong
from experiments.harness.results import HarnessResults
from experiments.harness.tasks import seeded
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.prompting import Hook
from headscope.runs import Run
from headscope.sharing import do_cells

require_harness()
from lm_eval.api.metrics import mean  # noqa: E402
from lm_eval.evaluator import evaluate  # noqa: E402
from lm_eval.utils import handle_non_serializable  # noqa: E402

_RESAMPLES = 1000
"""For lm_eval's standard errors of metrics that are no means."""


@dataclass(frozen=True)
class HarnessOptions:
    """How tasks are asked; `limit` counts the documents of each task, `batch_size` requests."""

    limit: int | None = None
    chat: bool = False
    system: str | None = None
    batch_size: int = 8
    max_length: int | None = None
    too_long: TooLong = "truncate"
    seed: int = 0

    def model_of(self, model: HookedModel) -> HarnessModel:
        """The model as lm_eval asks it; UsageError as for `HarnessModel`, and for `chat` without a chat template."""
        if self.chat and getattr(model.tokenizer, "chat_template", None) is None:
            raise UsageError(
                f"{model.name} has no chat template; ask without --chat, or save a template with its tokenizer"
            )
        return HarnessModel(model, batch_size=self.batch_size, max_length=self.max_length, too_long=self.too_long)


def ask_harness(
    model: HookedModel,
    tasks: Mapping[str, Any],
    conditions: Mapping[str, Sequence[Hook]] | Sequence[Condition],
    *,
    options: HarnessOptions | None = None,
    run: Run | None = None,
    progress: bool = False,
) -> HarnessResults:
    """Every task (`load_tasks`) under every condition; one without interventions is the baseline.

    With a `run`, each task is kept there as soon as it is done under a condition, and not asked again. UsageError as
    for `HarnessOptions.model_of`, and where conditions were asked different things.
    """
    options = options or HarnessOptions()
    conditions = as_conditions(conditions)
    if options.chat and getattr(model.tokenizer, "chat_template", None) is None:
        raise UsageError(
            f"{model.name} has no chat template; ask without --chat, or save a template with its tokenizer"
        )
    lm = HarnessModel(model, batch_size=options.batch_size, max_length=options.max_length, too_long=options.too_long)
    asked = {f"{name}, {condition.name}": (name, condition) for name in tasks for condition in conditions}

    def do(keys: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
        for key in keys:
            name, condition = asked[key]
            with model.hooks(*condition.interventions):
                table = _answers(lm, name, tasks[name], options)
            about = {"condition": condition.name, "kind": condition.kind, "family": condition.family}
            yield key, table.assign(**about)

    with progress_bar(len(asked), "tasks x conditions", shown=progress) as update:
        tables = do_cells(
            run, list(asked), do, columns=("task", "sample", "score", "condition"), update=lambda _, __: update(1)
        )
    table = pd.concat(tables.values(), ignore_index=True)
    metrics = table.groupby("task")["metric"].unique()
    aggregations = {
        name: {metric: task.aggregation().get(metric, mean) for metric in metrics[name]} for name, task in tasks.items()
    }
    return HarnessResults(table, aggregations)


def _answers(lm: HarnessModel, name: str, task: Any, options: HarnessOptions) -> pd.DataFrame:
    """A row for each document, filter and metric of one task."""
    before = lm.truncated
    # lm_eval draws a bar for every step of every task, over the one of all conditions.
    with seeded(options.seed), redirect_stderr(StringIO()):
        task.set_fewshot_seed(seed=options.seed)
        found = evaluate(
            lm,
            {"tasks": {name: task}},
            limit=options.limit,
            bootstrap_iters=_RESAMPLES,
            apply_chat_template=options.chat,
            fewshot_as_multiturn=options.chat,
            system_instruction=options.system,
        )
    whole, better = found["results"][name], found["higher_is_better"][name]
    rows = []
    for document in found["samples"][name]:
        for metric in document["metrics"]:
            value, kind = document[metric], f"{metric},{document['filter']}"
            is_mean = task.aggregation().get(metric, mean) is mean
            rows.append(
                {
                    "task": name,
                    "sample": document["doc_id"],
                    "filter": document["filter"],
                    "metric": metric,
                    "score": _number(value) if is_mean else float("nan"),
                    "value": _json(value),
                    "answer": _json(document["filtered_resps"]),
                    "target": str(document["target"]),
                    "prompts": sha256(_json(document["arguments"]).encode()).hexdigest(),
                    "lm_eval": _number(whole[kind]),
                    "lm_eval_stderr": _number(whole[f"{metric}_stderr,{document['filter']}"]),
                    "higher_is_better": better.get(metric),
                }
            )
    return pd.DataFrame(rows).assign(truncated=lm.truncated - before)


def _number(value: Any) -> float:
    """NaN for what is no number, as "N/A" for a standard error that lm_eval does not give."""
    return float(value) if isinstance(value, int | float | np.number) else float("nan")


def _json(value: Any) -> str:
    return json.dumps(value, default=handle_non_serializable, ensure_ascii=False)
