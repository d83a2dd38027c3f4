"""The cells of a sweep: what is done of one batch of samples for the units that begin in one layer.

Which cells there are follows from samples and units alone, so that processes, machines and a later day agree on them.
Those of one batch share a pass of the whole model, so they are taken in portions that are worth one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.sweeps.units import Unit
from headscope.errors import UsageError
from headscope.samples import batches

WORTH = 20.0
"""Passes in a portion, at least: what a portion costs beside them, a pass of the whole model, is then a twentieth."""


@dataclass(frozen=True)
class Cell:
    """Samples and units of one cell."""

    key: str
    batch: int
    places: tuple[int, ...]
    units: tuple[Unit, ...]
    passes: float
    """What it costs, in passes of the whole model."""

    @property
    def rows(self) -> int:
        """Rows of its table."""
        return len(self.places) * len(self.units)


def cells_of(
    sizes: Sequence[int], units: Sequence[Unit], *, batch_tokens: int, n_layers: int, part: str = ""
) -> list[Cell]:
    """All cells of a sweep over samples of these sizes (tokens): batch by batch, lowest layer first."""
    layers = sorted({unit.first for unit in units})
    found = []
    for batch, (places, _) in enumerate(batches(range(len(sizes)), lambda i: sizes[i], batch_tokens)):
        for layer in layers:
            mine = tuple(unit for unit in units if unit.first == layer)
            passes = len(mine) * (n_layers - layer) / n_layers
            found.append(Cell(f"{part}batch {batch}, from layer {layer}", batch, tuple(places), mine, passes))
    return found


def share_of(cells: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """The cells of the i-th of n shards (i from 0): every n-th batch, or every n-th cell if there are fewer batches."""
    i, n = shard
    if not 0 <= i < n:
        raise UsageError(f"shard {shard} is not one of {n}; count from (0, {n}) to ({n - 1}, {n})")
    if n > len(cells):
        raise UsageError(f"{n} shards of {len(cells)} cells leave some empty; ask for {len(cells)} at most")
    whole_batches = len({cell.batch for cell in cells}) >= n
    return [cell for place, cell in enumerate(cells) if (cell.batch if whole_batches else place) % n == i]


def together(cells: Sequence[Cell], *, worth: float) -> Callable[[Sequence[str], str], bool]:
    """Whether a cell joins those taken before it: if it is of their batch, and they are not worth a pass yet."""
    named = {cell.key: cell for cell in cells}

    def joins(taken: Sequence[str], key: str) -> bool:
        same = named[key].batch == named[taken[0]].batch
        return same and sum(named[one].passes for one in taken) < worth

    return joins
