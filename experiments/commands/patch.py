"""`headscope patch`: which heads carry an answer, by activations of one prompt put into another, or along one path."""

from typing import Annotated, Any

import pandas as pd
import typer

from experiments.answer_metrics import Metric
from experiments.commands.asking import (
    Asked,
    Asking,
    Choose,
    Corrupted,
    Depths,
    Haystack,
    Lengths,
    Needles,
    Prompts,
    Repeats,
    TaskName,
    ask,
    check_answers,
    check_several,
)
from experiments.commands.patch_plan import Plan
from experiments.compare import Comparison
from experiments.console import print_json, print_table, say
from experiments.options import BatchTokens, Device, Dtype, Json, Limit, Model, Out, Resume, Seed, load_model
from experiments.over_controls import over_controls
from experiments.patching.activations import Direction, activation_patching
from experiments.patching.effects import named_heads, places_of
from experiments.patching.paths import Mlps, Through, path_patching
from experiments.patching.report import LISTED, described, head_effects, patch_sections, records, steadiness
from experiments.patching.together import ends_of, patched_beside_random
from experiments.proof import prove
from experiments.reporting import write_report
from experiments.rounding import rounded
from experiments.sweeps.removed_together import with_counterparts
from experiments.timing import duration, seconds_a_pass
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.scores import HeadScores


def patch(
    out: Out,
    model: Model = "zoo:needle",
    task: TaskName = "needle",
    sites: Annotated[str, typer.Option(help="What is patched of each head: z, q, k, v, pattern, or several.")] = "z",
    direction: Annotated[
        Direction | None,
        typer.Option(help="denoise: clean activations into corrupted prompts (default); noise: the reverse."),
    ] = None,
    through: Annotated[
        Through | None, typer.Option(help="Path patching: the receivers' q, k or v, or the logits themselves.")
    ] = None,
    receivers: Annotated[str, typer.Option(help="Heads that receive (with --through q, k or v).")] = "",
    heads: Annotated[str, typer.Option(help="Patch (or send from) these heads only, such as L2H5,L3H0.")] = "",
    positions: Annotated[
        str, typer.Option(help="A mark such as END, or places such as -1; everywhere if not given.")
    ] = "",
    mlps: Annotated[Mlps, typer.Option(help="Whether MLPs follow or are frozen (with --through).")] = "free",
    metric: Annotated[Metric, typer.Option(help="What is measured of the answer.")] = "logit_difference",
    top: Annotated[int, typer.Option(help="Patch so many of the best heads at once, beside random others.", min=1)] = 3,
    draws: Annotated[int, typer.Option(help="Random controls.", min=1)] = 5,
    lengths: Lengths = "128",
    depths: Depths = 5,
    repeats: Repeats = 4,
    needles: Needles = 2,
    haystack: Haystack = None,
    prompts: Prompts = 32,
    options: Choose = 2,
    counterfactual: Corrupted = None,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 1,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Patch every head of clean and corrupted prompts in turn, or (--through) one path from every head."""
    plan = Plan.of(sites, direction, through, receivers, heads, positions, mlps, metric)
    asking = Asking(
        task, lengths, depths, repeats, needles, haystack, prompts, options, counterfactual, seed=seed, limit=limit
    )
    hooked = load_model(model, device=device, dtype=dtype)
    asked = ask(hooked, asking)
    clean, corrupt = asked.pairs
    check_several(asked)
    check_answers(hooked, asked, metric)
    chosen = plan.senders(hooked)
    named_heads(hooked, plan.receivers)
    places_of(hooked, (*clean, *corrupt), plan.positions)  # refuses a mark that is not there
    config = {"model": model, "task": asking.facts(), "top": top, "draws": draws, "dtype": dtype, **plan.facts()}
    with Run.create(out, command="patch", config=config, seeds=[seed], resume=resume) as run:
        prove(run, hooked, quiet=json)
        if not json:
            passes, each = plan.passes(len(chosen), draws), seconds_a_pass(hooked, clean, batch_tokens)
            say(
                f"{len(chosen)} heads x {' and '.join(plan.maps)} on {len(clean)} pairs: {passes} passes of all pairs, "
                f"about {duration(passes * each)}"
            )
        maps = {name: _map(run, hooked, asked, plan, name, batch_tokens, progress=not json) for name in plan.maps}
        ends = ends_of(hooked, clean, corrupt, metric=metric, batch_tokens=batch_tokens)
        together = _together(hooked, asked, plan, maps, top, draws, batch_tokens, progress=not json)
        table, steady = head_effects(maps), steadiness(maps, top)
        _keep(run, heads=table, stability=steady, **{f"{name} at once": one.table for name, one in together.items()})
        dropped = max(int(scores.meta["samples_dropped"]) for scores in maps.values())
        text = described(asked.name, metric, ends, dropped, plan.text)
        write_report(run, f"{hooked.name}: {plan.title}", patch_sections(maps, table, steady, together, text))
    if json:
        found = {
            "metric": metric,
            "pairs": len(clean),
            "clean": ends[0].mean().item(),
            "corrupt": ends[1].mean().item(),
            "dropped": dropped,
            "heads": records(table),
            "stability": records(steady),
            "together": {name: records(one.families()) for name, one in together.items()},
            "over_controls": {name: records(over_controls(one)) for name, one in together.items()},
            "out": str(out),
        }
        return print_json(found)
    if dropped:
        say(f"{dropped} of {len(clean)} pairs are left out: both prompts give the same {metric}")
    for name in maps:
        best = table[table["map"] == name].head(LISTED)[["name", "value", "low", "high", "n", "p", "q"]]
        print_table(rounded(best), title=f"{name}: largest effects on {metric} (1 is the whole gap)")
        if name in together:
            for row in together[name].families().to_dict("records"):
                say(f"{row['condition']}: {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] of the gap")
    return say(f"results and report in {out}")


def _map(
    run: Run, model: HookedModel, asked: Asked, plan: Plan, name: str, batch_tokens: int, *, progress: bool
) -> HeadScores:
    """The effect of every head in one map, computed unless the run holds it."""
    if name in run.score_names():
        return run.scores(name)
    clean, corrupt = asked.pairs
    shared: dict[str, Any] = {
        "metric": plan.metric,
        "positions": plan.positions,
        "batch_tokens": batch_tokens,
        "progress": progress,
    }
    if plan.through:
        scores = path_patching(
            model,
            clean,
            corrupt,
            receivers=plan.receivers,
            through=plan.through,
            senders=plan.heads or None,
            mlps=plan.mlps,
            **shared,
        )
    else:
        heads, site = plan.heads or None, plan.site(name)
        scores = activation_patching(model, clean, corrupt, site=site, direction=plan.direction, heads=heads, **shared)
    run.save_scores(name, scores)
    return scores


def _together(
    model: HookedModel,
    asked: Asked,
    plan: Plan,
    maps: dict[str, HeadScores],
    top: int,
    draws: int,
    batch_tokens: int,
    *,
    progress: bool,
) -> dict[str, Comparison]:
    """The best heads of each map at once, beside random ones; none for paths, nor where no counterparts are left."""
    found = {}
    for name, scores in maps.items():
        best = with_counterparts(model, scores.top(min(top, len(scores.heads))), top)
        if plan.through or not best:
            continue
        found[name] = patched_beside_random(
            model,
            *asked.pairs,
            best,
            draws=draws,
            metric=plan.metric,
            site=plan.site(name),
            direction=plan.direction,
            positions=plan.positions,
            batch_tokens=batch_tokens,
            progress=progress,
        )
    return found


def _keep(run: Run, **tables: pd.DataFrame) -> None:
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)
