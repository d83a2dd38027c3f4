"""A sliding window that keeps the first tokens: each query sees these and the most recent ones, itself included.

The pattern of StreamingLLM (Xiao et al. 2023, arXiv 2309.17453), which keeps 4 first tokens; `sinks=0` is the plain
window that breaks models with attention sinks. It is an edit of the mask, so rows sum to one over the keys that are left,
and "off" means that a key is not there. Departure: the released code numbers the tokens of its cache anew, so that no
distance exceeds the window; here every token keeps its position. The two agree while a text fits the window, and a model
read beyond its trained length sees distances here that it would not see there. The cache keeps everything: this tells
what a window loses, and saves nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Phase, Site, Where


@dataclass(frozen=True)
class SinkWindow(ForBridges):
    """Each query sees the first `sinks` tokens and the last `recent` ones, in all heads or the given ones.

    In prefill and decode unless a phase is named: with `phase="decode"` the prompt is read in full. UsageError for a
    window without any token.
    """

    sinks: int = 4
    recent: int = 512
    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None
    phase: Phase | None = None

    def __init__(
        self,
        sinks: int = 4,
        recent: int = 512,
        *,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        layers: Iterable[int] | None = None,
        phase: Phase | None = None,
    ) -> None:
        given = None if heads is None else parse_heads(heads)
        values = (sinks, recent, given, None if layers is None else tuple(layers), phase)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        _ = self.where  # refuses a phase that is not known
        if sinks < 0 or recent < 1:
            raise UsageError(
                f"a window of {sinks} first and {recent} recent tokens was asked for; give at least 0 first tokens "
                "and 1 recent one, the query itself"
            )

    @property
    def site(self) -> Site:
        """`mask`."""
        return "mask"

    @property
    def where(self) -> Where:
        """The heads, layers and phase."""
        return Where(heads=self.heads, layers=self.layers, phase=self.phase)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The mask without the keys between the first and the recent ones."""
        key, query = ctx.key_positions[:, None, None, :], ctx.positions[:, None, :, None]
        hidden = (key >= self.sinks) & (key <= query - self.recent)
        return act & ~hidden.to(act.device) if hidden.any() else act
