"""Interventions: what is edited or read, where, and what an edit is told about the place.

Reading and writing are one mechanism. An intervention is called with an activation and returns it, the same object if it
only looked, a new tensor if it edits. `Record` is the intervention that changes nothing and keeps what it sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headscope.engine.inputs import AttentionInputs
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads

Site = Literal[
    "resid_pre", "resid_mid", "resid_post", "q", "k", "v", "mask", "scores", "pattern", "z", "attn_out", "mlp_out"
]
"""`q` [batch query head d_qk], `k` [batch key kv_head d_qk], `v` [batch key kv_head d_v]: what attention is computed
of, after rotary embedding; see `INPUT_SITES`. `mask` [batch head query key], bool: which keys each query may see.
`scores`, of the same shape: what the softmax is taken of, biases and caps included; hidden keys have scores too, but
only an edit of the mask can show them. `pattern`, of the same shape: attention after the softmax. `z` [batch query
head d_head]: what each head hands to the output projection W_O. All others are [batch query d_model]. `attn_out`: the
output of W_O, the sum of the heads' contributions and its bias; some models still normalise or scale it before it
joins the residual stream. `mlp_out`: what the MLP adds to the stream, after any such norm. `resid_pre`, `resid_mid`,
`resid_post`: the stream before the layer, before its MLP, and after the layer; an edit of it holds for all that
follows. `resid_mid` and `mlp_out` exist where a layer adds attention and MLP to the stream one after the other, and
are refused elsewhere (GPT-NeoX, BERT)."""

ROW_SITES: frozenset[Site] = frozenset({"mask", "scores", "pattern"})
"""Sites with an axis of keys; edits at them are made in this order, whatever the order of the interventions."""

HEAD_SITES: frozenset[Site] = ROW_SITES | {"z"}

KEY_SITES: frozenset[Site] = frozenset({"k", "v"})
"""Sites with one place for each key. Heads that share keys (grouped-query attention) share the edit: a head that is named
stands for its whole group, and the activation has an entry for each group. Keys in a cache are shown again in every pass
and the cache itself is never changed, so an edit holds for all that follows; a phase cannot be told and is refused."""

INPUT_SITES: frozenset[Site] = KEY_SITES | {"q"}
"""Sites before attention; edits at them come before all others of the layer, and readers and rows see what they leave."""

Phase = Literal["prefill", "decode"]
"""`decode` is every query whose logits choose a generated token; in `HookedModel.generate` that begins with the last
prompt token, wherever it is computed. `prefill` is every other query."""

Region = Literal["image", "text", "after_image"]
"""`image`: tokens that stand for a part of an image. `text`: all others. `after_image`: text behind the sample's last
image token, generated text included; a sample without an image has none."""


@dataclass(frozen=True)
class Where:
    """Which layers, heads and queries an intervention touches; `None` means all of them.

    `positions` are places in the prompt, padding not counted; negative ones count from its end. `stack` names a part of
    the model with attention of its own ("text", "vision", ...); None is the model's main stack. `region` needs a model
    with image tokens.
    """

    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None
    phase: Phase | None = None
    positions: tuple[int, ...] | None = None
    stack: str | None = None
    region: Region | None = None

    def __post_init__(self) -> None:
        if self.heads is not None:
            object.__setattr__(self, "heads", parse_heads(self.heads))
        if self.phase is not None and self.phase not in get_args(Phase):
            raise UsageError(f"phase {self.phase!r} is not known; use 'prefill', 'decode' or None for both")
        if self.region is not None and self.region not in get_args(Region):
            raise UsageError(f"region {self.region!r} is not known; use one of {', '.join(get_args(Region))} or None")

    def heads_at(self, layer: int, n_heads: int) -> tuple[int, ...]:
        """Indices of the heads touched in this layer."""
        if self.layers is not None and layer not in self.layers:
            return ()
        if self.heads is None:
            return tuple(range(n_heads))
        return tuple(sorted(head.head for head in self.heads if head.layer == layer))

    def active(self, ctx: "Context") -> Bool[Tensor, "batch query"]:
        """Which queries of each sample are touched; padding never is."""
        active = ctx.positions >= 0
        if self.phase is not None:
            active = active & (ctx.decode if self.phase == "decode" else ~ctx.decode)
        if self.positions is not None:
            wanted = torch.zeros_like(active)
            for position in self.positions:
                place = ctx.length.unsqueeze(1) + position if position < 0 else position
                wanted |= ctx.positions == place
            active = active & wanted
        return active if self.region is None else active & ctx.in_region(self.region)


@dataclass(frozen=True)
class Context:
    """Where an activation comes from. The query axes below are those of the activation an intervention is handed."""

    stack: str
    layer: int
    heads: tuple[int, ...]
    positions: Int[Tensor, "batch query"]
    """Place of each query in its sample, padding not counted; -1 for padding."""
    decode: Bool[Tensor, "batch query"]
    """True for queries whose logits choose a generated token."""
    length: Int[Tensor, " batch"]
    """Number of tokens of each sample's prompt, padding not counted."""
    key_positions: Int[Tensor, "batch key"]
    """Place of each key in its sample; -1 for padding. At sites without keys these are the queries."""
    visible: Bool[Tensor, "batch heads query key"] | None = None
    """Which keys each query may see; head axis of length 1 where heads agree. Only at sites with keys."""
    active: Bool[Tensor, "batch query"] | None = None
    """Queries the intervention asked for; what it returns for others is dropped."""
    image: Bool[Tensor, "batch query"] | None = None
    """Queries that are image tokens; None where the model's call did not tell (token ids are needed)."""
    image_keys: Bool[Tensor, "batch key"] | None = None
    """Keys that are image tokens."""
    image_end: Int[Tensor, " batch"] | None = None
    """Place after each sample's last image token; 0 without one."""

    def in_region(self, region: Region) -> Bool[Tensor, "batch query"]:
        """Queries in a region; UsageError where image tokens are not known."""
        if self.image is None or self.image_end is None:
            raise UsageError(
                f"the image tokens of this pass are not known, so region {region!r} cannot be found: call the model with "
                "input_ids (not inputs_embeds), and begin with the prompt"
            )
        if region == "image":
            return self.image
        if region == "text":
            return ~self.image
        end = self.image_end.unsqueeze(1)
        return ~self.image & (end > 0) & (self.positions >= end)

    def at(self, columns: Int[Tensor, " column"] | slice, heads: Sequence[int], **changes: Any) -> "Context":
        """The same place seen by fewer queries and heads."""
        return replace(
            self,
            positions=self.positions[:, columns],
            decode=self.decode[:, columns],
            image=None if self.image is None else self.image[:, columns],
            heads=tuple(heads),
            **changes,
        )


