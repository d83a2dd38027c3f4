"""Multiplies what heads hand to W_O: above 1 they are reinforced, below 1 weakened, at 0 removed."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Phase, Site, Where


@dataclass(frozen=True)
class Scale(ForBridges):
    """z of the given heads times `factor`, in prefill, decode, or both; attention rows are left alone."""

    heads: tuple[Head, ...]
    factor: float
    phase: Phase | None = None
    stack: str | None = None

    def __init__(
        self,
        heads: "str | Iterable[Head | str | tuple[int, int]]",
        factor: float | int,
        *,
        phase: Phase | None = None,
        stack: str | None = None,
    ) -> None:
        values = (parse_heads(heads), float(factor), phase, stack)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        _ = self.where  # refuses a phase that is not known

    @property
    def site(self) -> Site:
        """`z`."""
        return "z"

    @property
    def where(self) -> Where:
        """The heads and the phase."""
        return Where(heads=self.heads, phase=self.phase, stack=self.stack)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The heads' outputs times the factor."""
        return act * self.factor
