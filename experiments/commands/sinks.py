"""`headscope heads sinks`: which tokens of a text are attention sinks, in which heads, and what they are worth."""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from experiments.console import print_comparison, print_json, print_table, say
from experiments.options import (
    AllowPickle,
    BatchTokens,
    Device,
    Dtype,
    Json,
    Limit,
    Model,
    Out,
    Resume,
    Seed,
    TrustCode,
    load_model,
    parse_numbers,
)
from experiments.proof import prove
from experiments.reporting import write_report
from experiments.sinks.removal import How, Removal, removal_cost, sink_removal
from experiments.sinks.report import removal_sections, sink_sections
from experiments.sinks.texts import text_samples
from head_analysis import SinkRule, TextSinks, text_sinks
from head_analysis.sink_rules import Variant
from headscope.costs import require_memory
from headscope.runs import Run
from headscope.score_table import save_head_table

_LISTED = 8


def sinks(
    out: Out,
    model: Model = "zoo:sinks",
    texts: Annotated[
        Path | None, typer.Option(help="Text file, or folder of .txt files; else built-in filler.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Tokens of the texts, such as 512,4096.")] = "256",
    n: Annotated[int, typer.Option("--n", help="Texts of each length.", min=1)] = 16,
    variant: Annotated[
        Variant, typer.Option(help="When a token is a sink; see head_analysis.sink_rules.")
    ] = "above_even",
    alpha: Annotated[float, typer.Option(help="How many times the even share a sink gets.")] = 5.0,
    threshold: Annotated[float, typer.Option(help="Mean attention of a sink, for --variant released.")] = 0.1,
    min_queries: Annotated[int, typer.Option(help="Queries that must see a token before it can be a sink.", min=1)] = 8,
    removal: Annotated[int, typer.Option(help="Cut the sinks of the first so many texts; 0 leaves it out.", min=0)] = 8,
    how: Annotated[How, typer.Option(help="masked: others get its share; zeroed: nobody does.")] = "masked",
    draws: Annotated[int, typer.Option(help="Random controls of each kind.", min=1)] = 5,
    batch_tokens: BatchTokens = 8192,
    seed: Seed = 0,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    trust_remote_code: TrustCode = False,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Attention sinks in texts: mass on the first token and on later sinks, what they are, and loss without them."""
    rule = SinkRule(variant, alpha, threshold, min_queries)
    wanted = parse_numbers(lengths, "lengths")
    hooked = load_model(
        model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
    )
    samples = text_samples(hooked, wanted, n, path=texts, seed=seed)[:limit]
    cost = hooked.statistics_cost(samples, batch_tokens=batch_tokens)
    cut = samples[:removal]
    config = {
        "model": model,
        "texts": texts,
        "lengths": list(wanted),
        "n": n,
        "limit": limit,
        "rule": repr(rule),
        "removal": len(cut),
        "how": how,
        "draws": draws,
        "dtype": dtype,
    }
    if not json:
        say(f"{len(samples)} texts of up to {max(wanted)} tokens, one pass: {cost}")
    require_memory(cost, hooked.device, "give shorter --lengths, or a smaller --batch-tokens")
    if cut:
        removing = removal_cost(hooked, cut, draws=draws)
        if not json:
            say(f"then {len(cut)} of them without their sinks and without others: {removing}, at most")
        require_memory(removing, hooked.device, "give shorter --lengths, or --removal 0")
    with Run.create(out, command="heads sinks", config=config, seeds=[seed], resume=resume) as run:
        prove(run, hooked, quiet=json)
        found = text_sinks(hooked, samples, rule=rule, batch_tokens=batch_tokens, progress=not json)
        keep_sinks(run, found)
        sections = sink_sections(hooked, found)
        removed = None
        if cut:
            removed = sink_removal(hooked, cut, found, how=how, draws=draws, seed=seed, run=run, progress=not json)
            _keep(run, removal=removed.table, removal_families=removed.families(), contrasts=removed.contrasts())
            sections += removal_sections(found, removed, how)
        write_report(run, f"Attention sinks of {hooked.name}", sections)
    if json:
        return print_json(_facts(found, removed) | {"out": str(out)})
    _show(found, removed)
    return say(f"results and report in {out}")


def keep_sinks(run: Run, found: TextSinks) -> None:
    """All scores and tables of the sinks, but for those that the run holds already."""
    scores = {
        "first_token": found.first,
        "later_sinks": found.later,
        "first_token_is_sink": found.first_is_sink,
        "later_sink_count": found.later_count,
    }
    for name, one in scores.items():
        if name not in run.score_names():
            run.save_scores(name, one)
    save_head_table(run, list(scores.values()))
    steady = {} if len(found.texts) < 2 else {"stability": found.stability()}
    _keep(
        run,
        sinks=found.pairs,
        heads=found.by_head(),
        layers=found.by_layer(),
        tokens=found.by_token(),
        places=found.by_place(),
        norms=found.by_norm(),
        sameness=found.sameness(),
        **steady,
    )


def _keep(run: Run, **tables: pd.DataFrame) -> None:
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)


def _facts(found: TextSinks, removed: Removal | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "n": len(found.texts),
        "rule": str(found.rule),
        "dimensions": list(found.dimensions.dims),
        "heads": found.by_head().to_dict("records"),
        "layers": found.by_layer().to_dict("records"),
        "tokens": found.by_token().head(_LISTED).to_dict("records"),
        "sameness": found.sameness().to_dict("records"),
    }
    if removed is None:
        return facts
    return facts | {
        "removal": removed.families().to_dict("records"),
        "contrasts": removed.contrasts().to_dict("records"),
    }


def _show(found: TextSinks, removed: Removal | None) -> None:
    title = f"heads with the most attention on sinks ({len(found.texts)} texts; a sink gets {found.rule})"
    print_table(found.by_head().head(_LISTED).round(3).to_dict("records"), title=title)
    print_table(found.by_token().head(_LISTED).round(4).to_dict("records"), title="tokens that are sinks")
    say(f"sink dimensions: {found.dimensions}; by chance {found.dimensions.chance:.2g}")
    if removed is not None:
        rows = removed.families()
        print_comparison(rows, title="next-token loss (nats) without sinks, and without other tokens")
