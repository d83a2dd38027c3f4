"""`headscope eval`: does a model make up less under an intervention? POPE and CHAIR, paired, with random controls."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer

from experiments.commands.judging_order import JudgingSettings, conditions_of
from experiments.console import print_json, print_metrics, say
from experiments.executors.labour import Labour
from experiments.executors.order import Order, model_order
from experiments.judging import JudgedTask, Judgement, judge
from experiments.options import (
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    ExecutorName,
    Json,
    Model,
    NumGpus,
    Out,
    RayAddress,
    Resume,
    Seed,
    TrustCode,
    With,
    Workers,
    load_model,
)
from experiments.proof import prove
from experiments.reporting import judgement_sections, write_report
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.runs import Run
from tasks.manifest import check_manifest, manifest, read_manifest, save_manifest

app = typer.Typer(
    help="Judge hallucination with and without interventions, on your images or on synthetic scenes.",
    no_args_is_help=True,
)

Annotations = Annotated[
    Path | None, typer.Option(help="Annotations in COCO's instances format; without them synthetic scenes are used.")
]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of the annotated images.")]
Limit = Annotated[int, typer.Option(help="Use so many images.", min=1)]
Draws = Annotated[int, typer.Option(help="Random controls for each --with that has a random counterpart.", min=0)]
Frozen = Annotated[
    Path | None, typer.Option("--manifest", help="manifest.json of another run: any other items are refused.")
]
Prior = Annotated[
    Literal["violating", "usual"], typer.Option(help="Scenes in which usual partners never, or mostly, come together.")
]


@app.command("pope")
def pope(
    out: Out,
    model: Model = "zoo:scenes",
    operators: With = None,
    split: Annotated[
        Literal["random", "popular", "adversarial", "all"], typer.Option(help="Where absent objects come from.")
    ] = "all",
    annotations: Annotations = None,
    images: Images = None,
    per_image: Annotated[
        int | None, typer.Option(help="Objects asked about that are there, and as many that are not.", min=1)
    ] = None,
    prior: Prior = "violating",
    limit: Limit = 200,
    draws: Draws = 5,
    frozen: Frozen = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 8,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    executor: ExecutorName = "local",
    workers: Workers = None,
    num_gpus: NumGpus = None,
    ray_address: RayAddress = None,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Yes-or-no questions about objects that are in the image and objects that are not."""
    asked = {
        "split": split,
        "annotations": annotations,
        "images": images,
        "per_image": per_image,
        "limit": limit,
        "seed": seed,
        "prior": prior,
    }
    _evaluate(
        JudgingSettings("pope", asked, tuple(operators or ()), draws, max_new_tokens, batch_tokens),
        model,
        {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle},
        Labour(executor, workers, num_gpus, ray_address),
        frozen,
        seed,
        Output(out, resume, json),
    )


@app.command("chair")
def chair(
    out: Out,
    model: Model = "zoo:scenes",
    operators: With = None,
    annotations: Annotations = None,
    images: Images = None,
    captions: Annotated[
        Path | None, typer.Option(help="Reference captions in COCO's format; objects that they name are there.")
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option(help="Table of synonyms, a line for each category: category, synonym, synonym.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What asks for a caption.")] = "Please describe this image in detail.",
    prior: Prior = "violating",
    limit: Limit = 200,
    draws: Draws = 5,
    frozen: Frozen = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a caption; by default 512, for scenes 48.", min=1)
    ] = None,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    executor: ExecutorName = "local",
    workers: Workers = None,
    num_gpus: NumGpus = None,
    ray_address: RayAddress = None,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Captions, and the objects in them that are not in the image."""
    asked = {
        "annotations": annotations,
        "images": images,
        "captions": captions,
        "synonyms": synonyms,
        "prompt": prompt,
        "limit": limit,
        "seed": seed,
        "prior": prior,
    }
    _evaluate(
        JudgingSettings("chair", asked, tuple(operators or ()), draws, max_new_tokens, batch_tokens),
        model,
        {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle},
        Labour(executor, workers, num_gpus, ray_address),
        frozen,
        seed,
        Output(out, resume, json),
    )


@dataclass(frozen=True)
class Output:
    """Where results go, and how they are shown."""

    folder: Path
    resume: bool
    json: bool


def _evaluate(
    settings: JudgingSettings,
    model: str,
    loading: Mapping[str, Any],
    labour: Labour,
    frozen: Path | None,
    seed: int,
    output: Output,
) -> None:
    tasks = settings.tasks()
    hooked = load_model(model, **loading)
    conditions = conditions_of(hooked, settings.operators, settings.draws)
    config = {
        "model": model,
        "tasks": {name: repr(task) for name, task in tasks.items()},
        "with": list(settings.operators),
        "draws": settings.draws,
        "asked": {key: value for key, value in settings.asked.items() if key != "seed"},
        "manifest": frozen,
        "max_new_tokens": settings.max_new_tokens,
        "batch_tokens": settings.batch_tokens,
        **{key: value for key, value in loading.items() if key != "device"},
    }
    options: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "batch_tokens": settings.batch_tokens}
    order = Order("eval", model_order(model, **loading), asdict(settings))
    command = f"eval {settings.benchmark}"
    with (
        labour.executor(order) as done_by,
        Run.create(output.folder, command=command, config=config, seeds=[seed], resume=output.resume) as run,
    ):
        _hold_to(run, tasks, hooked, frozen)
        counts = {name: len(task.samples(hooked.processor)) for name, task in tasks.items()}
        if not output.json:
            say(f"{len(conditions)} conditions x {' + '.join(map(str, counts.values()))} answers")
        prove(run, hooked, quiet=output.json)
        options |= {"run": run, "executor": done_by, "progress": not output.json}
        found = {name: judge(hooked, task, conditions, name=name, **options) for name, task in tasks.items()}
        families = _keep(run, hooked, found)
    if output.json:
        return print_json({"conditions": families.to_dict("records"), "out": str(run.path)})
    for name, one in found.items():
        print_metrics(one.families(), title=f"{name}: {counts[name]} answers, 95 % intervals over images")
    return say(f"results and report in {run.path}")


def _keep(run: Run, model: HookedModel, found: Mapping[str, Judgement]) -> pd.DataFrame:
    """Keeps the answers, and all tasks' families of conditions, which come back, and writes the report."""
    families = pd.concat([one.families().assign(task=name) for name, one in found.items()], ignore_index=True)
    answers = pd.concat([one.table.assign(task=name) for name, one in found.items()], ignore_index=True)
    for name, table in {"answers": answers, "families": families}.items():
        if name not in run.table_names():
            run.save_table(name, table)
    sections = [section for name, one in found.items() for section in judgement_sections(name, one)]
    write_report(run, f"{run.facts['command']}: {model.name}", sections)
    return families


def _hold_to(run: Run, tasks: Mapping[str, JudgedTask], model: HookedModel, frozen: Path | None) -> None:
    """Keeps what is asked as manifests of the run, and refuses anything else than the given one."""
    given = None if frozen is None else read_manifest(frozen)
    if given is not None and len(tasks) > 1:
        raise UsageError(f"{frozen} is the manifest of one split; say which with --split")
    for name, task in tasks.items():
        if given is not None:
            check_manifest(task, given, model.processor)
        path = run.path / ("manifest.json" if len(tasks) == 1 else f"manifest-{name}.json")
        if path.exists():
            check_manifest(task, read_manifest(path), model.processor)
        else:
            save_manifest(manifest(task, model.processor), path)
