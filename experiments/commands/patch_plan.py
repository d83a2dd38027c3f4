"""What `headscope patch` is asked to patch: options that belong together, checked, and told in words."""

from dataclasses import dataclass
from typing import get_args

from experiments.answer_metrics import Metric
from experiments.patching.activations import Direction, HeadSite
from experiments.patching.effects import Positions, named_heads
from experiments.patching.paths import Mlps, Through
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.model import HookedModel


@dataclass(frozen=True)
class Plan:
    """What is patched."""

    maps: tuple[str, ...]
    direction: Direction
    through: Through | None
    receivers: tuple[Head, ...]
    heads: tuple[Head, ...]
    positions: Positions
    mlps: Mlps
    metric: Metric

    @classmethod
    def of(
        cls,
        sites: str,
        direction: Direction | None,
        through: Through | None,
        receivers: str,
        heads: str,
        positions: str,
        mlps: Mlps,
        metric: Metric,
    ) -> "Plan":
        """The plan that options name; UsageError for those that do not go together."""
        wanted = tuple(dict.fromkeys(part for part in sites.replace(" ", "").split(",") if part))
        strange = [site for site in wanted if site not in get_args(HeadSite)]
        if strange or not wanted:
            raise UsageError(f"--sites {sites!r}: give one or more of {', '.join(get_args(HeadSite))}, such as z,q")
        if through is None and receivers:
            raise UsageError(f"--receivers {receivers} receive along a path; say through what with --through q, k or v")
        if through is not None and (direction is not None or wanted != ("z",)):
            raise UsageError("a path always starts in z and noises a clean prompt; leave --direction and --sites out")
        if through == "logits" and receivers:
            raise UsageError(
                f"--receivers {receivers}, but with --through logits the answer itself receives; use --through q, k or v"
            )
        if through not in (None, "logits") and not receivers:
            raise UsageError(f"--through {through} is an input of receiving heads; name them with --receivers L5H3,...")
        if through is None:
            maps = tuple(f"{direction or 'denoise'} {site}" for site in wanted)
        else:
            into = "logits" if through == "logits" else f"{through} of {', '.join(map(str, parse_heads(receivers)))}"
            maps = (f"path to {into}",)
        return cls(
            maps,
            direction or "denoise",
            through,
            parse_heads(receivers),
            parse_heads(heads),
            _places(positions),
            mlps,
            metric,
        )

    @property
    def title(self) -> str:
        """What a report is headed by."""
        return "path patching" if self.through else "activation patching"

    @property
    def text(self) -> str:
        """What is put where, and what 0 and 1 mean."""
        where = "at every token" if self.positions is None else f"at {self.positions}"
        if self.through:
            return (
                f"Path patching: the corrupted output of each head ({where}) enters the clean prompt and reaches the "
                f"answer along the {self.maps[0]} only; all other heads are frozen, MLPs {self.mlps}. 0 changes nothing, "
                "1 goes the whole way to the corrupted answer."
            )
        if self.direction == "denoise":
            return (
                f"Activation patching: each head's activation on the clean prompt ({where}) enters the corrupted one. 0 "
                "restores nothing of the answer, 1 all of it: what suffices."
            )
        return (
            f"Activation patching: each head's activation on the corrupted prompt ({where}) enters the clean one. 0 "
            "harms nothing, 1 destroys the whole answer: what is needed."
        )

    def site(self, name: str) -> HeadSite:
        """The site of a map."""
        return name.split()[-1]  # type: ignore[return-value]  # named so in `of`

    def senders(self, model: HookedModel) -> tuple[Head, ...]:
        """The heads that are patched; UsageError for heads the model does not have."""
        return named_heads(model, self.heads or None)

    def passes(self, heads: int, draws: int) -> int:
        """Forward passes of all pairs, about."""
        if self.through:
            return heads * (1 if self.through == "logits" else 2) + 5
        return len(self.maps) * (heads + 4 + draws + 5)

    def facts(self) -> dict[str, object]:
        """What decides the result, for a run's config."""
        return {
            "maps": list(self.maps),
            "heads": [str(head) for head in self.heads],
            "positions": list(self.positions) if isinstance(self.positions, tuple) else self.positions,
            "mlps": self.mlps,
            "metric": self.metric,
        }


def _places(text: str) -> Positions:
    if not text:
        return None
    parts = text.replace(" ", "").split(",")
    return tuple(map(int, parts)) if all(part.lstrip("-").isdigit() for part in parts) else text
