"""`headscope heads`: scores of all heads, computed on a model or read from a published file."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.console import print_heads, print_json, say
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
    Shard,
    TrustCode,
    load_model,
    parse_numbers,
    parse_shard,
)
from experiments.proof import prove
from experiments.reporting import retrieval_sections, write_report
from head_analysis import measure_retrieval, read_score_file
from head_analysis.retrieval import Variant
from headscope.answers import asked_of
from headscope.runs import Run
from headscope.scores import HeadScores
from tasks import Needle, Subset

app = typer.Typer(help="Score all heads of a model, or read published scores.", no_args_is_help=True)


@app.command("retrieval")
def retrieval(
    out: Out,
    model: Model = "zoo:needle",
    lengths: Annotated[str, typer.Option(help="Tokens of the prompts, such as 1000,4000.")] = "128,256,512",
    depths: Annotated[int, typer.Option(help="Depths of the needle, evenly from start to end.", min=1)] = 10,
    repeats: Annotated[int, typer.Option(help="Texts for each length and depth.", min=1)] = 1,
    needles: Annotated[int, typer.Option(help="Facts in a text, of which one is asked.", min=1)] = 1,
    haystack: Annotated[
        Path | None, typer.Option(help="Text file, or folder of .txt files, to hide needles in.")
    ] = None,
    variant: Annotated[Variant, typer.Option(help="released is the score of the paper's code.")] = "paper",
    top_k: Annotated[int, typer.Option(help="Count a head's k best-attended keys.", min=1)] = 1,
    threshold: Annotated[float, typer.Option(help="Heads at or above it are listed.")] = 0.1,
    batch_tokens: Annotated[int, typer.Option(help="Prompt tokens in a batch; less needs less memory.", min=1)] = 8192,
    seed: Seed = 0,
    limit: Limit = None,
    shard: Shard = "1/1",
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Retrieval score of every head: does it point at the token of the needle that the model copies next?"""
    asked = Needle(parse_numbers(lengths, "lengths"), depths, repeats, needles, haystack=haystack, seed=seed)
    task = Subset(asked, limit=limit, shard=parse_shard(shard))
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    config = {
        "model": model,
        "task": repr(task),
        "variant": variant,
        "top_k": top_k,
        "dtype": dtype,
    }
    count = len(asked_of(hooked, task)[0])
    with Run.create(out, command="heads retrieval", config=config, seeds=[seed], resume=resume) as run:
        if not json:
            say(f"{count} prompts of up to {asked.longest} tokens; an answer each, one generation")
        prove(run, hooked, quiet=json)
        found = measure_retrieval(
            hooked, task, variant=variant, top_k=top_k, batch_tokens=batch_tokens, run=run, progress=not json
        )
        scores = found.scores
        keep_results(run, scores, answers=found.answers)
        write_report(run, f"Retrieval heads of {hooked.name}", retrieval_sections(found, threshold))
    show_scores(scores, threshold=threshold, json=json)
    if not json:
        say(f"answered {found.answers['score'].mean():.1%} of {count} prompts; results and report in {out}")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help='Published scores: JSON {"layer-head": [scores]}, gzip or not.')],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of a new run to keep them in.")] = None,
    threshold: Annotated[float, typer.Option(help="Heads at or above it are listed.")] = 0.1,
    json: Json = False,
) -> None:
    """Read the score files published with the retrieval-head paper."""
    scores = read_score_file(file)
    if out is not None:
        with Run.create(out, command="heads import", config={"file": file.name}) as run:
            keep_results(run, scores)
    show_scores(scores, threshold=threshold, json=json)


def keep_results(run: Run, scores: HeadScores, **tables: object) -> None:
    """The scores, their documented table, and further tables, unless the run holds them already."""
    if "retrieval" not in run.score_names():
        run.save_scores("retrieval", scores)
    for name, table in {"head_scores": scores.to_dataframe(), **tables}.items():
        if name not in run.table_names():
            run.save_table(name, table)


def show_scores(scores: HeadScores, *, threshold: float, json: bool) -> None:
    """The best heads, as a table or as JSON."""
    if json:
        frame = scores.to_dataframe().sort_values("value", ascending=False)
        print_json({"metric": scores.metric, "n": scores.n, "heads": frame.to_dict("records")})
    else:
        print_heads(scores, threshold=threshold)
