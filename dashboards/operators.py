"""Which settings of which operators a reader can move, and the text that describes what was set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from interventions.named import INTERVENTIONS


@dataclass(frozen=True)
class Slide:
    """A number between two ends."""

    name: str
    low: float
    high: float
    default: float
    step: float = 0.05


@dataclass(frozen=True)
class Count:
    """A whole number."""

    name: str
    low: int
    high: int
    default: int


@dataclass(frozen=True)
class Pick:
    """One of a few words; the first is the operator's own default, and is not written."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Heads:
    """Heads; none chosen is all that the operator would take, unless it needs some."""

    name: str = "heads"
    needed: bool = False


Setting = Slide | Count | Pick | Heads
_PHASE = Pick("phase", ("both", "prefill", "decode"))

SETTINGS: Mapping[str, tuple[Setting, ...]] = MappingProxyType(
    {
        "Ablate": (Heads(needed=True), Pick("mode", ("zero", "uniform")), _PHASE),
        "Scale": (Heads(needed=True), Slide("factor", 0.0, 4.0, 2.0, 0.1), _PHASE),
        "ACT": (Heads(), Slide("beta", 0.0, 1.0, 0.4), Slide("alpha", 1.0, 20.0, 5.0, 0.5)),
        "VAR": (Slide("rho_nonsink", 0.0, 1.0, 0.5), Slide("min_image", 0.0, 1.0, 0.2)),
        "VHR": (Slide("alpha", 0.0, 4.0, 2.0, 0.1), Heads()),
        "ImageBoost": (Slide("alpha", 0.0, 2.0, 0.2), Heads()),
        "ImbalanceFix": (Slide("alpha", 0.0, 2.0, 0.7), Pick("variant", ("released", "paper"))),
        "KnockOut": (Pick("keys", ("image", "text")), Count("from_layer", 0, 200, 0), _PHASE),
        "MutualMask": (Heads(),),
        "RecycledAttention": (Count("keep", 1, 4096, 64), Count("every", 1, 100, 10)),
        "SinkWindow": (Count("sinks", 0, 64, 4), Count("recent", 1, 4096, 32), Heads(), _PHASE),
        "TopKeys": (Count("k", 1, 4096, 8), Heads(), _PHASE),
    }
)
"""Operator -> the settings that are offered; all others stay at their defaults, and can be written as text."""

OPERATORS: tuple[str, ...] = tuple(name for name in SETTINGS if name in INTERVENTIONS)

Value = float | int | str | Sequence[str]


def about(name: str) -> str:
    """What the operator does, in one sentence."""
    return (INTERVENTIONS[name].__doc__ or "").strip().split("\n")[0].replace("`", "")


def written(name: str, values: Mapping[str, Value]) -> str:
    """The operator as text, as `interventions.named.parse_interventions` reads it."""
    parts = [f"{setting.name}={_literal(values[setting.name])}" for setting in SETTINGS[name] if _said(setting, values)]
    return f"{name}({', '.join(parts)})"


def _said(setting: Setting, values: Mapping[str, Value]) -> bool:
    if isinstance(setting, Pick):
        return values[setting.name] != setting.options[0]
    return bool(values[setting.name]) or setting.needed if isinstance(setting, Heads) else True


def _literal(value: Value) -> str:
    if isinstance(value, str | int):
        return repr(value)
    return repr(round(value, 6)) if isinstance(value, float) else repr(", ".join(value))
