"""A sweep that was asked for on the command line, as text and back: the same work in any process that has the model."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.commands.asking import Asked, Asking, ask
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.sweep import Metric
from experiments.sweeps.units import groups
from experiments.sweeps.work import sweep_work
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.sharing import Work
from interventions import HeadOutputs, head_outputs
from interventions.ablate import Mode


@dataclass(frozen=True)
class SweepSettings:
    """What decides a sweep, besides its units."""

    asking: Asking
    mode: Mode
    metric: Metric
    batch_tokens: int
    max_new_tokens: int | None

    def facts(self) -> dict[str, Any]:
        """As text, numbers and mappings."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "SweepSettings":
        """The settings that `facts` told."""
        haystack = facts["asking"]["haystack"]
        asking = Asking(**{**facts["asking"], "haystack": Path(haystack) if haystack else None})
        return cls(**{**facts, "asking": asking})

    def ablation(self, model: HookedModel, asked: Asked) -> Ablation:
        """What removed means; costs a pass of other prompts where their outputs are put in place."""
        return Ablation(self.mode, _reference(model, self.asking, asked, self.mode), self.asking.seed)


def sweep_from(model: HookedModel, facts: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Work]:
    """Makes the work of a sweep of what another process tells of its units and cells."""
    settings = SweepSettings.of(facts)
    asked = ask(model, settings.asking)
    ablation = settings.ablation(model, asked)

    def work(told: Mapping[str, Any]) -> Work:
        first, parts = told["shard"]
        return sweep_work(
            model,
            asked.samples,
            groups(told["units"]),
            metric=settings.metric,
            ablation=ablation,
            batch_tokens=settings.batch_tokens,
            part=told["part"],
            shard=(first, parts),
            task=asked.task,
            max_new_tokens=settings.max_new_tokens,
        ).work

    return work


def _reference(model: HookedModel, asking: Asking, asked: Asked, mode: Mode) -> HeadOutputs | None:
    """Outputs on other prompts of the task, corrupted ones if there are some, where the mode replaces z by such."""
    if mode not in ("mean", "resample"):
        return None
    other = ask(model, replace(asking, seed=asking.seed + 1_000))
    if other.samples == asked.samples and not other.counterfactuals:
        raise UsageError(
            f"--mode {mode} puts outputs on other text in place, and {asking.name} holds no other; give each line a "
            "counterfactual, or use --mode zero"
        )
    return head_outputs(model, other.counterfactuals or other.samples, seed=asking.seed)
