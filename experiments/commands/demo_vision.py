"""`headscope demo --vision`: which heads see the image, and what reinforcing them does, on a model that ships."""

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.commands.vision import keep_looking
from experiments.compare import Condition
from experiments.console import print_check, print_heads, print_json, print_metrics, say
from experiments.controls import with_controls
from experiments.judging import JudgedTask, Judgement, judge
from experiments.looking import Looking, look, looking_sections
from experiments.proof import prove
from experiments.reporting import check_section, judgement_sections, write_report
from head_analysis.concentration import head_gini
from headscope.model import HookedModel
from headscope.runs import Run
from interventions.named import parse_interventions
from tasks.scenes import scene_captions, scene_pope

MODEL = "zoo:scenes"
WITH = ("VHR(alpha=2)", "VAR()", "VAR(), VHR(alpha=2)")
"""What is tried, alone and together; in the last, heads are chosen with VAR in force."""


def vision_conditions(model: HookedModel, *, draws: int) -> list[Condition]:
    """Nothing edited, VHR, VAR and both, each with random controls."""
    conditions = [Condition("none")]
    for text in WITH:
        conditions += with_controls(model, text, parse_interventions(text), draws=draws)
    return conditions


def demo_vision(
    run: Run, model: HookedModel, *, images: int, looked_at: int, draws: int, seed: int, json: bool
) -> None:
    """Looks at heads on some scenes, then judges the operators on others; everything is kept in the run."""
    tasks: dict[str, JudgedTask] = {
        "POPE, adversarial": scene_pope(images, "adversarial", seed=seed + 1),
        "captions": scene_captions(images, seed=seed + 1),
    }
    conditions = vision_conditions(model, draws=draws)
    answers = sum(len(task.samples(model.processor)) for task in tasks.values())
    if not json:
        say(
            f"{model!r}\n{looked_at} captions to see all heads at work, then {len(conditions)} conditions x {answers} "
            "answers\n"
        )
    check = prove(run, model, quiet=json)
    if not json:
        print_check(check)
    found = look(model, scene_captions(looked_at, seed=seed), progress=not json)
    keep_looking(run, found)
    if not json:
        print_heads(found.scores["vhd"], threshold=0.0, most=6)
    judged = {
        name: judge(model, task, conditions, name=name, run=run, progress=not json) for name, task in tasks.items()
    }
    families = {name: one.families() for name, one in judged.items()}
    _keep(run, judged, families)
    sections = [*looking_sections(model, found), *_judged_sections(judged, _on_sinks(found)), check_section(check)]
    write_report(run, f"What {MODEL} does with the image", sections)
    results = _findings(found, families)
    run.update(findings=results)
    if json:
        return print_json(results | {"out": str(run.path)})
    for name, table in families.items():
        print_metrics(table, title=name)
    return say(f"{_on_sinks(found)}\nreport: {run.path / 'report.html'}")


def _on_sinks(found: Looking) -> str:
    """What VAR has to work with."""
    if found.sinks.dimensions.found:
        return f"Sink dimensions of {MODEL}: {found.sinks.dimensions}."
    return (
        f"VAR changes nothing here: no dimension of {MODEL} marks sinks ({found.sinks.dimensions}), so no token counts "
        "as one; larger models have them."
    )


def _judged_sections(judged: Mapping[str, Judgement], on_sinks: str) -> list[tuple[str, object]]:
    text = (
        "VHR multiplies by 2 the heads that react most to the image, chosen anew for every prompt. VAR moves attention "
        "from sinks to the rest of the image. Beside each stand random counterparts: as many heads of the same layers, "
        "as many other tokens as donors. An operator is worth something only where it does better than these. "
        f"{on_sinks}"
    )
    parts = [section for name, one in judged.items() for section in judgement_sections(name, one)]
    return [("What helps against made-up objects?", text), *parts]


def _keep(run: Run, judged: Mapping[str, Judgement], families: Mapping[str, pd.DataFrame]) -> None:
    tables = {
        "judged_answers": pd.concat([one.table.assign(task=name) for name, one in judged.items()], ignore_index=True),
        "judged_families": pd.concat([table.assign(task=name) for name, table in families.items()], ignore_index=True),
    }
    for name, table in tables.items():
        if name not in run.table_names():
            run.save_table(name, table)


def _findings(found: Looking, families: Mapping[str, pd.DataFrame]) -> dict[str, object]:
    """The numbers of the demo in short."""
    columns: Sequence[str] = ["metric", "condition", "value", "low", "high", "difference", "p"]
    vhd = found.scores["vhd"]
    return {
        "vhd_gini": round(head_gini(vhd), 3),
        "top_vhd": [str(head) for head in vhd.top(5)],
        "sink_dimensions": list(found.sinks.dimensions.dims),
        "conditions": {
            name: table[list(columns)].astype(object).where(table[list(columns)].notna(), None).to_dict("records")
            for name, table in families.items()
        },
    }
