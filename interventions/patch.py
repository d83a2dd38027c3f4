"""Puts activations of one run in the place of those of another: activation patching (Wang et al. 2022).

arXiv 2211.00593. What is put in is frozen beforehand (`activations`) and aligned by sample and by place in the sample,
so the two runs must be of prompts with as many tokens each. A clean run's activations put into a corrupted run restore
an answer (denoising); those of a corrupted run put into a clean one destroy it (noising). Prompt tokens only, in
prefill and decode alike: what is generated is never patched. Rows of a patched pattern are rows of the other run, so
they sum to one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from headscope.bridge_hooks import ForBridges
from headscope.errors import UsageError
from headscope.heads import Head, parse_heads
from headscope.hooks import HEAD_SITES, INPUT_SITES, Context, Site, Where
from headscope.model import HookedModel
from headscope.samples import Sample

_BY_HEAD = HEAD_SITES | INPUT_SITES


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of some samples at one site, padded on the right: layer -> [sample place ...].

    [sample place head d_head] at `z`, `q`, `k`, `v`, [sample place head key] at `pattern`, else [sample place d_model].
    """

    site: Site
    layers: Mapping[int, Float[Tensor, "sample place ..."]]
    lengths: Int[Tensor, " sample"]
    """Tokens of each sample."""
    stack: str | None = None


def activations(
    model: HookedModel,
    samples: Sequence[Sample | str],
    site: Site,
    *,
    layers: Iterable[int] | None = None,
    stack: str | None = None,
    batch_tokens: int = 8192,
) -> Activations:
    """What the model computes at a site on these samples, under the hooks in force; one forward pass.

    Memory is that of the activations; at `pattern` it is n x n for every head.
    """
    if site in ("mask", "scores"):
        raise UsageError(f"site {site!r} cannot be patched; patch 'pattern', which follows from it")
    asked = None if layers is None else tuple(layers)
    records = model.record(samples, site, where=Where(layers=asked, stack=stack), batch_tokens=batch_tokens)
    numbers = [layer for layer in model.layers(stack) if asked is None or layer in asked]
    return aligned(site, numbers, records, stack=stack)


def aligned(
    site: Site, layers: Sequence[int], records: Sequence[Float[Tensor, "layer ..."]], *, stack: str | None = None
) -> Activations:
    """Activations of samples that were recorded one by one, as `HookedModel.record` returns them."""
    if site == "pattern":
        longest = max(one.shape[-1] for one in records)
        records = [pad(one, (0, longest - one.shape[-1])).transpose(1, 2) for one in records]
    lengths = torch.tensor([one.shape[1] for one in records])
    padded = pad_sequence([one.transpose(0, 1) for one in records], batch_first=True)  # [sample place layer ...]
    return Activations(site, {layer: padded[:, :, i] for i, layer in enumerate(layers)}, lengths, stack)


