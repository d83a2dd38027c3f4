"""`headscope heads overlap`: do two runs name the same heads? Jaccard over thresholds, beside chance."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.console import print_json, print_table, say
from experiments.options import Json, Seed
from experiments.reporting import Section, write_report
from experiments.rounding import rounded
from head_analysis.overlap import SHARES, circuit_overlap
from headscope.draws import Match
from headscope.errors import UsageError
from headscope.figures import head_map
from headscope.runs import Run
from headscope.scores import HeadScores

_SHARES = ",".join(f"{100 * share:g}" for share in SHARES)


def overlap(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run that holds head scores.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another run on the same model.")],
    scores_a: Annotated[str, typer.Option(help="Which of its scores; needed where it holds several.")] = "",
    scores_b: Annotated[str, typer.Option(help="The same for the other run.")] = "",
    shares: Annotated[str, typer.Option(help="Strongest heads that are compared, in percent.")] = _SHARES,
    match: Annotated[
        Match, typer.Option(help="Chance: heads shuffled within their layers (layer), or over all (free).")
    ] = "layer",
    permutations: Annotated[int, typer.Option(help="Shuffles.", min=1)] = 1000,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of a new run to keep the result in.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Shared heads among the strongest (largest |mean|) of two runs, and what chance would share."""
    a, b = _scores(run_a, scores_a, "--scores-a"), _scores(run_b, scores_b, "--scores-b")
    if (models := {str(one.meta.get("model")) for one in (a, b)}) and len(models) > 1:
        raise UsageError(
            f"the scores are of different models, {' and '.join(sorted(models))}; give two runs on one model"
        )
    table = circuit_overlap(a, b, shares=_parsed(shares), match=match, permutations=permutations, seed=seed)
    text = (
        f"Heads of largest |mean| of “{a.metric}” (n = {a.n}) and of “{b.metric}” (n = {b.n}): jaccard is the share of "
        "those in either that are in both. “expected” is its mean over "
        f"{permutations} shuffles of the second ({'within layers' if match == 'layer' else 'over all heads'}), p the "
        "share of shuffles that do as well. Look at all thresholds: one alone can flatter."
    )
    if out is not None:
        config = {
            "a": str(run_a),
            "b": str(run_b),
            "scores": [a.metric, b.metric],
            "shares": shares,
            "match": match,
            "permutations": permutations,
        }
        with Run.create(out, command="heads overlap", config=config, seeds=[seed]) as run:
            run.save_table("overlap", table)
            write_report(run, f"Do {run_a.name} and {run_b.name} name the same heads?", _sections(a, b, text, table))
    if json:
        return print_json({"a": a.metric, "b": b.metric, "match": match, "overlap": table.to_dict("records")})
    print_table(rounded(table), title=f"{a.metric} and {b.metric}: shared heads, beside chance ({match})")
    return say(f"results and report in {out}") if out is not None else None


def _scores(folder: Path, name: str, option: str) -> HeadScores:
    run = Run.open(folder)
    names = run.score_names()
    if name:
        return run.scores(name)
    if len(names) != 1:
        raise UsageError(f"{folder} holds {len(names)} scores ({', '.join(names) or 'none'}); name one with {option}")
    return run.scores(names[0])


def _parsed(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) / 100 for part in text.split(",") if part.strip())
    except ValueError:
        shares = ()
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UsageError(
            f"--shares {text!r} is not a list of percentages above 0 up to 100; write for example 1,2,5,10"
        )
    return shares


def _sections(a: HeadScores, b: HeadScores, text: str, table: object) -> list[Section]:
    return [
        ("Shared heads", text),
        ("Overlap by threshold", table),
        (f"First run: {a.metric}", head_map(a)),
        (f"Second run: {b.metric}", head_map(b)),
    ]
