"""Which tokens are attention sinks, judged by their residual state: the rule of Kang et al. 2025 (arXiv 2503.03321).

In models with attention sinks a handful of dimensions of the residual stream are huge at sink tokens, the first token
above all. With phi_d(x) = |x_d| / RMS(x), a token is a sink at a layer if phi_d >= tau in one of the model's sink
dimensions; the paper takes tau = 20 in models of width 4096. phi_d^2 / d_model is the share of the state's squared norm
that dimension d holds, so tau = 20 asks for 9.8 % of it; that share, not 20, is what is kept at other widths.

The paper lists the dimensions of a few models. Here they are found: those that hold that share of the first token's state
in the middle layers (its median over the second and third quarter of the model). Under causal attention the first token
sees only itself, so one token tells. In a narrow model the threshold is low (2.5 at width 64, 3.5 at 128), and ordinary
dimensions can reach it: `SinkDimensions.strength` shows by how much they stand out, `chance` how likely that is without
any sink.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.errors import UsageError
from headscope.hooks import Record
from headscope.model import HookedModel

_SHARE = 20**2 / 4096

PUBLISHED: Mapping[str, tuple[int, ...]] = {
    "llama-2-7b": (1415, 2533),
    "llama-2-13b": (2100, 4743),
    "qwen2-vl-7b": (458, 2570),
    "internvl2-8b": (3584,),
}
"""Sink dimensions of known language models: the Llamas from the paper's code, the others as others report them."""


@dataclass(frozen=True)
class SinkDimensions:
    """Dimensions that mark sinks in one model, and how much every dimension stands out at the first token."""

    dims: tuple[int, ...]
    strength: Float[Tensor, " d_model"]
    """phi of the first token, median over the middle layers."""
    threshold: float
    layers: tuple[int, ...]
    token: int
    """Id of the first token that was looked at."""

    @property
    def found(self) -> bool:
        """Whether any dimension stands out; without one, no token of the model counts as a sink."""
        return bool(self.dims)

    @property
    def chance(self) -> float:
        """Probability that some dimension reaches the largest strength in a state of normal numbers of one spread.

        In narrow models the threshold alone is weak evidence: where this is not far below 0.01, no dimension stands out.
        """
        alone = math.erfc(float(self.strength.max()) / math.sqrt(2))
        return -math.expm1(len(self.strength) * math.log1p(-alone)) if alone < 1 else 1.0

    def __str__(self) -> str:
        best = int(self.strength.argmax())
        named = ", ".join(f"{d} (phi {self.strength[d]:.1f})" for d in self.dims)
        return named or f"none reaches {self.threshold:.1f}; the largest is {best} with phi {self.strength[best]:.1f}"


def relative_threshold(d_model: int) -> float:
    """The paper's tau = 20 at width 4096, carried over to another width: the same share of the squared norm."""
    return math.sqrt(_SHARE * d_model)


def dimension_strength(resid: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
    """phi: size of every dimension in units of the state's root mean square."""
    wide = resid.float()
    return wide.abs() / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def sink_tokens(
    resid: Float[Tensor, "*place d_model"], dims: tuple[int, ...], tau: float | None = None
) -> Bool[Tensor, "*place"]:
    """Whether each state is a sink's: phi >= tau in one of `dims`. No dimensions, no sinks."""
    if not dims:
        return torch.zeros(resid.shape[:-1], dtype=torch.bool, device=resid.device)
    width = resid.shape[-1]
    wrong = [d for d in dims if not 0 <= d < width]
    if wrong:
        raise UsageError(f"sink dimension {wrong[0]} was given, but the model's states have {width} dimensions, from 0")
    limit = relative_threshold(width) if tau is None else tau
    return (dimension_strength(resid)[..., list(dims)] >= limit).any(-1)


@torch.no_grad()
def sink_dimensions(model: HookedModel, *, tau: float | None = None) -> SinkDimensions:
    """The dimensions that mark sinks in the main stack of a model; costs a forward pass of one token."""
    token = _first_token(model)
    numbers = model.layers()
    middle = numbers[len(numbers) // 4 : max(len(numbers) // 4 + 1, 3 * len(numbers) // 4)]
    record = Record("resid_pre")
    with model.unhooked(), model.hooks(record):
        model.hf(input_ids=torch.tensor([[token]], device=model.device))
    states = torch.stack([record.seen[layer][0][0, 0] for layer in middle])
    strength = dimension_strength(states).median(0).values.cpu()
    limit = relative_threshold(len(strength)) if tau is None else tau
    dims = tuple((strength >= limit).nonzero().flatten().tolist())
    return SinkDimensions(dims, strength, limit, middle, token)


def _first_token(model: HookedModel) -> int:
    """What prompts of this model begin with: its begin-of-text token, or the first token of a word where it has none."""
    if model.tokenizer is not None:
        ids = model.tokens("The").ids
        return ids[0]
    start = model.hf.config.get_text_config().bos_token_id
    return start if isinstance(start, int) else int(model.example["input_ids"][0, 0])
