"""The Python and the command line that give what a run knows of sinks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.reproduce import Recipe, command_of


def sink_recipe(folder: Path, scores: Sequence[str], facts: Mapping[str, Any]) -> Recipe:
    """Scores and tables about sinks, or the gains of heads where a run holds no scores."""
    lines = ["from headscope.runs import Run", "", f"run = Run.open({folder.as_posix()!r})"]
    lines += [f"print(run.scores({name!r}).to_dataframe())" for name in scores] or ['print(run.table("heads"))']
    lines += [
        'for name in ("tokens", "norms", "contrasts", "sink_tokens", "sinks_by_layer", "held_out_families"):',
        "    if name in run.table_names():",
        "        print(run.table(name))",
    ]
    return Recipe("\n".join(lines), command_of(facts))
