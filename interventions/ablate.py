"""Takes attention heads out of a model, in the four senses the literature means by it.

zero      the head hands zeros to W_O.
mean      it hands over its average output on reference text (Wang et al. 2022, arXiv 2211.00593, use such a mean).
resample  it hands over an output it had at a random place of reference text, a fresh draw for every query.
uniform   its attention is spread evenly over the visible tokens, so that it hands over their mean value vector; this is
          what the released code of the retrieval-head paper (Wu et al. 2024, arXiv 2404.15574) does under the name of
          masking, and only while an answer is decoded.

`zero`, `mean` and `resample` replace z and leave attention alone; only `uniform` edits rows, which still sum to one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import Context, Phase, Site, Where
from interventions.reference import HeadOutputs

Mode = Literal["zero", "mean", "resample", "uniform"]


@dataclass(frozen=True)
class Ablate(ForBridges):
    """Removes the given heads (`"L2H5, L3H0"`, or any list of heads) in prefill, decode, or both (`phase=None`).

    `reference` holds the outputs that `mean` and `resample` draw on (`interventions.head_outputs`). Raises UsageError
    for a mode that is not known or lacks its reference.
    """

    heads: tuple[Head, ...]
    mode: Mode = "zero"
    phase: Phase | None = None
    reference: HeadOutputs | None = field(default=None, repr=False)
    seed: int = 0
    stack: str | None = None

    def __init__(
        self,
        heads: "str | Iterable[Head | str | tuple[int, int]]",
        mode: Mode = "zero",
        *,
        phase: Phase | None = None,
        reference: HeadOutputs | None = None,
        seed: int = 0,
        stack: str | None = None,
    ) -> None:
        values = (parse_heads(heads), mode, phase, reference, seed, stack)
        for name, value in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name, value)
        self._validate()

    def _validate(self) -> None:
        if self.mode not in get_args(Mode):
            raise UsageError(f"ablation mode {self.mode!r} is not known; use one of {', '.join(get_args(Mode))}")
        _ = self.where  # refuses a phase that is not known
        if self.mode in ("mean", "resample"):
            if self.reference is None:
                raise UsageError(
                    f"mode {self.mode!r} needs the heads' outputs on other text; pass reference=head_outputs(model, ...)"
                )
            missing = [head for head in self.heads if head.layer not in self.reference.outputs]
            if missing:
                raise UsageError(
                    f"the reference holds no outputs of layers {sorted({h.layer for h in missing})}; make one that does "
                    "with head_outputs(model, ...)"
                )

    @property
    def site(self) -> Site:
        """`pattern` for uniform attention, `z` otherwise."""
        return "pattern" if self.mode == "uniform" else "z"

    @property
    def where(self) -> Where:
        """The heads and the phase."""
        return Where(heads=self.heads, phase=self.phase, stack=self.stack)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """What the heads hand over instead: z, or for `uniform` their rows."""
        if self.mode == "zero":
            return torch.zeros_like(act)
        if self.mode == "uniform":
            assert ctx.visible is not None  # always given at `pattern`
            visible = ctx.visible.expand(act.shape)
            return visible.to(act.dtype) / visible.sum(-1, keepdim=True).clamp_min(1)
        assert self.reference is not None  # refused at construction
        bank = self.reference.outputs[ctx.layer].to(act)
        if self.mode == "mean":
            return bank[:, list(ctx.heads)].mean(0).expand(act.shape)
        return self._drawn(bank, ctx)

    def _drawn(self, bank: Tensor, ctx: Context) -> Tensor:
        """One reference output per query and head; a head at a place always gets the same draw, whatever is beside it."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + ctx.layer)
        last = int(ctx.positions.max()) + 1
        order = torch.randint(len(bank), (last, bank.shape[1]), generator=generator)
        heads = torch.tensor(ctx.heads)
        return bank[order[ctx.positions.clamp_min(0)][..., heads], heads]
