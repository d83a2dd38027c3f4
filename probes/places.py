"""Which tokens of a sample a probe reads, and what is made of several."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import UsageError
from headscope.hooks import Region
from headscope.samples import Tokens

Pick = Literal["last", "mean", "all"]
Position = Pick | int


@dataclass(frozen=True)
class Places:
    """Tokens of the prompt, of one of its marks, or of a region; of these one, their mean, or all.

    `position` counts among the tokens asked for, from their end if negative: with `mark="needle"`, 0 is the needle's
    first token and "last" its last.
    """

    position: Position = "last"
    mark: str | None = None
    region: Region | None = None

    def __post_init__(self) -> None:
        if isinstance(self.position, str) and self.position not in get_args(Pick):
            raise UsageError(
                f"position {self.position!r} is not known; use 'last', 'mean', 'all' or a number, and mark= for the name "
                "of a mark"
            )
        if self.region is not None and self.region not in get_args(Region):
            raise UsageError(f"region {self.region!r} is not known; use one of {', '.join(get_args(Region))} or None")

    def chosen(self, asked: Int[Tensor, " token"], tokens: Tokens) -> Int[Tensor, " chosen"]:
        """Which entries of `asked`, the places in the sample that a hook was shown; UsageError if there is none."""
        entries = torch.arange(len(asked))
        if self.mark is not None:
            if self.mark not in tokens.marks:
                raise UsageError(
                    f"position asks for mark {self.mark!r}; the sample has {', '.join(tokens.marks) or 'none'}"
                )
            start, end = tokens.marks[self.mark]
            entries = entries[(asked >= start) & (asked < end)]
        if not isinstance(self.position, int):
            if not len(entries):
                raise UsageError(f"a sample has no tokens in {self._scope}; leave such samples out")
            return entries[-1:] if self.position == "last" else entries
        if not -len(entries) <= self.position < len(entries):
            raise UsageError(
                f"position {self.position} was asked for, but a sample has {len(entries)} tokens in {self._scope}"
            )
        return entries[self.position].reshape(1)

    def made(self, act: Float[Tensor, " chosen *rest"]) -> Float[Tensor, "*kept"]:
        """One activation of those chosen, [*rest], or all of them."""
        if self.position == "all":
            return act
        return act.mean(0) if self.position == "mean" else act[0]

    @property
    def _scope(self) -> str:
        parts = [f"mark {self.mark!r}"] * (self.mark is not None) + [f"region {self.region!r}"] * (
            self.region is not None
        )
        return " and ".join(parts) or "its prompt"
