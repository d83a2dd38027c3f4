"""`headscope ablate sweep`: every head taken out in turn, exactly, and what that does to the answers."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.ablated import Ablation
from experiments.console import print_json, print_table, say
from experiments.options import (
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    Seed,
    Shard,
    load_model,
    parse_numbers,
    parse_shard,
)
from experiments.proof import prove
from experiments.reporting import Section, write_report
from experiments.sweep import Metric, Sweep, run_sweep
from experiments.units import Kind, units
from headscope.answers import asked_of
from headscope.errors import UsageError
from headscope.figures import head_map
from headscope.heads import parse_heads
from headscope.runs import Run
from interventions import head_outputs
from interventions.ablate import Mode
from tasks import Needle, Subset

_LISTED = 15


def sweep(
    out: Out,
    model: Model = "zoo:needle",
    of: Annotated[Kind, typer.Option(help="What is taken out at once.")] = "heads",
    heads: Annotated[str, typer.Option(help="Only these heads, such as L2H5,L3H0; all if not given.")] = "",
    mode: Annotated[Mode, typer.Option(help="What removed means.")] = "zero",
    metric: Annotated[Metric, typer.Option(help="What is measured of the answer.")] = "loss",
    lengths: Annotated[str, typer.Option(help="Tokens of the prompts.")] = "128",
    depths: Annotated[int, typer.Option(min=1)] = 5,
    repeats: Annotated[int, typer.Option(min=1)] = 4,
    needles: Annotated[int, typer.Option(min=1)] = 1,
    haystack: Annotated[Path | None, typer.Option(help="Text file, or folder of .txt files.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Prompt tokens in a batch.", min=1)] = 2048,
    seed: Seed = 1,
    limit: Limit = None,
    shard: Shard = "1/1",
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Take out every head in turn (or pairs, or layers) and measure the answer; exact, with what is shared run once."""
    share, shares = parse_shard(shard)
    hooked = load_model(model, device=device, dtype=dtype)
    task = Subset(
        Needle(parse_numbers(lengths, "lengths"), depths, repeats, needles, haystack=haystack, seed=seed), limit
    )
    samples, _ = asked_of(hooked, task)
    every = units(parse_heads(heads) if heads else hooked.heads(), of)
    mine = every[share::shares]
    if not mine:
        raise UsageError(f"--shard {shard} of {len(every)} units is empty; ask for fewer parts")
    reference = None
    if mode in ("mean", "resample"):
        other = Needle((128,), 8, seed=seed + 1_000)
        reference = head_outputs(hooked, other.samples(hooked.tokenizer), seed=seed)
    config = {
        "model": model,
        "task": repr(task),
        "of": of,
        "heads": heads,
        "mode": mode,
        "metric": metric,
        "batch_tokens": batch_tokens,
        "shard": shard,
        "dtype": dtype,
    }
    with Run.create(out, command="ablate sweep", config=config, seeds=[seed], resume=resume) as run:
        if not json:
            say(
                f"{len(mine)} of {len(every)} {of} x {len(samples)} prompts; at most as many passes as both multiply to"
            )
        prove(run, hooked, quiet=json)
        found = run_sweep(
            hooked,
            samples,
            mine,
            metric=metric,
            ablation=Ablation(mode, reference, seed),
            batch_tokens=batch_tokens,
            run=run,
            progress=not json,
        )
        _keep(run, found)
        write_report(run, f"{hooked.name}: {of} taken out in turn ({mode})", _sections(found, of, mode))
    summary = found.summary()
    if json:
        return print_json({"metric": metric, "mode": mode, "units": summary.to_dict("records"), "out": str(out)})
    shown = summary.head(_LISTED).round(4)
    print_table(shown.to_dict("records"), title=f"largest effects on {metric} ({mode}; value without - value with)")
    return say(f"results and report in {out}")


def _keep(run: Run, found: Sweep) -> None:
    for name, table in {"effects": found.table, "units": found.summary()}.items():
        if name not in run.table_names():
            run.save_table(name, table)
    if any(len(unit.heads) == 1 for unit in found.units) and "effect" not in run.score_names():
        run.save_scores("effect", found.scores())


def _sections(found: Sweep, of: Kind, mode: Mode) -> list[Section]:
    text = (
        f"Each of {len(found.units)} {of} was removed ({mode}, every query, prefill and decode) on the same "
        f"{found.table['sample'].nunique()} prompts. The effect is the {found.metric} without it minus that of the whole "
        "model, exact; intervals are over prompts, p is that of the paired difference, q its false-discovery rate over "
        "all units. That many units are compared at once makes the largest effects look larger than they are."
    )
    sections: list[Section] = [("What each is worth", text)]
    if of == "heads":
        sections.append((f"Effect on {found.metric}", head_map(found.scores())))
    return [*sections, ("All effects", found.summary())]
