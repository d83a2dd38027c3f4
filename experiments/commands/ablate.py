"""`headscope ablate`: what a model can still do without some of its heads, beside random controls."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.compare import Comparison, Condition, against_random, compare
from experiments.console import print_comparison, print_json, say
from experiments.options import (
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    Seed,
    load_model,
    parse_numbers,
)
from experiments.proof import prove
from experiments.reporting import causal_sections, write_report
from headscope.answers import asked_of
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Phase
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Task
from headscope.scores import HeadScores
from interventions import HeadOutputs, head_outputs
from interventions.ablate import Mode
from tasks import Needle, Subset

app = typer.Typer(
    help="Remove chosen heads beside random others (`heads`, which may be left out), or every head in turn (`sweep`).",
    no_args_is_help=True,
)


@app.command("heads")
def ablate(
    out: Out,
    model: Model = "zoo:needle",
    heads: Annotated[str, typer.Option(help="Heads to remove, such as L2H5,L3H0.")] = "",
    top: Annotated[int | None, typer.Option(help="Remove the k best heads of a run (--from).", min=1)] = None,
    from_run: Annotated[Path | None, typer.Option("--from", help="Folder of a run that holds head scores.")] = None,
    mode: Annotated[Mode, typer.Option(help="What removed means.")] = "zero",
    phase: Annotated[Phase | None, typer.Option(help="prefill or decode; both if not given.")] = None,
    draws: Annotated[int, typer.Option(help="Random controls of each kind.", min=1)] = 5,
    lengths: Annotated[str, typer.Option(help="Tokens of the prompts.")] = "256",
    depths: Annotated[int, typer.Option(min=1)] = 10,
    repeats: Annotated[int, typer.Option(min=1)] = 4,
    needles: Annotated[int, typer.Option(min=1)] = 1,
    haystack: Annotated[Path | None, typer.Option(help="Text file, or folder of .txt files.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Prompt tokens in a batch.", min=1)] = 8192,
    seed: Seed = 1,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Remove heads and random others in turn, and compare the answers on the same prompts."""
    if bool(heads) == (top is not None) or (top is not None and from_run is None):
        raise UsageError("say which heads to remove: either --heads L2H5,L3H0, or --top k with --from RUN")
    hooked = load_model(model, device=device, dtype=dtype)
    asked = Needle(parse_numbers(lengths, "lengths"), depths, repeats, needles, haystack=haystack, seed=seed)
    task = Subset(asked, limit=limit)
    count = len(asked_of(hooked, task)[0])
    chosen = parse_heads(heads) if heads else _scores(from_run).top(top or 1)
    if not chosen:
        raise UsageError(f"--heads {heads!r} names no head; write for example L2H5,L3H0")
    reference = _reference(hooked, mode, seed)
    conditions = [
        Condition("none"),
        *against_random(
            hooked,
            chosen,
            draws=draws,
            mode=mode,
            phase=phase,
            reference=reference,
        ),
    ]
    config = {
        "model": model,
        "task": repr(task),
        "heads": [str(head) for head in chosen],
        "mode": mode,
        "phase": phase,
        "draws": draws,
        "dtype": dtype,
    }
    with Run.create(out, command="ablate", config=config, seeds=[seed], resume=resume) as run:
        if not json:
            say(f"{len(conditions)} conditions x {count} prompts of up to {asked.longest} tokens")
        prove(run, hooked, quiet=json)
        found = compare(hooked, task, conditions, batch_tokens=batch_tokens, run=run, progress=not json)
        _keep(run, found)
        text = describe(chosen, mode, phase, len(conditions), count)
        write_report(run, f"{hooked.name} without {_named(chosen)}", causal_sections(found.families(), text))
    if json:
        return print_json({"conditions": found.families().to_dict("records")})
    print_comparison(found.families(), title=f"answers right, {mode} ablation of {_named(chosen)}")
    return say(f"results and report in {out}")


def describe(heads: tuple[Head, ...], mode: str, phase: str | None, conditions: int, samples: int) -> str:
    """What was removed, how, in which phase, and what stands beside it."""
    return (
        f"Removed: {_named(heads)} ({mode} ablation, {phase or 'prefill and decode'}, every query). Beside it stand as "
        "many random other heads, drawn from the same layers and from the whole model, fixed seeds. Every condition "
        f"answers the same {samples} prompts; whiskers are 95 % intervals over prompts, for random heads over draws and "
        f"prompts; p values come from sign flips of the paired differences. {conditions} conditions were run."
    )


def _keep(run: Run, found: Comparison) -> None:
    for name, table in {"answers": found.table, "conditions": found.summary(), "families": found.families()}.items():
        if name not in run.table_names():
            run.save_table(name, table)


def _scores(path: Path | None) -> HeadScores:
    run = Run.open(path or Path())
    names = run.score_names()
    if not names:
        raise UsageError(f"{path} holds no head scores; give the folder of a `headscope heads` run")
    return run.scores(names[0])


def _reference(model: HookedModel, mode: str, seed: int) -> HeadOutputs | None:
    """Outputs on needle prompts of another seed, where the mode replaces z by such outputs."""
    if mode not in ("mean", "resample"):
        return None
    other: Task = Needle((256,), 8, seed=seed + 1_000)
    return head_outputs(model, other.samples(model.tokenizer), seed=seed)


def _named(heads: tuple[Head, ...]) -> str:
    return ", ".join(map(str, heads))
