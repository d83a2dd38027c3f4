"""A benchmark's table as files that can be kept beside the code."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, table

INTRODUCTION = """Ratios to a plain pass (or generation) of the same model in transformers, measured in one run: CPU
seconds, the least of several rounds in which all ways take turns. Where more is better ("speed-up") it is the other way
round: how many times faster than one plain hooked pass a head. A dash: not measured, or there is no such way."""


def written(folder: Path, rows: Sequence[Row], machine: Mapping[str, Any], *, small: bool = False) -> tuple[Path, Path]:
    """Markdown and JSON in a folder, named by date and processor; older results are never overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {**machine, "load_after": round(os.getloadavg()[0], 2)}
    stem = _free(folder, machine, small)
    markdown, data = folder / f"{stem}.md", folder / f"{stem}.json"
    warning = "\n**Short prompts and one round: these numbers mean nothing.**\n" if small else ""
    facts = "\n".join(f"- {name.replace('_', ' ')}: {_flat(value)}" for name, value in machine.items())
    markdown.write_text(f"# Benchmarks\n{warning}\n{INTRODUCTION}\n\n{facts}\n\n{table(rows)}\n")
    told = {"machine": machine, "small": small, "rows": [row.to_dict() for row in rows]}
    data.write_text(json.dumps(told, indent=1) + "\n")
    return markdown, data


def _free(folder: Path, machine: Mapping[str, Any], small: bool) -> str:
    cpu = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    stem = f"{machine['date']}-{cpu}-{machine['threads']}-threads{'-small' if small else ''}"
    names = (stem if i == 1 else f"{stem}-{i}" for i in count(1))
    return next(name for name in names if not (folder / f"{name}.md").exists())


def _flat(value: Any) -> str:
    return ", ".join(f"{name} {v}" for name, v in value.items()) if isinstance(value, Mapping) else str(value)
