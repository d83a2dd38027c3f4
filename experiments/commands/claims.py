"""`headscope claims`: the five properties that the retrieval-head paper claims, each measured by one command.

Wu et al. 2024, arXiv 2404.15574, section 3. A source of scores is the folder of a run, a saved score file, a score file
as published with the paper, or a model, which is then scored on the project's needle task.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import plotly.graph_objects as go
import typer
from scipy.stats import pearsonr

from experiments.compare import Condition, against_random, compare
from experiments.console import print_comparison, print_json, print_table, say
from experiments.options import Device, Dtype, Json, Model, Seed, load_model, parse_numbers
from experiments.reporting import write_page
from head_analysis import read_score_file, retrieval_scores
from headscope.errors import UsageError
from headscope.evidence import proportion_interval
from headscope.figures import causal_bars, frequency_scatter, report, score_histogram, score_scatter
from headscope.files import write_new
from headscope.hooks import Phase
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.scores import HeadScores
from tasks import Needle

app = typer.Typer(help="The retrieval-head paper's five claims, each with a figure.", no_args_is_help=True)

Sources = Annotated[list[str], typer.Argument(help="Run folder, score file, or model; several where it says so.")]
Figure = Annotated[Path | None, typer.Option("--out", "-o", help="Write the figures to this HTML file.")]
Threshold = Annotated[float, typer.Option(help="From this score on a head counts as a retrieval head.")]


@app.command("sparse")
def sparse(sources: Sources, threshold: Threshold = 0.1, out: Figure = None, json: Json = False) -> None:
    """Few heads retrieve: the share of heads in each band of scores."""
    _shares("sparse: few heads retrieve", sources, threshold, out, json=json)


@app.command("universal")
def universal(sources: Sources, threshold: Threshold = 0.1, out: Figure = None, json: Json = False) -> None:
    """Every model has some: the same share, for two or more models."""
    if len(sources) < 2:
        raise UsageError(f"one source given ({sources[0]}); universality needs the scores of at least two models")
    _shares("universal: every model has retrieval heads, and few", sources, threshold, out, json=json)


def _shares(title: str, sources: Sequence[str], threshold: float, out: Path | None, *, json: bool) -> None:
    scores = [read_scores(source) for source in sources]
    rows = [share_row(label(source), one, threshold) for source, one in zip(sources, scores, strict=True)]
    _show(title, rows, [score_histogram(one) for one in scores], out, json=json)


@app.command("dynamic")
def dynamic(sources: Sources, threshold: Threshold = 0.1, out: Figure = None, json: Json = False) -> None:
    """Some heads always act, others depend on the context: how often each is active."""
    rows: list[dict[str, object]] = []
    figures = []
    for source in sources:
        scores = read_scores(source)
        active = scores.activation_frequency()
        for head in scores.above(threshold):
            often, mean = float(active[head.layer, head.head]), float(scores.values[head.layer, head.head])
            low, high = proportion_interval(round(often * scores.n), scores.n)
            rows.append(
                {
                    "source": label(source),
                    "head": str(head),
                    "active in": round(often, 3),
                    "95 % interval": f"{low:.3f} to {high:.3f}",
                    "mean score": round(mean, 3),
                    "context sensitivity": round(often - mean, 3),
                    "n": scores.n,
                }
            )
        figures.append(frequency_scatter(scores))
    _show("dynamic: how often each head is active", rows, figures, out, json=json)


@app.command("intrinsic")
def intrinsic(sources: Sources, out: Figure = None, json: Json = False) -> None:
    """A derived model keeps its base model's heads: the correlation of two models' scores over heads."""
    if len(sources) != 2:
        raise UsageError(f"{len(sources)} sources given; a correlation needs two models of the same shape")
    a, b = (read_scores(source) for source in sources)
    r = a.correlation(b)
    both = a.exists & b.exists
    interval = pearsonr(a.values[both].numpy(), b.values[both].numpy()).confidence_interval()
    row = {
        "sources": " / ".join(map(label, sources)),
        "r": round(r, 3),
        "95 % interval": f"{interval.low:.3f} to {interval.high:.3f}",
        "heads": int(both.sum()),
        "overlap of the top 20 (Jaccard)": round(a.overlap(b, min(20, int(both.sum()))), 3),
    }
    _show("intrinsic: the same heads in both models", [row], [score_scatter(a, b)], out, json=json)


@app.command("causal")
def causal(
    model: Model = "zoo:needle",
    ks: Annotated[str, typer.Option(help="How many heads to remove.")] = "1,2",
    mode: Annotated[Literal["zero", "uniform"], typer.Option(help="uniform is what the paper's code does.")] = "zero",
    phase: Annotated[
        Phase | None, typer.Option(help="decode is what the paper's code does; both if not given.")
    ] = None,
    length: Annotated[int, typer.Option(help="Tokens of the prompts.", min=1)] = 256,
    draws: Annotated[int, typer.Option(min=1)] = 5,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    out: Figure = None,
    json: Json = False,
) -> None:
    """Without its best heads the model no longer finds the needle; without others it does."""
    hooked = load_model(model, device=device, dtype=dtype)
    scores = retrieval_scores(hooked, Needle((length,), 5, 6, seed=seed), progress=not json)
    conditions = [Condition("none")]
    for k in parse_numbers(ks, "ks"):
        found = against_random(
            hooked,
            scores.top(k),
            draws=draws,
            mode=mode,
            phase=phase,
        )
        conditions += [
            Condition(
                f"{c.name}" if not c.family else f"{k} {c.name}",
                c.interventions,
                c.kind,
                f"{k} {c.family}" * bool(c.family),
            )
            for c in found
        ]
    families = compare(hooked, Needle((length,), 5, 8, seed=seed + 1), conditions, progress=not json).families()
    if out is not None:
        _write(out, f"causal: {mode} ablation on {hooked.name}", [causal_bars(families)], families)
    if json:
        return print_json({"conditions": families.to_dict("records")})
    return print_comparison(
        families, title=f"answers right at {length} tokens, {mode} ablation, {phase or 'both phases'}"
    )


def read_scores(source: str) -> HeadScores:
    """Scores from a run folder, a saved file, a published file, or a model scored here; UsageError for anything else."""
    path = Path(source)
    if (path / "run.json").exists():
        run = Run.open(path)
        names = run.score_names()
        if not names:
            raise UsageError(f"{source} holds no head scores; give the folder of a `headscope heads` run")
        return run.scores(names[0])
    if path.suffix == ".safetensors":
        return HeadScores.load(path)
    if path.suffix in (".json", ".gz"):
        return read_score_file(path)
    model = HookedModel.load(source)
    return retrieval_scores(model, Needle((256,), 5, 6), progress=True)


def label(source: str) -> str:
    """A source's name in a table: a file's or folder's own name, without the way to it."""
    return Path(source).name if Path(source).exists() else source


def share_row(source: str, scores: HeadScores, threshold: float) -> dict[str, object]:
    """How many heads retrieve, with Wilson's interval over heads."""
    heads, above = len(scores.heads), scores.above(threshold)
    low, high = proportion_interval(len(above), heads)
    return {
        "source": source,
        "heads": heads,
        f"score >= {threshold}": len(above),
        "share": f"{len(above) / heads:.1%}",
        "95 % interval": f"{low:.1%} to {high:.1%}",
        "best": ", ".join(f"{h} {scores.values[h.layer, h.head]:.2f}" for h in scores.top(min(3, heads))),
        "n": scores.n,
    }


def _show(
    title: str, rows: Sequence[dict[str, object]], figures: Sequence[go.Figure], out: Path | None, *, json: bool
) -> None:
    if out is not None:
        _write(out, title, figures, pd.DataFrame(rows))
    if json:
        return print_json(rows)
    print_table(rows, title=title)
    return say(f"figures in {out}") if out is not None else None


def _write(out: Path, title: str, figures: Sequence[go.Figure], table: pd.DataFrame) -> None:
    titled = [(figure.layout.title.text or title, figure) for figure in figures]
    page = report(title, [("Numbers", table), *titled])
    write_new(out, partial(write_page, page))
