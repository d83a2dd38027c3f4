"""`headscope runs`: the runs in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.console import print_json, print_table
from experiments.options import Json
from headscope.errors import HeadscopeError, UsageError
from headscope.runs import Run


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
