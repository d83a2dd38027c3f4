"""`headscope heads classes`: what kind of head a head is by where it looks, and whether it copies what it sees."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import pandas as pd
import torch
import typer

from experiments.commands.asking import (
    Asked,
    Asking,
    Corrupted,
    Depths,
    Haystack,
    Lengths,
    Needles,
    Prompts,
    Repeats,
    TaskName,
    ask,
)
from experiments.console import print_json, print_table, say
from experiments.options import Device, Dtype, Json, Limit, Model, Out, Resume, Seed, load_model
from experiments.proof import prove
from experiments.reporting import Section, write_report
from experiments.rounding import rounded
from experiments.timing import duration, seconds_a_pass
from head_analysis.classes import (
    duplicate_token_scores,
    induction_scores,
    name_mover_scores,
    previous_token_scores,
    s_inhibition_scores,
)
from head_analysis.copying import copying_scores
from headscope.errors import UsageError
from headscope.figures import head_map
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.scores import HeadScores
from headscope.stability import significant_heads

_LOOKS = {
    "previous token": previous_token_scores,
    "duplicate token": duplicate_token_scores,
    "induction": induction_scores,
    "S-inhibition": s_inhibition_scores,
    "name mover": name_mover_scores,
}
_PLACES = {
    "duplicate token": ("S2", "S1"),
    "induction": ("S2", "S1+1"),
    "S-inhibition": ("END", "S2"),
    "name mover": ("END", "IO"),
}
_COPY: Mapping[str, Literal[1, -1]] = {"copy score": 1, "negative copy score": -1}
_PASSES = 14  # six that read attention or states, and what copying costs beside them
_TEXT = (
    "Where heads look on {n} prompts of task {task}: previous token a[i, i-1], duplicate token a[S2, S1], induction "
    "a[S2, S1+1], S-inhibition a[END, S2], name mover a[END, IO] (Wang et al. 2022, arXiv 2211.00593). A head is put in "
    "a class at attention {attention} or more; a name mover must also copy what it sees (share of {copied} that its "
    "output ranks among the five largest logits, {copying} or more). The cut-offs are conventions. “even” is what "
    "attention spread evenly would give, and q the false-discovery rate over all heads for more than that. Where a head "
    "looks is no proof of what it does: see path patching."
)
_NEEDLES = (
    " In texts with needles, S1 and S2 are the name that is asked about, where it is told and where it is asked, and IO "
    "is the first word of the answer. A tokenizer without colons makes S1+1 the same token as IO, and END that of S2."
)


def classes(
    out: Out,
    model: Model = "zoo:needle",
    task: TaskName = "needle",
    attention: Annotated[float, typer.Option(help="Attention from which on a head is of a class.")] = 0.3,
    copying: Annotated[float, typer.Option(help="Copy score from which on a head moves names.")] = 0.9,
    lengths: Lengths = "128",
    depths: Depths = 5,
    repeats: Repeats = 4,
    needles: Needles = 2,
    haystack: Haystack = None,
    prompts: Prompts = 30,
    counterfactual: Corrupted = None,
    seed: Seed = 1,
    limit: Limit = None,
    device: Device = None,
    dtype: Dtype = "auto",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Previous-token, duplicate-token, induction, S-inhibition and name-mover heads, by where they look."""
    asking = Asking(
        task, lengths, depths, repeats, needles, haystack, prompts, 2, counterfactual, seed=seed, limit=limit
    )
    hooked = load_model(model, device=device, dtype=dtype)
    asked = ask(hooked, asking)
    _check_marks(asked)
    config = {"model": model, "task": asking.facts(), "dtype": dtype}
    with Run.create(out, command="heads classes", config=config, seeds=[seed], resume=resume) as run:
        prove(run, hooked, quiet=json)
        if not json:
            each = seconds_a_pass(hooked, asked.samples, 8192)
            say(f"{len(asked.samples)} prompts: about {_PASSES} passes of all, {duration(_PASSES * each)}")
        scores = {name: _kept(run, hooked, asked, name) for name in (*_LOOKS, *_COPY)}
        table = _table(hooked, asked, scores)
        found = chosen(scores, attention, copying)
        members = pd.DataFrame(
            [{"class": name, "heads": ", ".join(map(str, heads)) or "none"} for name, heads in found.items()]
        )
        for name, one in {"classes": members, "class_scores": table}.items():
            if name not in run.table_names():
                run.save_table(name, one)
        copied = "first words of answers" if task == "needle" else "names"
        text = _TEXT.format(n=len(asked.samples), task=task, attention=attention, copying=copying, copied=copied)
        text += _NEEDLES if task == "needle" else ""
        write_report(run, f"Kinds of heads in {hooked.name}", _sections(scores, table, members, text))
    if json:
        named = {name: [str(head) for head in heads] for name, heads in found.items()}
        return print_json(
            {"n": len(asked.samples), "classes": named, "heads": table.to_dict("records"), "out": str(out)}
        )
    print_table(members.to_dict("records"), title=f"heads by class (attention >= {attention}, copying >= {copying})")
    best = pd.concat([part.nlargest(2, "value") for _, part in table.groupby("class", sort=False)])
    print_table(rounded(best.drop(columns=["layer", "head"])), title="the two strongest of each")
    return say(f"results and report in {out}")


