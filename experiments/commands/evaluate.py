"""`headscope eval`: does a model make up less under an intervention? POPE and CHAIR, paired, with random controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import pandas as pd
import typer

from experiments.compare import Condition
from experiments.console import print_json, print_metrics, say
from experiments.controls import with_controls
from experiments.judging import JudgedTask, Judgement, judge
from experiments.options import (
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    Json,
    Model,
    Out,
    Resume,
    Seed,
    TrustCode,
    With,
    load_model,
)
from experiments.proof import prove
from experiments.reporting import judgement_sections, write_report
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.runs import Run
from interventions.named import parse_interventions
from tasks.annotated import AnnotatedImage
from tasks.chair import CHAIR
from tasks.coco import read_coco
from tasks.manifest import check_manifest, manifest, read_manifest, save_manifest
from tasks.pope import POPE, Split
from tasks.scenes import scene_captions, scene_pope
from tasks.synonyms import coco_synonyms, read_synonyms

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
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Yes-or-no questions about objects that are in the image and objects that are not."""
    splits: tuple[Split, ...] = get_args(Split) if split == "all" else (split,)
    tasks: dict[str, JudgedTask]
    if annotations is None:
        violating = prior == "violating"
        tasks = {
            one: scene_pope(limit, one, seed=seed, violating=violating, per_image=per_image or 2) for one in splits
        }
    else:
        annotated = _annotated(annotations, images, None, limit)
        tasks = {one: POPE(annotated, one, per_image or 3, seed) for one in splits}
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    conditions = conditions_of(hooked, operators or (), draws)
    config = _config(model, tasks, operators, draws, dtype, max_new_tokens)
    with Run.create(out, command="eval pope", config=config, seeds=[seed], resume=resume) as run:
        _evaluate(run, hooked, tasks, conditions, frozen, max_new_tokens, batch_tokens, json=json)


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
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Captions, and the objects in them that are not in the image."""
    task = captions_task(annotations, images, captions, synonyms, prompt, limit, seed, prior)
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    conditions = conditions_of(hooked, operators or (), draws)
    tasks: dict[str, JudgedTask] = {"captions": task}
    config = _config(model, tasks, operators, draws, dtype, max_new_tokens)
    with Run.create(out, command="eval chair", config=config, seeds=[seed], resume=resume) as run:
        _evaluate(run, hooked, tasks, conditions, frozen, max_new_tokens, batch_tokens, json=json)


def captions_task(
    annotations: Path | None,
    images: Path | None,
    captions: Path | None,
    synonyms: Path | None,
    prompt: str,
    limit: int,
    seed: int,
    prior: str,
) -> CHAIR:
    """Captions of the user's annotated images, or of synthetic scenes where none are given."""
    if annotations is None:
        return scene_captions(limit, seed=seed, violating=prior == "violating")
    table = coco_synonyms() if synonyms is None else read_synonyms(synonyms)
    return CHAIR(_annotated(annotations, images, captions, limit), table, prompt)


def conditions_of(model: HookedModel, texts: Sequence[str], draws: int) -> list[Condition]:
    """The baseline, and each text's interventions with their random controls; they are tried on the model at once."""
    conditions = [Condition("none")]
    for text in texts:
        interventions = parse_interventions(text)
        with model.hooks(*interventions):
            pass  # refuses what the model cannot do before anything is run
        conditions += with_controls(model, text, interventions, draws=draws)
    return conditions


def _evaluate(
    run: Run,
    model: HookedModel,
    tasks: Mapping[str, JudgedTask],
    conditions: Sequence[Condition],
    frozen: Path | None,
    max_new_tokens: int | None,
    batch_tokens: int,
    *,
    json: bool,
) -> None:
    _hold_to(run, tasks, model, frozen)
    counts = {name: len(task.samples(model.processor)) for name, task in tasks.items()}
    if not json:
        say(f"{len(conditions)} conditions x {' + '.join(map(str, counts.values()))} answers")
    prove(run, model, quiet=json)
    found: dict[str, Judgement] = {}
    for name, task in tasks.items():
        found[name] = judge(
            model,
            task,
            conditions,
            name=name,
            max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
            run=run,
            progress=not json,
        )
    families = pd.concat([one.families().assign(task=name) for name, one in found.items()], ignore_index=True)
    answers = pd.concat([one.table.assign(task=name) for name, one in found.items()], ignore_index=True)
    for name, table in {"answers": answers, "families": families}.items():
        if name not in run.table_names():
            run.save_table(name, table)
    sections = [section for name, one in found.items() for section in judgement_sections(name, one)]
    write_report(run, f"{run.facts['command']}: {model.name}", sections)
    if json:
        return print_json({"conditions": families.to_dict("records"), "out": str(run.path)})
    for name, one in found.items():
        print_metrics(one.families(), title=f"{name}: {counts[name]} answers, 95 % intervals over images")
    return say(f"results and report in {run.path}")


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


def _annotated(annotations: Path, images: Path | None, captions: Path | None, limit: int) -> tuple[AnnotatedImage, ...]:
    if images is None:
        raise UsageError(f"--annotations {annotations} is given without --images, the folder that holds its images")
    return tuple(read_coco(annotations, images, captions_json=captions, limit=limit))


def _config(
    model: str,
    tasks: Mapping[str, JudgedTask],
    operators: Sequence[str] | None,
    draws: int,
    dtype: str,
    max_new_tokens: int | None,
) -> dict[str, object]:
    return {
        "model": model,
        "tasks": {name: repr(task) for name, task in tasks.items()},
        "with": list(operators or ()),
        "draws": draws,
        "dtype": dtype,
        "max_new_tokens": max_new_tokens,
    }
