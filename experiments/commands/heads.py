"""`headscope heads`: scores of all heads, computed on a model or read from a published file."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.console import print_heads, print_json, print_table, say
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
from experiments.rounding import rounded
from head_analysis import measure_retrieval
from head_analysis.retrieval import Variant
from head_analysis.score_files import Format, detect_format, read_head_list, read_score_file
from headscope.answers import asked_of
from headscope.errors import UsageError
from headscope.runs import Run
from headscope.score_table import RUN_TABLE, read_head_table, save_head_table, scores_of_table, write_head_table
from headscope.scores import HeadScores
from tasks import Needle, Subset

_SHOWN = 20

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
    file: Annotated[Path, typer.Argument(help="A file of scores; DuoAttention's may be its folder.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of a new run to keep them in.")] = None,
    format: Annotated[Format | None, typer.Option(help="Its form, found out by its content unless given.")] = None,
    model_name: Annotated[str | None, typer.Option(help="Name of the model, where the file does not say it.")] = None,
    query_heads: Annotated[
        int | None, typer.Option(help="Query heads a layer, to spread scores of key-value heads over.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Heads at or above it are listed.")] = 0.1,
    json: Json = False,
) -> None:
    """Read scores that other projects publish: Retrieval_Head, HeadKV, DuoAttention, QRHead, and head-score tables."""
    form = format or detect_format(file)
    if form == "table" and model_name is not None:
        raise UsageError(f"{file} says itself which models its scores are of; leave --model-name out")
    if form in ("table", "qrhead-list") and query_heads is not None:
        raise UsageError(f"--query-heads spreads scores of key-value heads, and {file} ({form}) has none; leave it out")
    if form == "qrhead-list":
        return import_list(file, model_name, out, json=json)
    if form == "table":
        return import_table(file, out, threshold=threshold, json=json)
    scores = read_score_file(file, model=model_name, format=form, query_heads=query_heads)
    if out is not None:
        with Run.create(out, command="heads import", config={"file": file.name, "format": form}) as run:
            keep_results(run, scores)
    return show_scores(scores, threshold=threshold, json=json)


def import_list(file: Path, model: str | None, out: Path | None, *, json: bool) -> None:
    """Heads without scores: the run keeps a table of them, and no scores."""
    found = read_head_list(file, model=model)
    if out is not None:
        with Run.create(out, command="heads import", config={"file": file.name, "format": "qrhead-list"}) as run:
            run.save_table("heads", found.to_dataframe())
    names = [str(head) for head in found.heads]
    if json:
        return print_json({"model": found.meta["model"], "scores": None, "heads": names})
    return say(f"{len(names)} heads without scores, in the order of the file: {', '.join(names)}")


def import_table(file: Path, out: Path | None, *, threshold: float, json: bool) -> None:
    """A head-score table: the run keeps it as it is, and the means of each model and metric as scores."""
    table = read_head_table(file)
    if out is not None:
        with Run.create(out, command="heads import", config={"file": file.name, "format": "table"}) as run:
            write_head_table(run.path / f"{RUN_TABLE}.parquet", table)
            parts = table.groupby(["model", "revision", "metric", "seed", "template"], sort=False, dropna=False)
            for number, (_, part) in enumerate(parts):
                name = "retrieval" if parts.ngroups == 1 else f"scores-{number + 1}"
                run.save_scores(name, scores_of_table(part, source=file.name))
    if json:
        return print_json({"heads": table.astype(object).where(table.notna(), None).to_dict("records")})
    best = table[table["value"] >= threshold].sort_values("value", ascending=False, kind="stable")
    title = f"{len(best)} of {len(table)} rows at or above {threshold}, intervals as in the file"
    columns = ["model", "metric", "name", "value", "low", "high", "n"]
    return print_table(rounded(best[columns].head(_SHOWN)), title=title)


def keep_results(run: Run, scores: HeadScores, **tables: object) -> None:
    """The scores, their documented table, and further tables, unless the run holds them already."""
    if "retrieval" not in run.score_names():
        run.save_scores("retrieval", scores)
    save_head_table(run, [scores])
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)


def show_scores(scores: HeadScores, *, threshold: float, json: bool) -> None:
    """The best heads, as a table or as JSON."""
    if json:
        frame = scores.to_dataframe().sort_values("value", ascending=False)
        print_json({"metric": scores.metric, "n": scores.n, "heads": frame.to_dict("records")})
    else:
        print_heads(scores, threshold=threshold)
