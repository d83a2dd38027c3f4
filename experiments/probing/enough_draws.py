"""Draws of the control: how many it takes until a layer or head can be found that stands out alone.

p is the rank of a score among the draws of all places together, so it is never below 1 / (places x draws + 1). The
correction for many tests (Benjamini-Hochberg) then multiplies it by the number of places, over that of places which do
as well. Where this is above 0.05 for places that beat every draw, they cannot be found, however well they are read.
"""

from math import ceil

from probes import ProbeResult
from probes.judging import RATE

_ROUNDING = 1e-9


def enough_draws(places: int) -> int:
    """Fewest draws for each place with which one that beats the draws of all places is found, if it is the only one."""
    return ceil(1 / RATE - 1 / places - _ROUNDING)


def fewest_found(places: int, draws: int) -> int:
    """How many places must beat every draw until they are found; more than there are where none can be."""
    return ceil(places / (RATE * (places * draws + 1)) - _ROUNDING)


def draws_note(places: int, draws: int, by: str) -> str:
    """What cannot be found of so many layers (or heads, `by`) with so few draws, and how many are enough; else ""."""
    together = fewest_found(places, draws)
    if together <= 1:
        return ""
    least = 1 / (places * draws + 1)
    corrected = f" ({min(1.0, places * least):.2g} after the correction for {places} {by}s)" if places > 1 else ""
    none = f"no {by} can be found, however well it is read"
    found = none if together > places else f"only {together} or more {by}s that all beat every draw can be found"
    return (
        f"with {draws} draw{'s' * (draws > 1)} of the control for each {by}, p is at least {least:.2g}{corrected}, so "
        f"{found}; to find one that stands out alone, {enough_draws(places)} draws are enough"
    )


def note_on(result: ProbeResult) -> str:
    """The same of a result."""
    return draws_note(len(result.places), result.controls.shape[1], "head" if "name" in result.table else "layer")
