"""`headscope runs`: the runs in a folder, and parts of one run put together."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from experiments.console import print_json, print_table, say
from experiments.options import Json, Out
from headscope.errors import HeadscopeError, UsageError
from headscope.merging import merge_runs
from headscope.runs import Run

_SHOWN = 5


class _ListUnlessTold(TyperGroup):
    """`runs FOLDER` is short for `runs list FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        told = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if told else ["list", *args])


app = typer.Typer(
    cls=_ListUnlessTold,
    help="List the runs in a folder (`list`, which may be left out), or put the parts of one together (`merge`).",
)


@app.command("list")
def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List runs: what was asked, on which model, whether it finished."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; `headscope demo --out runs/demo` makes a first run")
    rows = [_row(path.parent) for path in sorted(folder.glob("*/run.json"))]
    if json:
        print_json(rows)
    else:
        print_table(rows, title=f"runs in {folder}")


@app.command("merge")
def merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders of runs of one command, such as its shards.")],
    out: Out,
    json: Json = False,
) -> None:
    """Put the finished cells of several runs of one command into one new run."""
    run = merge_runs(parts, out)
    missing = run.missing_cells()
    cells = len(run.cell_keys())
    if json:
        return print_json({"out": str(out), "cells": cells, "missing": missing, "status": run.facts["status"]})
    say(f"{cells} cells of {len(parts)} runs in {out}")
    if missing:
        named = "; ".join(missing[:_SHOWN]) + "; ..." * (len(missing) > _SHOWN)
        return say(f"{len(missing)} are still missing: {named}. Run the other shards, or go on with --resume")
    return say(
        f"nothing is missing: `headscope {run.facts['command']}` with the same options, --out {out} and --resume "
        "makes tables and report of them and computes nothing again"
    )


def _row(path: Path) -> dict[str, object]:
    try:
        facts = Run.open(path).facts
    except HeadscopeError as error:
        return {"run": path.name, "command": "", "model": "", "created": "", "status": str(error), "seconds": None}
    model = facts.get("model") or {}
    return {
        "run": path.name,
        "command": facts["command"],
        "model": model.get("name", "") if isinstance(model, dict) else model,
        "created": facts["created"],
        "status": facts["status"],
        "seconds": facts.get("wall_s"),
    }