@runtime_checkable
class Intervention(Protocol):
    """A frozen value that edits (or only reads) activations at one site."""

    @property
    def site(self) -> Site:
        """Where in a layer it acts."""

    @property
    def where(self) -> Where:
        """Which layers, heads and queries it touches."""

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """A new tensor of the same shape and dtype, or `act` itself for no change."""


@runtime_checkable
class Reader(Protocol):
    """Sees queries, keys, values and mask of a layer before attention; for statistics that need no n x n pattern."""

    @property
    def where(self) -> Where:
        """Which layers it reads."""

    def read(self, x: AttentionInputs, ctx: Context) -> Tensor | None:
        """Called once for every attention call of a layer it asked for.

        A reader that works out the head outputs [batch query head d_v] on its way hands them back, in the dtype of the
        queries: the layer's own kernel is then not called.
        """


@dataclass(frozen=True)
class Record:
    """The intervention that changes nothing: keeps what it sees in `seen`, layer -> one tensor a call.

    A pattern asked for at many queries arrives in several blocks of rows, one tensor a block. Memory is what was asked
    for: a pattern at every query is n x n.
    """

    site: Site
    where: Where = Where()
    seen: dict[int, list[Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Keeps the activation and hands it back."""
        self.seen.setdefault(ctx.layer, []).append(act.detach())
        return act