@dataclass(frozen=True)
class Patch(ForBridges):
    """The activations in `source` instead of the run's own; row i of a batch gets those of sample i.

    `heads` (`"L2H5, L3H0"`) and `layers` narrow it, and so do `positions`: places in the prompt, negative ones from
    its end, the same for all samples or one tuple a sample. At `k` and `v` a head stands for all that share its keys.
    Samples must come as `HookedModel.forward` takes them, in the order of `source`. UsageError for heads at a site
    without heads, for layers that `source` lacks, and where a batch is not that of `source` in number or length.
    """

    source: Activations = field(repr=False)
    heads: tuple[Head, ...] | None = None
    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None
    _chosen: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __init__(
        self,
        source: Activations,
        heads: "str | Iterable[Head | str | tuple[int, int]] | None" = None,
        *,
        layers: Iterable[int] | None = None,
        positions: Sequence[int] | Sequence[Sequence[int]] | None = None,
    ) -> None:
        chosen = None if heads is None else parse_heads(heads)
        places = None if positions is None else tuple(p if isinstance(p, int) else tuple(p) for p in positions)
        values = (source, chosen, None if layers is None else tuple(layers), places)
        for name, value in zip(("source", "heads", "layers", "positions"), values, strict=True):
            object.__setattr__(self, name, value)
        self._validate()
        object.__setattr__(self, "_chosen", self._by_sample())

    def _validate(self) -> None:
        if self.heads is not None and self.source.site not in _BY_HEAD:
            raise UsageError(
                f"site {self.source.site!r} is not split by head, so {', '.join(map(str, self.heads))} cannot be "
                "patched there; name layers instead, or patch 'z'"
            )
        asked = {head.layer for head in self.heads or ()} | set(self.layers or ())
        if missing := sorted(asked - set(self.source.layers)):
            raise UsageError(
                f"the source holds no activations of layers {missing}; make one that does with activations(model, ...)"
            )

    @property
    def site(self) -> Site:
        """The site of the source."""
        return self.source.site

    @property
    def where(self) -> Where:
        """The heads, layers and positions; those of all samples together where samples differ."""
        layers = tuple(self.source.layers) if self.layers is None else self.layers
        positions = self.positions
        if self._chosen is not None:
            positions = tuple(self._chosen.any(0).nonzero().flatten().tolist())
        return Where(self.heads, layers, positions=positions, stack=self.source.stack)  # type: ignore[arg-type]

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """The source's activations at prompt places, the run's own elsewhere."""
        self._check(act, ctx)
        bank = self.source.layers[ctx.layer]
        sample = torch.arange(len(act))[:, None]
        places = ctx.positions.clamp(0, bank.shape[1] - 1)
        put = bank[sample, places]
        if self.site in _BY_HEAD:
            put = put[:, :, list(ctx.heads)]
        inside = (ctx.positions >= 0) & (ctx.positions < self.source.lengths[:, None])
        if self._chosen is not None:
            inside &= self._chosen[sample, places]
        inside = inside.reshape(*inside.shape, *[1] * (put.ndim - 2)).to(act.device)
        if self.site == "pattern":
            put, inside = _at_keys(put, ctx).transpose(1, 2), inside.transpose(1, 2)
        return torch.where(inside, put.to(act), act)

    def _check(self, act: Tensor, ctx: Context) -> None:
        lengths = self.source.lengths
        if len(act) != len(lengths):
            raise UsageError(
                f"the source holds {len(lengths)} samples and the batch {len(act)}; run exactly those samples, in order"
            )
        for i in (ctx.length.cpu() != lengths).nonzero().flatten().tolist():
            raise UsageError(
                f"sample {i} has {int(ctx.length[i])} tokens and its source {int(lengths[i])}; patching needs prompts "
                "that match token by token, in the order in which they run (record and generate take the longest first)"
            )

    def _by_sample(self) -> Bool[Tensor, "sample place"] | None:
        """Which places are asked for, where samples differ."""
        by_sample = [places for places in self.positions or () if isinstance(places, tuple)]
        if not by_sample:
            return None
        lengths = self.source.lengths.tolist()
        if len(by_sample) != len(lengths):
            raise UsageError(f"positions are given for {len(by_sample)} samples; the source has {len(lengths)}")
        chosen = torch.zeros(len(lengths), max(lengths), dtype=torch.bool)
        for i, (places, length) in enumerate(zip(by_sample, lengths, strict=True)):
            for place in places:
                if not -length <= place < length:
                    raise UsageError(f"position {place} was given for sample {i}, which has {length} tokens")
                chosen[i, place % length] = True
        return chosen


def _at_keys(rows: Float[Tensor, "sample row head place"], ctx: Context) -> Float[Tensor, "sample row head key"]:
    """Rows over places as rows over the keys of this call; 0 for padding."""
    keys = ctx.key_positions
    index = keys.clamp(0, rows.shape[-1] - 1)[:, None, None].expand(*rows.shape[:3], -1).to(rows.device)
    return rows.gather(-1, index) * (keys >= 0)[:, None, None].to(rows.device)
