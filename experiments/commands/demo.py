"""`headscope demo`: the main job from start to end on a model that ships with headscope."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from experiments.commands import demo_vision
from experiments.commands.ablate import describe
from experiments.commands.heads import keep_results
from experiments.compare import Comparison, Condition, against_random, compare, language_loss
from experiments.console import print_check, print_comparison, print_heads, print_json, say
from experiments.options import Device, Json, Resume, Seed
from experiments.proof import prove
from experiments.reporting import causal_sections, check_section, retrieval_sections, write_report
from head_analysis import measure_retrieval
from headscope.errors import HeadscopeError
from headscope.heads import Head
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.scores import HeadScores
from tasks import Needle
from tasks.prose import passages

MODEL = "zoo:needle"
THRESHOLD = 0.1


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; it must not exist yet.")] = Path(
        "runs/demo"
    ),
    vision: Annotated[bool, typer.Option("--vision", help="Show heads that see an image, on zoo:scenes.")] = False,
    images: Annotated[int, typer.Option(help="With --vision: images to judge each condition on.", min=2)] = 150,
    draws: Annotated[int, typer.Option(help="Random controls of each kind.", min=1)] = 5,
    seed: Seed = 0,
    device: Device = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Find the retrieval heads of a small trained model, then show that it needs them and not others."""
    if vision:
        return _vision(out, images, draws, seed, device, resume=resume, json=json)
    scoring = Needle(lengths=(128, 256, 512), depths=5, repeats=4, seed=seed)
    testing = Needle(lengths=(256,), depths=5, repeats=8, seed=seed + 1)
    config = {"model": MODEL, "scoring": repr(scoring), "testing": repr(testing), "draws": draws, "device": device}
    model = HookedModel.load(MODEL, device=device)
    with Run.create(out, command="demo", config=config, seeds=[seed, seed + 1], resume=resume) as run:
        say_unless(
            json, f"{model!r}\n60 prompts to score all heads, then {2 + 2 * draws} conditions x 40 new prompts\n"
        )
        check = prove(run, model, quiet=json)
        if not json:
            print_check(check)

        found = measure_retrieval(model, scoring, run=run, progress=not json)
        scores = found.scores
        keep_results(run, scores, retrieval_answers=found.answers)
        if not json:
            print_heads(scores, threshold=THRESHOLD)

        heads = removable(scores, THRESHOLD)
        if not heads:
            raise HeadscopeError(
                f"no head of {MODEL} scores {THRESHOLD}; the installed model is not the one it should be"
            )
        conditions = [Condition("none"), *against_random(model, heads, draws=draws)]
        compared = compare(model, testing, conditions, run=run, progress=not json)
        families = compared.families().merge(_losses(model, conditions), on="condition", how="left")
        keep_results(run, scores, answers=compared.table, conditions=compared.summary(), families=families)
        text = describe(heads, "zero", None, len(conditions), int(families["n"].iloc[0])) + (
            " The column “loss” is the mean next-token loss (nats) on filler text without facts or questions: it tells "
            "whether the model is broken as a whole, or has only lost the ability to look things up."
        )
        sections = [
            *retrieval_sections(found, THRESHOLD),
            *causal_sections(families, text),
            check_section(check),
        ]
        write_report(run, f"Retrieval heads of {MODEL}", sections)
        run.update(findings=findings(scores, heads, compared))
    if json:
        return print_json(findings(scores, heads, compared) | {"out": str(out)})
    print_comparison(families, title=f"answers right at 256 tokens, zero ablation of {', '.join(map(str, heads))}")
    say("loss: mean next-token loss on text without facts or questions, in nats")
    say(f"report: {out / 'report.html'}")
    return None


def _vision(out: Path, images: int, draws: int, seed: int, device: str | None, *, resume: bool, json: bool) -> None:
    model = HookedModel.load(demo_vision.MODEL, device=device)
    config = {"model": demo_vision.MODEL, "images": images, "draws": draws, "seed": seed, "device": device}
    with Run.create(out, command="demo --vision", config=config, seeds=[seed, seed + 1], resume=resume) as run:
        demo_vision.demo_vision(run, model, images=images, looked_at=60, draws=draws, seed=seed, json=json)


def removable(scores: HeadScores, threshold: float) -> tuple[Head, ...]:
    """The best heads at or above a threshold, at most half of any layer, so that as many others are left to draw."""
    taken: list[Head] = []
    for head in scores.above(threshold):
        in_layer = Counter(other.layer for other in taken)[head.layer] + 1
        if 2 * in_layer > sum(other.layer == head.layer for other in scores.heads):
            break
        taken.append(head)
    return tuple(taken)


def findings(scores: HeadScores, removed: tuple[Head, ...], compared: Comparison) -> dict[str, object]:
    """The numbers of the demo in short: scores with intervals, and each condition's accuracy with its interval."""
    low, high = scores.interval()
    heads = {
        str(h): [round(float(part[h.layer, h.head]), 3) for part in (scores.values, low, high)]
        for h in scores.above(THRESHOLD)
    }
    columns = ["condition", "mean", "low", "high", "n", "difference", "p"]
    families = compared.families()[columns].astype(object)
    conditions = families.where(families.notna(), None).to_dict("records")
    return {"heads": heads, "removed": [str(head) for head in removed], "conditions": conditions}


def say_unless(quiet: bool, text: str) -> None:
    """A line for the reader, unless only JSON is wanted."""
    if not quiet:
        say(text)


def _losses(model: HookedModel, conditions: list[Condition]) -> pd.DataFrame:
    """Mean loss on filler by condition, the draws of a family together under the family's row name."""
    losses = language_loss(model, passages(20, seed="loss"), conditions)
    by_draw = losses.groupby(["condition", "family"], sort=False)["loss"].mean().reset_index()
    alone = by_draw[by_draw["family"] == ""][["condition", "loss"]]
    families = by_draw[by_draw["family"] != ""].groupby("family")["loss"].agg(["mean", "count"]).reset_index()
    families["condition"] = families["family"] + " (" + families["count"].astype(str) + " draws)"
    return pd.concat([alone, families.rename(columns={"mean": "loss"})[["condition", "loss"]]], ignore_index=True)
