"""A sweep as a reader asks for it, and the words of the command line that runs it; nothing else can be asked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from experiments.commands.asking import TASKS
from experiments.options import parse_numbers
from experiments.sweeps.sweep import Metric
from headscope.errors import UsageError
from interventions.ablate import Mode

CHOICES: Mapping[str, tuple[str, ...]] = {
    "task": TASKS,
    "of": ("heads", "pairs", "layers"),
    "mode": get_args(Mode),
    "metric": ("loss", *(metric for metric in get_args(Metric) if metric != "loss")),
}
LIMITS: Mapping[str, tuple[int, int]] = {
    "depths": (1, 100),
    "repeats": (1, 1000),
    "needles": (1, 20),
    "prompts": (2, 10_000),
    "top": (1, 100),
    "draws": (1, 100),
    "seed": (0, 2**31 - 1),
}
"""Smallest and largest of each number."""
_LONGEST = 100


@dataclass(frozen=True)
class AskedSweep:
    """Options of `headscope ablate sweep`, by their names there; UsageError for values that it would not take."""

    model: str
    task: str = "needle"
    of: str = "heads"
    mode: str = "zero"
    metric: str = "loss"
    lengths: str = "128"
    depths: int = 5
    repeats: int = 4
    needles: int = 2
    prompts: int = 32
    top: int = 3
    draws: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} {getattr(self, name)!r} is not known; use one of {', '.join(known)}")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value!r}; give a whole number from {low} to {high}")
        if len(self.lengths) > _LONGEST:
            raise UsageError(f"lengths take {len(self.lengths)} characters; use at most {_LONGEST}, such as 128,256")
        parse_numbers(self.lengths, "lengths")

    def words(self, source: str, out: Path, *, resume: bool = False) -> list[str]:
        """Arguments of `headscope`, the model loaded from `source`; each option and its value are one word."""
        options = asdict(self) | {"model": source, "out": out}
        given = [f"--{name}={value}" for name, value in options.items()]
        return ["ablate", "sweep", *given, *(["--resume"] if resume else [])]


def read_asked(facts: object) -> AskedSweep:
    """The sweep that a mapping from a file describes; UsageError for any other content."""
    kinds = {field.name: int if field.name in LIMITS else str for field in fields(AskedSweep)}
    if not isinstance(facts, Mapping) or set(facts) != set(kinds):
        raise UsageError(f"these are not the settings of a sweep, which are {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(facts[name]) is not kind:
            raise UsageError(f"{name} is {facts[name]!r}, which is no {'whole number' if kind is int else 'text'}")
    kept: dict[str, Any] = dict(facts)
    return AskedSweep(**kept)
