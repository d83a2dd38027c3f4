"""`headscope heads filter`: which heads to calibrate with ACT, chosen on some samples and judged on others."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from experiments.console import print_comparison, print_json, print_table, say
from experiments.filtering.filters import HeadFilter, KeepRule, filter_heads
from experiments.filtering.held_out import HeldOut, held_out_conditions, judge_held_out
from experiments.filtering.report import filter_sections
from experiments.options import (
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    Json,
    Model,
    Out,
    Resume,
    Seed,
    TrustCode,
    load_model,
)
from experiments.proof import prove
from experiments.reporting import write_report
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.runs import Run
from interventions.act import ACT, Variant
from tasks import Choices, Classification, MostNamed, Question, SecretChoices, read_choices, read_classification
from tasks.choices import ChoiceTask, Rule
from tasks.kinds import knows_kinds

_LABELS = ("lamp", "harbor", "golden", "baker")
_OTHERS = 1_000
"""Added to the seed for held-out samples of the built-in sets."""
_LISTED = 15
_WORDS = 80
"""In a text of the built-in kinds: with fewer, zoo:sinks makes hardly a mistake that could be mended."""

Tasks = dict[str, ChoiceTask]


def filter_command(
    out: Out,
    model: Model = "zoo:sinks",
    choices: Annotated[
        list[Path] | None, typer.Option(help="JSONL of prompt, options, answer; may be given several times.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="JSONL of prompt and label; needs --words.")] = None,
    words: Annotated[str, typer.Option(help="What stands for each label: 0=negative,1=positive.")] = "",
    scoring: Annotated[Rule, typer.Option(help="How the options of a question are compared.")] = "last_token",
    calibration: Annotated[int, typer.Option(help="Samples of each task to choose heads by.", min=2)] = 32,
    held_out: Annotated[int, typer.Option("--held-out", help="Other samples of each, to judge them by.", min=2)] = 64,
    length: Annotated[int, typer.Option(help="Tokens of a prompt of the built-in secret words.", min=1)] = 128,
    rule: Annotated[
        KeepRule, typer.Option(help="harmless: gain not below 0 by more than its error; helpful: above by more.")
    ] = "harmless",
    heads: Annotated[str, typer.Option(help="Candidates, such as L2H5,L3H0; else all heads of ACT's layers.")] = "",
    every_layer: Annotated[bool, typer.Option("--every-layer", help="Candidates are the heads of all layers.")] = False,
    variant: Annotated[
        Variant, typer.Option(help="ACT's limit: alpha / N, or the absolute one of its code.")
    ] = "paper",
    beta: Annotated[float, typer.Option(help="Share of its attention that a sink keeps.")] = 0.4,
    alpha: Annotated[float, typer.Option(help="How many times the uniform share a sink gets (paper).")] = 5.0,
    threshold: Annotated[float, typer.Option(help="Mean attention of a sink (released).")] = 0.1,
    draws: Annotated[int, typer.Option(help="Random sets of as many heads.", min=1)] = 5,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Calibrate each head alone, keep those it does not hurt, and judge them together on other samples."""
    act = ACT(variant=variant, beta=beta, alpha=alpha, threshold=threshold)
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    candidates = _candidates(hooked, heads, act, every_layer=every_layer)
    choosing, judging = (
        _tasks(choices or (), classes, words, scoring, calibration, held_out, seed)
        if choices or classes is not None or words
        else _built_in(hooked.tokenizer, scoring, calibration, held_out, length, seed)
    )
    counts = [sum(len(task.samples(hooked.tokenizer)) for task in part.values()) for part in (choosing, judging)]
    config: dict[str, Any] = {
        "model": model,
        "tasks": {name: repr(task) for name, task in choosing.items()},
        "held_out": {name: repr(task) for name, task in judging.items()},
        "rule": rule,
        "act": repr(act),
        "candidates": list(map(str, candidates)),
        "draws": draws,
        "dtype": dtype,
    }
    with Run.create(out, command="heads filter", config=config, seeds=[seed, seed + _OTHERS], resume=resume) as run:
        if not json:
            each = "a pass each" if scoring == "last_token" else "a pass for each option"
            say(
                f"{1 + len(candidates)} conditions x {counts[0]} samples of {len(choosing)} tasks, then up to "
                f"{3 + draws} x {counts[1]} held-out ones, {each}; calibration makes a pass two to four times as long"
            )
        prove(run, hooked, quiet=json)
        found = filter_heads(
            hooked,
            choosing,
            act=act,
            heads=candidates,
            rule=rule,
            seed=seed,
            batch_tokens=batch_tokens,
            run=run,
            progress=not json,
        )
        conditions = held_out_conditions(candidates, found.kept, act, draws=draws)
        judged = judge_held_out(hooked, judging, conditions, batch_tokens=batch_tokens, run=run, progress=not json)
        _keep(run, found, judged)
        write_report(run, f"Heads of {hooked.name} to calibrate", filter_sections(hooked, found, judged, act))
    if json:
        return print_json(_facts(found, judged) | {"out": str(out)})
    return _show(found, judged, out)


