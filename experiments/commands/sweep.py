"""`headscope ablate sweep`: every head taken out in turn, exactly, and what that does to the answers."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from experiments.commands.asking import (
    Asked,
    Asking,
    Choose,
    Depths,
    Haystack,
    Lengths,
    Needles,
    Prompts,
    Repeats,
    TaskName,
    answer_room,
    ask,
    check_answers,
    check_several,
)
from experiments.commands.screening import check_screen, screened
from experiments.commands.sweep_order import SweepSettings
from experiments.commands.sweep_output import Of, result, show
from experiments.compare import Comparison
from experiments.console import print_json, say
from experiments.executors.labour import Labour
from experiments.executors.order import Order, model_order
from experiments.options import (
    BatchTokens,
    Device,
    Dtype,
    ExecutorName,
    Json,
    Limit,
    Model,
    NumGpus,
    Out,
    RayAddress,
    Resume,
    Seed,
    Shard,
    Workers,
    load_model,
    parse_shard,
)
from experiments.proof import prove
from experiments.reporting import write_report
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.removed_together import beside_random, costliest
from experiments.sweeps.report import sweep_sections
from experiments.sweeps.screening import Screening
from experiments.sweeps.sweep import Metric, Sweep, run_sweep
from experiments.sweeps.units import Unit, groups, units
from experiments.timing import duration, seconds_a_pass
from headscope.errors import UsageError
from headscope.heads import parse_heads
from headscope.model import HookedModel
from headscope.runs import Run
from interventions.ablate import Mode


def sweep(
    out: Out,
    model: Model = "zoo:needle",
    task: TaskName = "needle",
    of: Annotated[Of, typer.Option(help="What is taken out at once.")] = "heads",
    heads: Annotated[str, typer.Option(help="Only these heads, such as L2H5,L3H0; all if not given.")] = "",
    group: Annotated[
        list[str] | None, typer.Option(help="A group by name, such as movers=L1H2,L1H3; again for more (--of groups).")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="What removed means.")] = "zero",
    metric: Annotated[Metric, typer.Option(help="What is measured of the answer.")] = "loss",
    screen: Annotated[
        int | None, typer.Option(help="Estimate all heads, and sweep so many by estimate and as many at random.", min=3)
    ] = None,
    top: Annotated[int, typer.Option(help="Remove so many of the costliest at once, beside random ones.", min=1)] = 3,
    draws: Annotated[int, typer.Option(help="Random controls.", min=1)] = 5,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer (metric score).", min=1)] = None,
    lengths: Lengths = "128",
    depths: Depths = 5,
    repeats: Repeats = 4,
    needles: Needles = 2,
    haystack: Haystack = None,
    prompts: Prompts = 32,
    options: Choose = 2,
    batch_tokens: BatchTokens = 2048,
    seed: Seed = 1,
    limit: Limit = None,
    shard: Shard = "1/1",
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    executor: ExecutorName = "local",
    workers: Workers = None,
    num_gpus: NumGpus = None,
    ray_address: RayAddress = None,
    json: Json = False,
) -> None:
    """Take out every head in turn (or pairs, layers, groups) and measure the answer; exact, with what is shared run once.

    Parts of --shard may share one --out (with --resume); whoever finds all parts done sums them up. --executor does the
    cells in several processes, or on a Ray cluster.
    """
    labour = Labour(executor, workers, num_gpus, ray_address)
    asking = Asking(task, lengths, depths, repeats, needles, haystack, prompts, options, seed=seed, limit=limit)
    share = parse_shard(shard)
    hooked = load_model(model, device=device, dtype=dtype)
    asked = ask(hooked, asking)
    check_several(asked)
    check_answers(hooked, asked, metric)
    room = answer_room(hooked, asked, metric, max_new_tokens)
    every = _units(hooked, of, heads, group or ())
    if screen is not None:
        check_screen(hooked, screen, of, heads, metric)
    settings = SweepSettings(asking, mode, metric, batch_tokens, max_new_tokens)
    ablation = settings.ablation(hooked, asked)
    order = Order("sweep", model_order(model, device=device, dtype=dtype), settings.facts())
    config = {
        "model": model,
        "task": asking.facts(),
        "of": of,
        "heads": heads,
        "groups": list(group or ()),
        "mode": mode,
        "metric": metric,
        "screen": screen,
        "top": top,
        "draws": draws,
        "max_new_tokens": max_new_tokens,
        "batch_tokens": batch_tokens,
        "shard": shard,
        "dtype": dtype,
    }
    shared: dict[str, Any] = {"metric": metric, "ablation": ablation, "batch_tokens": batch_tokens, "task": asked.task}
    with (
        labour.executor(order) as done_by,
        Run.create(out, command="ablate sweep", config=config, seeds=[seed], resume=resume) as run,
    ):
        prove(run, hooked, quiet=json)
        screening = None
        if screen is not None:
            screening = screened(run, hooked, asked.samples, screen, metric, ablation, batch_tokens, seed, quiet=json)
            every = units(screening.heads)
        if not json:
            say(_cost(hooked, asked, every, of, share, batch_tokens, room if metric == "score" else 0))
        shared |= {"run": run, "max_new_tokens": max_new_tokens, "executor": done_by, "progress": not json}
        found = run_sweep(hooked, asked.samples, every, shard=share, **shared)
        together = None
        if not found.missing:
            if treatments := costliest(found, hooked, top):
                together = beside_random(hooked, asked.samples, treatments, draws=draws, **shared)
            _keep(run, found, together, screening)
            title = f"{hooked.name}: {of} taken out in turn ({mode})"
            write_report(run, title, sweep_sections(found, together, screening, of=of, mode=mode, task=asked.name))
    if json:
        return print_json(result(found, together, screening, of=of, task=asked.name) | {"out": str(out)})
    return show(found, together, screening, out=str(out))


def _units(model: HookedModel, of: Of, heads: str, named: Sequence[str]) -> tuple[Unit, ...]:
    if (of == "groups") != bool(named) or (named and heads):
        raise UsageError("groups are given by name: --of groups --group movers=L1H2,L1H3, without --heads")
    if of != "groups":
        chosen = units(parse_heads(heads) if heads else model.heads(), of)
    else:
        parts = [text.partition("=") for text in named]
        if wrong := [text for text, (name, equals, _) in zip(named, parts, strict=True) if not (name and equals)]:
            raise UsageError(f"--group {wrong[0]!r} is not of the form name=heads; write for example movers=L1H2,L1H3")
        if len({name for name, _, _ in parts}) < len(parts):
            raise UsageError("two groups have the same name; give each its own")
        chosen = groups({name: text for name, _, text in parts})
    with model.hooks(*(Ablation().of(unit.heads) for unit in chosen)):
        return chosen  # once the model is known to have these heads


def _cost(
    model: HookedModel,
    asked: Asked,
    every: Sequence[Unit],
    of: Of,
    share: tuple[int, int],
    batch_tokens: int,
    new_tokens: int,
) -> str:
    """What the sweep will run, at most, and about how long that takes."""
    tokens = sum(len(model.tokens(sample).ids) for sample in asked.samples)
    each = seconds_a_pass(model, asked.samples, batch_tokens, new_tokens=new_tokens)
    depth = model.n_layers
    passes = sum(1.0 if new_tokens else (depth - unit.first) / depth for unit in every) / share[1]
    part = f", part {share[0] + 1} of {share[1]}" if share[1] > 1 else ""
    what = f"generations of up to {new_tokens} tokens" if new_tokens else "whole passes"
    return (
        f"{len(every)} {of} x {len(asked.samples)} prompts ({tokens} tokens){part}: the work of {passes:.0f} {what} of "
        f"all prompts, about {duration(passes * each)}"
    )


def _keep(run: Run, found: Sweep, together: Comparison | None, screening: Screening | None) -> None:
    tables = {"effects": found.table, "units": found.summary()}
    if together is not None:
        tables["together"] = together.table
    scores = {"effect": found.scores()} if any(len(unit.heads) == 1 for unit in found.units) else {}
    if screening is not None:
        tables["screened"] = screening.table(found)
    with run.assembling():
        for name, table in tables.items():
            if name not in run.table_names():
                run.save_table(name, table)
        for name, values in scores.items():
            if name not in run.score_names():
                run.save_scores(name, values)
