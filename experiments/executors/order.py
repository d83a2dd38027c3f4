"""What a worker is told when it starts, as text: which model it loads, and what for.

Workers are given names and settings, never objects: each loads the model and makes the work itself, and what it then does
is compared with what it is asked for, so that a file that differs on another machine is found out.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["sweep", "eval"]


@dataclass(frozen=True)
class Order:
    """A model by name, with the options to load it with, and the settings of one kind of work."""

    kind: Kind
    model: Mapping[str, Any]
    settings: Mapping[str, Any]

    def text(self) -> str:
        """The order as JSON; paths become absolute, since workers may run in another folder."""
        return json.dumps(asdict(self), default=_plain)

    @classmethod
    def read(cls, text: str) -> "Order":
        """The order in a text."""
        return cls(**json.loads(text))


def model_order(name: str, **options: Any) -> dict[str, Any]:
    """A model's name, absolute where it is a folder here, and the other options of `load_model`."""
    return {"model": str(Path(name).expanduser().resolve()) if Path(name).expanduser().is_dir() else name, **options}


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    raise TypeError(f"{type(value).__name__} is not text, a number, a list, a mapping or a path")