def _candidates(model: HookedModel, heads: str, act: ACT, *, every_layer: bool) -> tuple[Any, ...]:
    if heads and every_layer:
        raise UsageError("--heads and --every-layer were both given; name heads, or ask for all of them")
    chosen = ACT(heads, layers=None) if heads else act
    if every_layer:
        return model.heads()
    where = chosen.prepared(model).where
    return tuple(head for head in model.heads() if head.head in where.heads_at(head.layer, model.n_heads))


def _tasks(
    choices: Sequence[Path],
    classes: Path | None,
    words: str,
    scoring: Rule,
    calibration: int,
    held_out: int,
    seed: int,
) -> tuple[Tasks, Tasks]:
    """Tasks to choose heads by and tasks to judge them by, without a sample in common."""
    if (classes is None) != (not words):
        raise UsageError("--classes FILE and --words label=word,label=word belong together; give both or neither")
    choosing: Tasks = {}
    judging: Tasks = {}
    for path in choices:
        _refuse_twice(path, choosing)
        mine, others = _split(path, read_choices(path), calibration, held_out, seed)
        choosing[path.stem], judging[path.stem] = Choices(mine, scoring), Choices(others, scoring)
    if classes is not None:
        _refuse_twice(classes, choosing)
        mine, others = _split(classes, read_classification(classes, _verbalisers(words)), calibration, held_out, seed)
        choosing[classes.stem], judging[classes.stem] = Classification(mine, scoring), Classification(others, scoring)
    return choosing, judging


def _built_in(
    tokenizer: Any, scoring: Rule, calibration: int, held_out: int, length: int, seed: int
) -> tuple[Tasks, Tasks]:
    """The same of the built-in sets whose words the model knows: kinds named most, or secret words."""
    chosen, judged = ((calibration, seed), (held_out, seed + _OTHERS))
    if knows_kinds(tokenizer):
        return _kinds(scoring, *chosen), _kinds(scoring, *judged)
    return _secrets(scoring, length, *chosen), _secrets(scoring, length, *judged)


def _kinds(scoring: Rule, n: int, seed: int) -> Tasks:
    return {"kinds": MostNamed(n, words=_WORDS, rule=scoring, seed=seed)}


def _secrets(scoring: Rule, length: int, n: int, seed: int) -> Tasks:
    return {
        "choices": SecretChoices(n, options=3, length=length, rule=scoring, seed=seed),
        "labels": SecretChoices(n, length=length, labels=_LABELS, rule=scoring, seed=seed),
    }


def _refuse_twice(path: Path, tasks: Mapping[str, ChoiceTask]) -> None:
    if path.stem in tasks:
        raise UsageError(f"two files are called {path.stem!r}, and tasks go by that name; rename one of them")


def _split(
    path: Path, questions: Sequence[Question], calibration: int, held_out: int, seed: int
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Questions for either use, drawn from all; UsageError where too few are left to judge by."""
    if len(questions) < calibration + 2:
        raise UsageError(
            f"{path} holds {len(questions)} questions, of which --calibration takes {calibration}; at least 2 must "
            "be left to judge the heads by: give more questions, or a smaller --calibration"
        )
    drawn = random.Random(f"split/{seed}/{path.stem}").sample(list(questions), len(questions))
    return tuple(drawn[:calibration]), tuple(drawn[calibration : calibration + held_out])


def _verbalisers(words: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in words.split(",")]
    if any(not (label.strip() and equals and word.strip()) for label, equals, word in pairs):
        raise UsageError(f"--words {words!r} is not a list of label=word; write for example 0=negative,1=positive")
    return {label.strip(): word.strip() for label, _, word in pairs}


def _keep(run: Run, found: HeadFilter, judged: HeldOut) -> None:
    tables = {
        "heads": found.table,
        "stability": pd.DataFrame([found.stability()._asdict()]),
        "held_out": judged.table,
        "held_out_families": judged.families(),
    }
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)
    run.update(kept=list(map(str, found.kept)))


def _facts(found: HeadFilter, judged: HeldOut) -> dict[str, Any]:
    return {
        "kept": list(map(str, found.kept)),
        "heads": found.table.to_dict("records"),
        "stability": found.stability()._asdict(),
        "held_out": judged.families().to_dict("records"),
    }


def _show(found: HeadFilter, judged: HeldOut, out: Path) -> None:
    listed = found.table.sort_values("gain", ascending=False, kind="stable").head(_LISTED).round(4)
    print_table(
        listed.drop(columns=["layer", "head"]).to_dict("records"),
        title=f"gain in accuracy of calibrating each head alone: {len(found.kept)} of {len(found.heads)} kept",
    )
    steady = found.stability()
    say(
        f"kept heads that another set of samples would keep too (Jaccard): {steady.resamples:.2f} of resamples, "
        f"{steady.halves:.2f} of halves, {steady.chance:.2f} by chance"
    )
    for name, part in judged.families().groupby("task", sort=False):
        print_comparison(part, title=f"{name}: accuracy on held-out samples")
    say(f"results and report in {out}")
