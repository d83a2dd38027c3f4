"""`headscope heads export`: scores of a run, or attention over a text, in the form that another tool reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from experiments.console import print_json, say
from experiments.options import Device, Dtype, Json, load_model
from head_analysis.score_files import write_score_file
from headscope.errors import UsageError
from headscope.exports import write_bertviz, write_headvis
from headscope.heads import Head, parse_heads
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.score_table import head_table, write_head_table
from headscope.scores import HeadScores

To = Literal["table", "retrieval-head", "headvis", "bertviz"]
_OF_SCORES: tuple[To, ...] = ("table", "retrieval-head")


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="New file, for headvis a new folder.")],
    format: Annotated[To, typer.Option(help="table and retrieval-head take scores, headvis and bertviz attention.")],
    source: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run with scores.")] = None,
    scores: Annotated[str | None, typer.Option(help="Scores of the run, where it has several.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Whose attention; the run's unless given.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="What it is to read; give it again for more.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A text file to read, in place of --text.")] = None,
    heads: Annotated[str | None, typer.Option(help="Heads for headvis, such as L2H5,L3H0; all if not given.")] = None,
    top: Annotated[int | None, typer.Option(help="The run's best heads for headvis, so many.", min=1)] = None,
    min_weight: Annotated[float, typer.Option(help="Least attention that headvis is given.")] = 0.01,
    layers: Annotated[str | None, typer.Option(help="Layers for bertviz, such as 0,3; all if not given.")] = None,
    view: Annotated[Literal["head", "model"], typer.Option(help="Which page of BertViz.")] = "head",
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Write scores as a head-score table or a Retrieval_Head file, or attention for HeadVis or BertViz."""
    _refuse_unused(format, heads=heads, top=top, layers=layers, text=text, text_file=text_file, model=model)
    if format in _OF_SCORES:
        written = _write_scores(_run(source, format), scores, format, out)
    else:
        run = None if source is None else Run.open(source)
        kept = [] if run is None else _chosen(run, scores)
        texts = _texts(text, text_file)
        hooked = load_model(model or _model_of(run), device=device, dtype=dtype)
        if format == "headvis":
            wanted = _heads(kept, heads, top)
            write_headvis(hooked, texts, out, heads=wanted, scores=kept, min_weight=min_weight)
            tokens = sum(len(hooked.tokens(one).ids) for one in texts)
            written = f"{'all' if wanted is None else len(wanted)} heads over {tokens} tokens"
        else:
            written = _write_page(hooked, texts, out, _layers(layers), view)
    if json:
        return print_json({"out": str(out), "format": format, "written": written})
    return say(f"{written} in {out}")


def _write_scores(run: Run, name: str | None, format: To, out: Path) -> str:
    kept = _chosen(run, name)
    if format == "table":
        table = head_table(kept)
        write_head_table(out, table)
        return f"{len(table)} rows ({', '.join(table['metric'].unique())})"
    if len(kept) > 1:
        raise UsageError(f"a Retrieval_Head file holds one kind of score; name it with --scores: {_listed(run)}")
    write_score_file(kept[0], out)
    return f"{kept[0].metric} of {len(kept[0].heads)} heads, {kept[0].n} samples"


def _write_page(
    hooked: HookedModel, texts: Sequence[str], out: Path, layers: Sequence[int] | None, view: Literal["head", "model"]
) -> str:
    if len(texts) > 1:
        raise UsageError(f"a page of BertViz shows one text, and {len(texts)} are given; give one")
    write_bertviz(hooked, texts[0], out, layers=layers, view=view)
    return f"attention of {'all' if layers is None else len(layers)} layers as a page of BertViz"


def _refuse_unused(format: To, **given: object) -> None:
    takes = {
        "headvis": {"heads", "top", "text", "text_file", "model"},
        "bertviz": {"layers", "text", "text_file", "model"},
    }
    for name, value in given.items():
        if value is not None and value != [] and name not in takes.get(format, set()):
            raise UsageError(f"--{name.replace('_', '-')} does nothing for --format {format}; leave it out")


def _run(source: Path | None, format: To) -> Run:
    if source is None:
        raise UsageError(f"--format {format} writes the scores of a run; give its folder")
    return Run.open(source)


def _chosen(run: Run, name: str | None) -> list[HeadScores]:
    names = run.score_names() if name is None else (name,)
    if not names:
        raise UsageError(f"{run.path} has no scores; give a run that has, such as one of `headscope heads retrieval`")
    return [run.scores(one) for one in names]


def _listed(run: Run) -> str:
    return ", ".join(run.score_names())


def _texts(text: Sequence[str] | None, file: Path | None) -> list[str]:
    if bool(text) == (file is not None):
        raise UsageError("attention is of a text; give --text or --text-file, and not both")
    if file is None:
        return list(text or ())
    try:
        return [file.read_text("utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read as text ({error}); give a text file") from error


def _model_of(run: Run | None) -> str:
    model = None if run is None else run.facts.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if not isinstance(name, str):
        raise UsageError("no model is given, and no run that names one; give --model")
    return name


def _heads(kept: Sequence[HeadScores], heads: str | None, top: int | None) -> tuple[Head, ...] | None:
    if heads is not None and top is not None:
        raise UsageError("--heads and --top both choose heads; give one of them")
    if top is None:
        return None if heads is None else parse_heads(heads)
    if len(kept) != 1:
        raise UsageError(f"--top needs one kind of score and there are {len(kept)}; give a run, and --scores")
    return kept[0].top(top)


def _layers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UsageError(f"--layers {text!r} is no list of layers; write for example 0,3")
    return [int(part) for part in text.split(",")]
