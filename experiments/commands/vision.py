"""`headscope heads vision`: what every head does with the image while a model describes it."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.evaluate import Annotations, Images, Limit, Prior
from experiments.commands.judging_order import captions_task
from experiments.console import print_heads, print_json, say
from experiments.looking import Looking, look, looking_sections
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
    load_model,
)
from experiments.proof import prove
from experiments.reporting import write_report
from experiments.vhd_by_token import keep_by_token, refuse_large
from headscope.runs import Run


def vision(
    out: Out,
    model: Model = "zoo:scenes",
    annotations: Annotations = None,
    images: Images = None,
    synonyms: Annotated[Path | None, typer.Option(help="Table of synonyms: category, synonym, synonym.")] = None,
    prompt: Annotated[str, typer.Option(help="What asks for a description.")] = "Please describe this image in detail.",
    prior: Prior = "violating",
    limit: Limit = 100,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of a description.", min=1)] = None,
    by_token: Annotated[
        int, typer.Option(help="Keep VHD of every head at every token of the first so many descriptions.", min=0)
    ] = 100,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """VHD, attention to the image, localisation and sinks, of all heads, on descriptions of images."""
    task = captions_task(annotations, images, None, synonyms, prompt, limit, seed, prior)
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    room = max_new_tokens or task.answer_tokens
    refuse_large(min(by_token, len(task.images)), room, hooked.n_layers * hooked.n_heads)
    config = {
        "model": model,
        "task": repr(task),
        "annotations": annotations,
        "images": images,
        "synonyms": synonyms,
        "prompt": prompt,
        "prior": prior,
        "limit": limit,
        "max_new_tokens": max_new_tokens,
        "by_token": by_token,
        "batch_tokens": batch_tokens,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
    }
    with Run.create(out, command="heads vision", config=config, seeds=[seed], resume=resume) as run:
        if not json:
            say(f"{len(task.images)} descriptions, and about five more passes of each")
        prove(run, hooked, quiet=json)
        found = look(hooked, task, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, progress=not json)
        keep_looking(run, found, by_token=by_token)
        write_report(run, f"What {hooked.name} does with the image", looking_sections(hooked, found))
    if json:
        return print_json(
            {name: scores.to_dataframe().to_dict("records") for name, scores in found.scores.items()}
            | {"out": str(out)}
        )
    for name in ("vhd", "text_to_image"):
        print_heads(found.scores[name], threshold=0.0, most=8)
    return say(f"sink dimensions: {found.sinks.dimensions}\nresults and report in {out}")


def keep_looking(run: Run, found: Looking, *, by_token: int = 100) -> None:
    """All scores and tables of the study, and VHD by token of so many captions, but for those that the run holds."""
    for name, scores in found.scores.items():
        if name not in run.score_names():
            run.save_scores(name, scores)
    tables = {
        "captions": found.captions,
        "caption_tokens": found.tokens,
        "sinks_by_layer": found.sinks.sinks_by_layer,
        "sink_tokens": found.sinks.by_token(),
    }
    if found.localisation is not None:
        tables["localisation"] = found.localisation.table()
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)
    if by_token:
        keep_by_token(run, found.vhd.steps[:by_token])