def chosen(scores: Mapping[str, HeadScores], attention: float, copying: float) -> dict[str, tuple[Head, ...]]:
    """The heads of each class, as `head_analysis.classes.head_classes` chooses them."""
    found = {name: scores[name].above(attention) for name in _LOOKS}
    sees = found.pop("name mover")
    copies, removes = (scores[name].above(copying) for name in _COPY)
    return {
        **found,
        "name mover": tuple(head for head in sees if head in copies),
        "negative name mover": tuple(head for head in sees if head in removes),
    }


def _check_marks(asked: Asked) -> None:
    needed = {mark for places in _PLACES.values() for mark in places}
    if missing := sorted(needed - set(asked.samples[0].marks)):
        raise UsageError(
            f"--task {asked.name} does not mark {', '.join(missing)}, by which classes are told; use needle (--needles "
            "2 or more) or ioi"
        )


def _kept(run: Run, model: HookedModel, asked: Asked, name: str) -> HeadScores:
    if name in run.score_names():
        return run.scores(name)
    sign = _COPY.get(name)
    samples = asked.samples
    marks = ("IO",) if asked.name == "needle" else ("IO", "S1")  # there, S1 is no answer to anything
    look = partial(copying_scores, marks=marks, sign=sign) if sign else _LOOKS[name]
    scores = look(model, samples)
    run.save_scores(name, scores)
    return scores


def _table(model: HookedModel, asked: Asked, scores: Mapping[str, HeadScores]) -> pd.DataFrame:
    """A row for each kind of score and head; `even` and `q` for attention only."""
    parts = []
    for name, one in scores.items():
        table = one.to_dataframe()[["name", "layer", "head", "value", "low", "high", "n"]]
        if name in _LOOKS:
            null = _even(model, asked, name, one)
            q = significant_heads(one, null=null)[["name", "fdr"]].rename(columns={"fdr": "q"})
            table = table.assign(even=null.samples[:, null.exists].mean().item()).merge(q, on="name")
        table.insert(0, "class", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _even(model: HookedModel, asked: Asked, name: str, scores: HeadScores) -> HeadScores:
    """What each sample's score would be if attention were spread evenly over what a query sees."""
    shares = []
    for sample in asked.samples:
        tokens = model.tokens(sample)
        if name == "previous token":
            shares.append(sum(1 / (i + 1) for i in range(1, len(tokens.ids))) / (len(tokens.ids) - 1))
        else:
            query, key = (tokens.marks[mark] for mark in _PLACES[name])
            shares.append((key[1] - key[0]) / query[1])
    even = torch.tensor(shares, dtype=scores.samples.dtype)[:, None, None].expand_as(scores.samples)
    return HeadScores(torch.where(scores.exists, even, torch.nan), f"even {name}", scores.meta)


def _sections(scores: Mapping[str, HeadScores], table: pd.DataFrame, members: pd.DataFrame, text: str) -> list[Section]:
    sections: list[Section] = [("Which heads are of which kind", text), ("Heads by class", members)]
    for name, one in scores.items():
        best = table[table["class"] == name].sort_values("value", ascending=False).head(8)
        shown = best.drop(columns=["class", "layer", "head"]).dropna(axis=1, how="all")
        sections += [(name.capitalize() if name[0].islower() else name, head_map(one)), (f"{name}: strongest", shown)]
    return sections
