"""The `--screen` of a sweep: an estimate of all heads first, kept under its own name."""

from collections.abc import Sequence
from typing import get_args

from experiments.commands.sweep_output import Of
from experiments.console import say
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.attribution import Metric as Estimated
from experiments.sweeps.attribution import screen as estimate_of
from experiments.sweeps.screening import Screening
from experiments.sweeps.sweep import Metric
from experiments.timing import duration, seconds_a_pass
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.runs import Run
from headscope.samples import Sample


def check_screen(model: HookedModel, k: int, of: Of, heads: str, metric: Metric) -> None:
    """UsageError where a screen does not go with the other options."""
    if of != "heads" or heads:
        raise UsageError("--screen chooses the heads that are swept; leave --of, --heads and --group out")
    if k > len(model.heads()):
        raise UsageError(f"--screen {k}: {model.name} has {len(model.heads())} heads; give 3 to {len(model.heads())}")
    if metric not in get_args(Estimated):
        raise UsageError(
            f"--screen {k} follows the slope of the metric, which {metric} has not; use --metric "
            f"{', '.join(get_args(Estimated))}, or leave --screen out"
        )


def screened(
    run: Run,
    model: HookedModel,
    samples: Sequence[Sample],
    k: int,
    metric: Metric,
    ablation: Ablation,
    batch_tokens: int,
    seed: int,
    *,
    quiet: bool,
) -> Screening:
    """The estimate that the run holds, or a new one, kept there under its own name; and what to sweep because of it."""
    if "estimate" not in run.score_names():
        if not quiet:
            each = seconds_a_pass(model, samples, batch_tokens)
            say(f"first-order estimate of all heads: about 3 passes of all prompts, {duration(3 * each)}")
        found = estimate_of(
            model, samples, metric=metric, ablation=ablation, batch_tokens=batch_tokens, progress=not quiet
        )
        with run.assembling():
            if "estimate" not in run.score_names():  # another process may have been quicker
                run.save_scores("estimate", found)
    return Screening.of(run.scores("estimate"), k, seed=seed)
