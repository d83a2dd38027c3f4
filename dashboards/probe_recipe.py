"""The Python and the command line that give what the page on probes shows."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashboards.reproduce import Recipe
from experiments.probing.places import Plan
from headscope.errors import UsageError
from headscope.literals import parse_call


def probe_recipe(folder: Path, key: str, facts: Mapping[str, Any]) -> Recipe:
    """One result of a run, and the command that makes a run like it; none where its config does not tell."""
    python = (
        "from experiments.probing.cells import read_probe\nfrom headscope.runs import Run\n\n"
        f"result = read_probe(Run.open({folder.as_posix()!r}), {key!r})\n"
        "print(result.table)\n"
        'result.plot().write_html("probe.html")'
    )
    words = command_words(facts)
    return Recipe(python, shlex.join([*words, "--out", "runs/again"]) if words else "")


def command_words(facts: Mapping[str, Any]) -> list[str]:
    """`headscope probe` with the options of a run; empty where its config cannot be read."""
    config = facts.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("asked"), list):
        return []
    try:
        plan = parse_call(str(config.get("plan")), {"Plan": Plan})
    except UsageError:
        return []
    given: dict[str, Any] = {
        "model": config.get("model"),
        "by": plan.by,
        "site": ",".join(plan.sites),
        "position": plan.position,
        "mark": plan.mark,
        "layers": None if plan.layers is None else ",".join(map(str, plan.layers)),
        "stack": plan.stack,
        "probe": plan.kind,
        "control": plan.control,
        "baselines": ",".join(plan.baselines) or "none",
        "folds": plan.folds,
        "draws": plan.draws,
        "seed": plan.seeds[0],
        "splits": len(plan.seeds),
        "limit": config.get("limit"),
        "dtype": config.get("dtype"),
    }
    sets = [word for name in config["asked"] for word in ("--set", str(name))]
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    switches = {"--bits": plan.bits, "--chat": config.get("chat"), "--images-anywhere": config.get("images_anywhere")}
    flags = [flag for flag, on in switches.items() if on]
    return ["headscope", "probe", *sets, *options, *flags]
