"""What `headscope probe` can ask: the built-in sets by name, and files of one's own."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from headscope.errors import UsageError
from tasks.captions import CaptionChoices
from tasks.frames import FrameOrder
from tasks.labelled import LabelledFile, ProbingSet
from tasks.mqar import MQAR
from tasks.scene_probes import SceneProbe
from tasks.temporal import TemporalOrder
from tasks.three_events import ThreeEvents

_ENDINGS = (".jsonl", ".ndjson")

SETS: Mapping[str, Callable[[int | None, int], ProbingSet]] = MappingProxyType(
    {
        "mqar": lambda n, seed: MQAR(n or 60, values=4, seed=seed),
        "temporal": lambda n, seed: TemporalOrder(n or 240, seed=seed),
        "daytime": lambda n, seed: TemporalOrder(n or 240, "time", ("after",), seed=seed),
        "three-events": lambda n, seed: ThreeEvents(n or 240, seed=seed),
        "three-places": lambda n, seed: ThreeEvents(n or 252, places=("first", "second", "last"), seed=seed),
        "three-daytimes": lambda n, seed: ThreeEvents(n or 240, "time", seed=seed),
        "temporal-shuffled": lambda n, seed: TemporalOrder(n or 240, seed=seed, order="shuffled"),
        "daytime-shuffled": lambda n, seed: TemporalOrder(n or 240, "time", ("after",), seed=seed, order="shuffled"),
        "frames": lambda n, seed: FrameOrder(n or 240, seed=seed),
        "frame-captions": lambda n, seed: FrameOrder(n or 240, "captions", seed=seed),
        "presence": lambda n, seed: SceneProbe(n or 60, "presence", seed),
        "colour": lambda n, seed: SceneProbe(n or 120, "colour", seed),
        "position": lambda n, seed: SceneProbe(n or 120, "position", seed),
        "ownership": lambda n, seed: CaptionChoices(n or 100, "ownership", seed=seed),
        "relation": lambda n, seed: CaptionChoices(n or 100, "relation", seed=seed),
        "spatial": lambda n, seed: CaptionChoices(n or 100, "spatial", seed=seed),
        "negation": lambda n, seed: CaptionChoices(n or 100, "negation", seed=seed),
        "ownership-shuffled": lambda n, seed: CaptionChoices(n or 100, "ownership", seed=seed, order="shuffled"),
        "relation-shuffled": lambda n, seed: CaptionChoices(n or 100, "relation", seed=seed, order="shuffled"),
        "word-order": lambda n, seed: CaptionChoices(n or 100, "ownership", seed=seed, order="beside"),
    }
)
"""Name -> the set of so many texts or scenes (None: enough for a first look), drawn by a seed."""


def named_sets(
    names: Sequence[str], *, limit: int | None, seed: int, chat: bool = False, anywhere: bool = False
) -> dict[str, ProbingSet]:
    """The sets by a short name; a name that ends in .jsonl is a file, whose images may lie `anywhere` if so asked.

    UsageError for a name that is not known, and for two of the same short name.
    """
    found: dict[str, ProbingSet] = {}
    for name in names:
        file = name.endswith(_ENDINGS)
        if not file and name not in SETS:
            raise UsageError(
                f"there is no set {name!r}; use one of {', '.join(SETS)}, or a file whose name ends in .jsonl"
            )
        short = re.sub(r"[^\w.-]+", "_", Path(name).stem).strip(".") or "file" if file else name
        if short in found:
            raise UsageError(f"two sets are called {short!r}; give each once, and files different names")
        found[short] = LabelledFile(name, limit, chat, anywhere) if file else SETS[name](limit, seed)
    return found
