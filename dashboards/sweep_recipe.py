"""The Python and the command line that give the results of a sweep."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.reproduce import Recipe, command_of


def sweep_recipe(folder: Path, facts: Mapping[str, Any]) -> Recipe:
    """The effects of every unit."""
    python = (
        "from experiments.sweeps.sweep import sweep_of\nfrom headscope.runs import Run\n\n"
        f"found = sweep_of(Run.open({folder.as_posix()!r}))\n"
        "print(found.summary())"
    )
    return Recipe(python, command_of(facts))


def asked_recipe(words: Sequence[str]) -> Recipe:
    """A sweep that is asked for and not run yet, from the words of its command line."""
    return Recipe(f"from experiments.cli import run\n\nrun({list(words)!r})", shlex.join(["headscope", *words]))
