"""What a sweep says at its end, in a terminal or as JSON."""

from typing import Any, Literal

from experiments.compare import Comparison
from experiments.console import print_comparison, print_table, say
from experiments.over_controls import over_controls
from experiments.rounding import rounded
from experiments.sweeps.screening import Screening
from experiments.sweeps.sweep import Sweep

Of = Literal["heads", "pairs", "layers", "groups"]

_LISTED = 15


def result(
    found: Sweep, together: Comparison | None, screening: Screening | None, *, of: Of, task: str
) -> dict[str, Any]:
    """Everything that the run found, for JSON; of a sweep with cells missing, which."""
    about: dict[str, Any] = {
        "task": task,
        "of": of,
        "metric": found.metric,
        "mode": found.meta["mode"],
        "missing": list(found.missing),
    }
    if found.missing:
        return about
    about["n"] = int(found.table["sample"].nunique())
    about["units"] = found.summary().to_dict("records")
    about["together"] = [] if together is None else together.families().to_dict("records")
    about["over_controls"] = [] if together is None else over_controls(together).to_dict("records")
    if screening is not None:
        heads = screening.estimate.to_dataframe()[["name", "value", "low", "high"]].to_dict("records")
        about["estimate"] = {"metric": screening.estimate.metric, "heads": heads, **screening.agreement(found)}
    return about


def show(found: Sweep, together: Comparison | None, screening: Screening | None, *, out: str) -> None:
    """The largest effects, the costliest at once, and how good an estimate was; or what is still missing."""
    if found.missing:
        return say(f"{found.note}; what is done is in {out}")
    shown, mode = rounded(found.summary().head(_LISTED)), found.meta["mode"]
    print_table(shown, title=f"largest effects on {found.metric} ({mode}; value without - value with)")
    if together is not None:
        print_comparison(together.families(), title=f"{found.metric} without them")
        for row in over_controls(together).to_dict("records"):
            say(
                f"{row['treatment']}: {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] from random heads "
                f"of the same layers; {row['as_far']} of {row['draws']} draws go as far"
            )
    if screening is not None:
        agreed = screening.agreement(found)
        say(
            f"the estimate's rank correlation with the exact effect is {agreed['rank_correlation']:.2f} "
            f"[{agreed['low']:.2f}, {agreed['high']:.2f}] over {agreed['n_heads']} random heads"
        )
    return say(f"results and report in {out}")
