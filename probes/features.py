"""Activations of many samples as features: one vector a sample and layer (or head), read while the model runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.hooks import Context, Region, Where
from headscope.model import HookedModel
from headscope.progress import progress_bar
from headscope.samples import Sample, Tokens, batches
from probes.places import Places, Position

FeatureSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"]

Place = Head | int
"""What is probed: a head, or a layer."""

_OF_PROMPTS = ("text", "encoder")


@dataclass(frozen=True, eq=False)
class Features:
    """What a model computes on samples at one site: layer -> one vector a sample, in float32 on the CPU.

    [sample d_model], at `z` [sample head d_head]; with position="all" [sample token ...], NaN behind a sample's last
    token.
    """

    values: Mapping[int, Float[Tensor, "sample ..."]]
    site: FeatureSite
    places: Places
    tokens: tuple[tuple[int, ...], ...]
    """Ids of the tokens that were read of each sample; none in a stack that reads no prompt, such as a vision tower."""
    shape: tuple[int, int]
    """Layers and heads of the stack."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.tokens)

    def by_layer(self) -> dict[Place, np.ndarray]:
        """[sample d], or [sample token d], of every layer; heads at `z` side by side."""
        return {
            layer: (values.flatten(-2) if self.site == "z" else values).numpy() for layer, values in self.values.items()
        }

    def by_head(self) -> dict[Place, np.ndarray]:
        """[sample d_head], or [sample token d_head], of every head; UsageError at a site without heads."""
        if self.site != "z":
            raise UsageError(f"features at {self.site!r} are not split by head; read them at site='z'")
        return {
            Head(layer, head): values[..., head, :].numpy()
            for layer, values in self.values.items()
            for head in range(values.shape[-2])
        }


@torch.no_grad()
def features(
    model: HookedModel,
    samples: Sequence[Sample | str],
    *,
    site: FeatureSite = "resid_post",
    position: Position = "last",
    mark: str | None = None,
    region: Region | None = None,
    layers: Iterable[int] | None = None,
    stack: str | None = None,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> Features:
    """Features of every sample, under the hooks in force; one forward pass.

    `position` is "last", "mean", "all" or a number, among the tokens of a `mark`, of a `region`, or of the whole prompt.
    Memory is layers x samples x width, whatever the length of the prompts, but for "all". UsageError for samples without
    a token there, and for stacks whose rows are no samples.
    """
    if site not in get_args(FeatureSite):
        raise UsageError(f"site {site!r} cannot be probed; use one of {', '.join(get_args(FeatureSite))}")
    samples = [Sample(sample) if isinstance(sample, str) else sample for sample in samples]
    if not samples:
        raise UsageError("features were asked of no samples; give at least one")
    places = Places(position, mark, region)
    where = Where(layers=None if layers is None else tuple(layers), stack=stack, region=region)
    few = {"last": 1} if "logits_to_keep" in model.forward_arguments else {}
    located = [model.tokens(sample) for sample in samples]
    named = (stack or model.main_stack) in _OF_PROMPTS
    found: dict[int, list[Any]] = {}
    ids: list[tuple[int, ...]] = [()] * len(samples)
    with progress_bar(len(samples), "features", shown=progress) as update:
        for numbers, _ in batches(located, lambda one: len(one.ids), batch_tokens):
            reader = _Reader(site, where, places, [located[number] for number in numbers], named)
            with model.hooks(reader):
                model.forward([samples[number] for number in numbers], **few)
            if not reader.found:
                raise UsageError(f"nothing was read at {site!r}: {where} names no layer, or no token of these samples")
            for layer, rows in reader.found.items():
                mine = found.setdefault(layer, [None] * len(samples))
                for number, row in zip(numbers, rows, strict=True):
                    mine[number] = row
            for number, read in zip(numbers, reader.ids, strict=True):
                ids[number] = read
            update(len(numbers))
    meta = {"model": model.name, "revision": model.revision, "stack": stack or model.main_stack}
    sites = model.sites_of(stack)
    shape = (max(one.layer for one in sites) + 1, max(one.n_heads for one in sites))
    return Features({layer: _stacked(found[layer]) for layer in sorted(found)}, site, places, tuple(ids), shape, meta)


def embeddings(model: HookedModel, read: Features, d: int, *, seed: int) -> np.ndarray:
    """What the tokens that were read say by themselves: their input embeddings, projected at random to `d` entries.

    Laid out as the features are. All tokens of an image have the one embedding of their placeholder. UsageError for
    features of a stack that reads no prompt.
    """
    if not all(read.tokens):
        raise UsageError(
            f"stack {read.meta.get('stack')!r} reads no tokens, so there are no embeddings to compare with"
        )
    table: Tensor = model.hf.get_input_embeddings().weight.detach().float().cpu()
    projection = torch.randn(table.shape[1], d, generator=torch.Generator().manual_seed(seed)) / table.shape[1] ** 0.5
    return _stacked([read.places.made(table[list(ids)] @ projection) for ids in read.tokens]).numpy()


@dataclass(frozen=True, eq=False)
class _Reader:
    """Keeps what is chosen of each activation and lets go of the rest."""

    site: FeatureSite
    where: Where
    places: Places
    samples: Sequence[Tokens]
    named: bool
    """Whether places in this stack are those of the prompt's tokens."""
    found: dict[int, list[Tensor]] = field(default_factory=dict)
    ids: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        """Reads the activation and hands it back."""
        if len(act) != len(self.samples) or ctx.layer in self.found:
            raise UsageError(
                f"stack {ctx.stack!r} does not read one row a sample ({len(act)} rows for {len(self.samples)} "
                "samples), so its features cannot be told apart; probe another stack"
            )
        first = not self.found
        rows = self.found[ctx.layer] = []
        for index, tokens in enumerate(self.samples):
            asked = ctx.positions[index] >= 0
            if ctx.active is not None:
                asked = asked & ctx.active[index].cpu()
            columns = asked.nonzero().flatten()
            chosen = columns[self.places.chosen(ctx.positions[index][columns], tokens)]
            rows.append(self.places.made(act[index, chosen.to(act.device)].float()).cpu())
            if first:
                spots = ctx.positions[index][chosen].tolist()
                self.ids.append(tuple(tokens.ids[spot] for spot in spots) if self.named else ())
        return act


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    """One tensor; rows of different numbers of tokens are filled up with NaN."""
    return pad_sequence(list(rows), batch_first=True, padding_value=float("nan"))
