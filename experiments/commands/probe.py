"""`headscope probe`: what can be read from a model's layers or heads, beside controls."""

from collections.abc import Mapping, Sequence
from typing import Annotated, get_args

import pandas as pd
import typer

from experiments.console import print_json, print_table, say
from experiments.filtering.choosing import choice_scores
from experiments.option_shares import option_shares
from experiments.options import BatchTokens, Device, Dtype, Json, Limit, Model, Out, Resume, Seed, load_model
from experiments.probing.enough_draws import draws_note, note_on
from experiments.probing.places import By, Kind, Plan, all_rows, best_of, parse_position, probe_sets
from experiments.probing.report import probe_sections
from experiments.probing.sets import SETS, named_sets
from experiments.proof import prove
from experiments.reporting import write_report
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Sample
from probes.controls import Control
from probes.features import FeatureSite
from probes.layers import Baseline
from tasks.choices import ChoiceTask
from tasks.haystack import refuse_unknown
from tasks.labelled import Labelled, ProbingSet


def probe(
    out: Out,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            help=f"What to probe: {', '.join(SETS)}, or a .jsonl file with prompt, label and perhaps group and image on "
            "each line; give it again for more.",
        ),
    ],
    model: Model = "zoo:needle",
    by: Annotated[By, typer.Option(help="A probe for each layer, or for each head (at z).")] = "layer",
    sites: Annotated[
        str, typer.Option("--site", help=f"Where activations are read: {', '.join(get_args(FeatureSite))}, or several.")
    ] = "",
    position: Annotated[
        str, typer.Option(help="Token read: last, mean, all, or a number; within --mark if that is given.")
    ] = "",
    mark: Annotated[str | None, typer.Option(help="Read within a mark of the prompts, such as needle.")] = None,
    layers: Annotated[str, typer.Option(help="Probe these layers only, such as 0,2,3.")] = "",
    stack: Annotated[str | None, typer.Option(help="Another stack of layers than that of the text.")] = None,
    kind: Annotated[
        Kind, typer.Option("--probe", help="Probe; auto is linear for classes, ridge for numbers.")
    ] = "auto",
    control: Annotated[
        Control, typer.Option(help="Labels that mean nothing: shuffled, or one for each token read (types).")
    ] = "shuffled",
    baselines: Annotated[str, typer.Option(help="random, untrained, both with a comma, or none.")] = "random,untrained",
    folds: Annotated[int, typer.Option(help="Parts that samples are split into.", min=2)] = 5,
    draws: Annotated[int, typer.Option(help="Draws of the control.", min=1)] = 20,
    bits: Annotated[
        bool, typer.Option("--bits", help="Work out the description length of the labels as well.")
    ] = False,
    chat: Annotated[bool, typer.Option(help="Put prompts of files into the model's chat template.")] = False,
    images_anywhere: Annotated[
        bool, typer.Option("--images-anywhere", help="Let images of files lie outside of the file's folder.")
    ] = False,
    splits: Annotated[int, typer.Option(help="So many seeds in a row for folds, controls and baselines.", min=1)] = 1,
    jobs: Annotated[int, typer.Option(help="Processes that fit probes.", min=1)] = 1,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Probe layers or heads on built-in sets and on files of your own, with controls by default."""
    chosen = named_sets(sets, limit=limit, seed=seed, chat=chat, anywhere=images_anywhere)
    plan = Plan(
        by=by,
        sites=_among("--site", sites or ("z" if by == "head" else "resid_post"), get_args(FeatureSite)),
        position=parse_position(position or ("all" if kind == "attentive" else "last")),
        mark=mark,
        layers=_numbers(layers) if layers else None,
        stack=stack,
        kind=kind,
        control=control,
        baselines=() if baselines == "none" else _among("--baselines", baselines, get_args(Baseline)),
        folds=folds,
        draws=draws,
        bits=bits,
        seeds=tuple(range(seed, seed + splits)),
    )
    hooked = load_model(model, device=device, dtype=dtype)
    labelled = {name: _labelled(hooked, one) for name, one in chosen.items()}
    config = {
        "model": model,
        "sets": {name: repr(one) for name, one in chosen.items()},
        "asked": list(sets),
        "limit": limit,
        "chat": chat,
        "images_anywhere": images_anywhere,
        "plan": repr(plan),
        "dtype": dtype,
    }
    with Run.create(out, command="probe", config=config, seeds=plan.seeds, resume=resume) as run:
        if not json:
            places = _places(hooked, plan)
            say(_cost(labelled, plan, places))
            if note := draws_note(places, plan.draws, by):
                say(f"note: {note}")
        prove(run, hooked, quiet=json)
        found = probe_sets(hooked, labelled, plan, run=run, batch_tokens=batch_tokens, jobs=jobs, progress=not json)
        shares = _shares(run, hooked, chosen, batch_tokens, quiet=json)
        if "probes" not in run.table_names():
            run.save_table("probes", all_rows(found))
        for key, one in found.items() if by == "head" else ():
            if key not in run.score_names():
                run.save_scores(key, one.scores())
        write_report(run, f"Probes of {hooked.name}", probe_sections(found, shares))
    if json:
        tables = {key: one.table.to_dict("records") for key, one in found.items()}
        chosen_shares = {name: table.to_dict("records") for name, table in shares.items()}
        notes = {key: note for key, one in found.items() if (note := note_on(one))}
        return print_json({"probes": tables, "shares": chosen_shares, "notes": notes, "out": str(out)})
    print_table(best_of(found), title="best of every probe, beside its control")
    for name, table in shares.items():
        rows = table.round(3).to_dict("records")
        print_table(rows, title=f"{name}: what the model itself chooses, by likelihood")
    return say(f"results and report in {out}")


def _labelled(model: HookedModel, one: ProbingSet) -> Labelled:
    if model.tokenizer is None:
        raise UsageError(f"{model.name} came without a tokenizer, so it cannot be asked in words; save one beside it")
    if one.sees_images:
        model.require_images(repr(one))
    return one.labelled(model.processor if one.sees_images else model.tokenizer)


def _shares(
    run: Run, model: HookedModel, sets: Mapping[str, ProbingSet], batch_tokens: int, *, quiet: bool
) -> dict[str, pd.DataFrame]:
    """What the model chooses of the options of those sets that have some, kept in the run."""
    found = {}
    for name, task in sets.items():
        if not isinstance(task, ChoiceTask):
            continue
        samples = list(task.samples(model.processor if task.sees_images else model.tokenizer))
        if unknown := _unknown_option(samples, model):
            if not quiet:
                say(f"{name}: options are not scored ({unknown})")
            continue
        key = f"{name} options"
        table = run.finished_cell(key)
        if table is None:
            table = choice_scores(model, task, batch_tokens=batch_tokens)
            run.save_cell(key, table)
        found[name] = option_shares(samples, list(table["answer"]))
        if f"{name} shares" not in run.table_names():
            run.save_table(f"{name} shares", found[name])
    return found


def _unknown_option(samples: Sequence[Sample], model: HookedModel) -> str:
    try:
        for option in samples[0].meta["options"]:
            refuse_unknown(option, model.tokenizer)
    except UsageError as error:
        return str(error).split(",")[0]
    return ""


def _places(model: HookedModel, plan: Plan) -> int:
    layers = model.layers(plan.stack) if plan.layers is None else plan.layers
    return sum(head.layer in layers for head in model.heads(plan.stack)) if plan.by == "head" else len(layers)


def _cost(labelled: Mapping[str, Labelled], plan: Plan, places: int) -> str:
    passes = 1 + ("untrained" in plan.baselines) + plan.bits
    cells = len(plan.keys(tuple(labelled)))
    counts = " + ".join(str(len(one.samples)) for one in labelled.values())
    return (
        f"{counts} samples, {passes} passes of each for every site and seed; {cells} x about {plan.fits(places)} fits of "
        f"a probe ({places} {plan.by}s, {plan.folds} folds, {plan.draws} draws of the control)"
    )


def _among(option: str, text: str, known: Sequence[str]) -> tuple:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise UsageError(f"{option} {text!r} is not known; use one of {', '.join(known)}, or several with commas")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--layers {text!r} is not a list of layers counted from 0; write for example 0,2,3")
    return tuple(map(int, parts))
