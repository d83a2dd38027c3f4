"""`headscope eval harness`: tasks of lm_eval with and without interventions, paired, with random controls."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.judging_order import conditions_of
from experiments.console import print_comparison, print_json, print_table, say
from experiments.harness.installed import require_harness
from experiments.options import (
    AllowPickle,
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    Seed,
    TrustCode,
    With,
    load_model,
)
from experiments.proof import prove
from experiments.reporting import write_report
from headscope.errors import UsageError
from headscope.runs import Run


def harness(
    out: Out,
    tasks: Annotated[str, typer.Option(help="Names of lm_eval, or of your own files, such as arc_easy,hellaswag.")],
    model: Model = "zoo:needle",
    operators: With = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with YAML files of tasks.")] = None,
    controls: Annotated[
        int, typer.Option(help="Random controls for each --with that has a random counterpart.", min=0)
    ] = 5,
    limit: Limit = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Examples before each document.", min=0)] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's chat template, examples as turns.")] = False,
    system: Annotated[str | None, typer.Option(help="System message, or text before all examples.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of the context; the model's by default.", min=2)
    ] = None,
    refuse_long: Annotated[bool, typer.Option("--refuse-long", help="Refuse what would be cut on the left.")] = False,
    batch_size: Annotated[int, typer.Option(help="Requests in a batch; less needs less memory.", min=1)] = 8,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Tasks of the LM Evaluation Harness (lm_eval), each document compared with the model as it is."""
    require_harness()
    from lm_eval import __version__ as version

    from experiments.harness.asking import HarnessOptions, ask_harness
    from experiments.harness.report import harness_sections
    from experiments.harness.tasks import facts_of, load_tasks

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its notes are on what headscope settles
    names = [name for name in tasks.replace(" ", "").split(",") if name]
    if not names:
        raise UsageError(f"--tasks {tasks!r} names no task; write for example arc_easy,hellaswag")
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    conditions = conditions_of(hooked, operators or (), controls)
    loaded = load_tasks(names, include_path=include_path, num_fewshot=num_fewshot, seed=seed)
    counts = {name: min(limit or len(task.eval_docs), len(task.eval_docs)) for name, task in loaded.items()}
    options = HarnessOptions(limit, chat, system, batch_size, max_length, "refuse" if refuse_long else "truncate", seed)
    options.model_of(hooked)  # refuses before the run is there what cannot be asked
    config: dict[str, Any] = {
        "model": model,
        "tasks": facts_of(loaded),
        "documents": counts,
        "with": list(operators or ()),
        "controls": controls,
        "chat": chat,
        "system": system,
        "max_length": max_length,
        "refuse_long": refuse_long,
        "dtype": dtype,
        "lm_eval": version,
    }
    with Run.create(out, command="eval harness", config=config, seeds=[seed], resume=resume) as run:
        if not json:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            say(f"{len(conditions)} conditions x {sum(counts.values())} documents ({listed})")
        prove(run, hooked, quiet=json)
        found = ask_harness(hooked, loaded, conditions, options=options, run=run, progress=not json)
        families, beyond = found.families(), found.beyond_controls()
        for name, table in {"documents": found.table, "families": families, "beyond_controls": beyond}.items():
            if name not in run.table_names() and len(table):
                run.save_table(name, table)
        write_report(run, f"{hooked.name} in the LM Evaluation Harness", harness_sections(found))
    if json:
        return print_json(
            {
                "conditions": families.to_dict("records"),
                "beyond_controls": beyond.to_dict("records"),
                "truncated": found.truncated(),
                "out": str(out),
            }
        )
    return _show(found, families, out)


def _show(found: Any, families: Any, out: Path) -> None:
    from experiments.harness.report import metric_name, own_numbers

    for (task, metric, chosen), part in families.groupby(["task", "metric", "filter"], sort=False):
        print_comparison(part, title=metric_name(task, metric, chosen))
    print_table(own_numbers(families).round(4).to_dict("records"), title="the same as lm_eval reports it")
    for name, count in found.truncated().items():
        say(f"{count} requests of {name} were longer than the context, and cut on the left")
    say(f"results and report in {out}")
