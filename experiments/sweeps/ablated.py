"""Logits of a batch of prompts without some heads, for many sets of heads: exact, and shared as far as they can be.

One clean pass serves all sets. A head is taken out of its layer's attention output through W_O, and only what comes after
is computed again (`headscope.partial`), for as many sets and prompts at a time as make about a thousand tokens. Where all
prompts begin alike, that beginning is computed once for a set, not once for a prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from experiments.sweeps.units import Unit
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import head_outputs
from headscope.hooks import Context, Where
from headscope.model import HookedModel
from headscope.partial import CleanPass, Resumable
from interventions import Ablate, HeadOutputs
from interventions.ablate import Mode

ROW_TOKENS = 1024
"""Tokens of a micro-batch. More is slower on a CPU (caches), less wastes calls."""


@dataclass(frozen=True)
class Ablation:
    """What removed means for all sets of a sweep."""

    mode: Mode = "zero"
    reference: HeadOutputs | None = field(default=None, repr=False)
    seed: int = 0

    def of(self, heads: Sequence[Any]) -> Ablate:
        """The intervention that removes these heads."""
        return Ablate(heads, self.mode, reference=self.reference, seed=self.seed)


def removed(
    model: HookedModel, ablation: Ablation, z: Tensor, ctx: Context, uniform: Mapping[int, Tensor]
) -> Float[Tensor, "row column head d_head"]:
    """What all heads of a layer hand over when removed; `uniform` is what `UniformOutputs` found in the same pass."""
    if ablation.mode == "uniform":
        return uniform[ctx.layer].to(z)
    return ablation.of([head for head in model.heads() if head.layer == ctx.layer])(z, ctx).to(z)


class Ablator:
    """Runs sets of heads on batches of prompts; UnsupportedModelError if the model's passes cannot be shared."""

    def __init__(self, model: HookedModel, ablation: Ablation) -> None:
        self.model, self.ablation = model, ablation
        self.resumable = Resumable(model)

    def logits(
        self, inputs: Mapping[str, Tensor], units: Sequence[Unit], *, wanted: int
    ) -> Iterator[tuple[Unit | None, Float[Tensor, "prompt wanted vocab"]]]:
        """Logits of the last `wanted` columns: first those of the whole model (None), then without each unit."""
        prefix = shared_prefix(inputs, wanted, even=self._counts_columns) if self.resumable.only_attention else 0
        run = _Whole(self, inputs, wanted) if prefix == 0 else _Shared(self, inputs, wanted, prefix)
        yield None, run.clean.logits
        layers = sorted({unit.first for unit in units})
        for layer in layers:
            yield from run.without(layer, [unit for unit in units if unit.first == layer])

    @property
    def _counts_columns(self) -> bool:
        """Sliding windows reach back over columns, so padding between two parts of a prompt would shorten them."""
        return getattr(self.model.hf.config.get_text_config(), "sliding_window", None) is not None

    @torch.no_grad()
    def attentions(self, clean: CleanPass, uniform: Mapping[int, Tensor], layer: int, units: Sequence[Unit]) -> Tensor:
        """The layer's attention output without each unit's heads [unit row column d_model]."""
        z = clean.z[layer]
        replaced = removed(self.model, self.ablation, z, clean.contexts[layer], uniform)
        weights, bias = self.model.output_weights(layer), self.model.output_bias(layer)
        found = []
        for unit in units:
            mine = [head.head for head in unit.heads if head.layer == layer]
            if len(mine) == len(
                weights
            ):  # as a sum of its own: what rounding leaves of a difference, a norm would blow up
                whole = torch.einsum("rchd,hdm->rcm", replaced, weights)
                found.append(whole if bias is None else whole + bias)
            else:
                apart = (replaced - z)[:, :, mine]
                found.append(clean.attention[layer] + torch.einsum("rchd,hdm->rcm", apart, weights[mine]))
        return torch.stack(found)

    def later(self, layer: int, unit: Unit) -> list[Ablate]:
        """Interventions for the unit's heads in layers above."""
        rest = [head for head in unit.heads if head.layer > layer]
        return [self.ablation.of(rest)] if rest else []

    def clean(
        self, inputs: Mapping[str, Tensor], wanted: int, cache: DynamicCache | None = None
    ) -> tuple[CleanPass, dict[int, Tensor]]:
        """A clean pass, and every head's output under uniform attention if that is what removed means."""
        reader = UniformOutputs()
        with self.model.hooks(*([reader] if self.ablation.mode == "uniform" else [])):
            return self.resumable.clean(inputs, wanted=wanted, cache=cache), reader.outputs


class _Whole:
    """Prompts without a common beginning worth the name."""

    def __init__(self, ablator: Ablator, inputs: Mapping[str, Tensor], wanted: int) -> None:
        self.ablator, self.inputs, self.wanted = ablator, inputs, wanted
        self.clean, self.uniform = ablator.clean(inputs, wanted)

    def without(self, layer: int, units: Sequence[Unit]) -> Iterator[tuple[Unit, Tensor]]:
        rows, columns = self.inputs["input_ids"].shape
        at_once = max(1, ROW_TOKENS // (rows * columns))
        for together in _together(units, layer, at_once):
            attention = self.ablator.attentions(self.clean, self.uniform, layer, together)
            parts = []
            for part in torch.arange(rows).split(max(1, ROW_TOKENS // columns)):
                parts.append(self._run(layer, together, attention[:, part], part))
            yield from zip(together, torch.cat(parts, 1), strict=True)

    def _run(self, layer: int, units: Sequence[Unit], attention: Tensor, part: Tensor) -> Tensor:
        inputs = {name: value[part].repeat(len(units), 1) for name, value in self.inputs.items()}
        with self.ablator.model.hooks(*self.ablator.later(layer, units[0])):
            logits = self.ablator.resumable.resumed(
                layer,
                self.clean.pre[layer][part].repeat(len(units), 1, 1),
                attention.flatten(0, 1),
                inputs,
                wanted=self.wanted,
            )
        return logits.unflatten(0, (len(units), -1))


class _Shared:
    """Prompts that begin alike: the beginning is one row of its own, whose keys and values the rest attends to."""

    def __init__(self, ablator: Ablator, inputs: Mapping[str, Tensor], wanted: int, prefix: int) -> None:
        self.ablator, self.wanted = ablator, wanted
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        start = [int(row.int().argmax()) for row in mask]
        head = ids[0, start[0] : start[0] + prefix].unsqueeze(0)
        self.head = {"input_ids": head, "attention_mask": torch.ones_like(head)}
        self.prefix = prefix
        # What is left of each prompt, padded on the left between the beginning and itself.
        tails = [row[begin + prefix :] for row, begin in zip(ids, start, strict=True)]
        width = max(map(len, tails))
        tail = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in tails])
        real = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in tails]).to(mask)
        self.tail = {"input_ids": tail, "attention_mask": torch.cat([real.new_ones(len(tail), prefix), real], 1)}
        self.cache = DynamicCache()
        self.start, self.start_uniform = ablator.clean(self.head, 1, self.cache)
        self.clean, self.uniform = ablator.clean(self.tail, wanted, _after(self.cache))

    def without(self, layer: int, units: Sequence[Unit]) -> Iterator[tuple[Unit, Tensor]]:
        columns = self.tail["input_ids"].shape[1]
        for together in _together(units, layer, max(1, ROW_TOKENS // self.prefix)):
            caches = self._beginnings(layer, together)
            for some in torch.arange(len(together)).split(max(1, ROW_TOKENS // (columns * len(self.clean.logits)))):
                yield from self._endings(layer, [together[i] for i in some], caches, some)

    def _beginnings(self, layer: int, units: Sequence[Unit]) -> DynamicCache:
        """Keys and values of the beginning, without each unit: a row a unit, in the layers above."""
        attention = self.ablator.attentions(self.start, self.start_uniform, layer, units)[:, 0]
        cache = DynamicCache()
        with self.ablator.model.hooks(*self.ablator.later(layer, units[0])):
            self.ablator.resumable.resumed(
                layer,
                self.start.pre[layer].expand(len(units), -1, -1),
                attention,
                {name: value.expand(len(units), -1) for name, value in self.head.items()},
                wanted=1,
                cache=cache,
            )
        return cache

    def _endings(
        self, layer: int, units: Sequence[Unit], beginnings: DynamicCache, which: Tensor
    ) -> Iterator[tuple[Unit, Tensor]]:
        attention = self.ablator.attentions(self.clean, self.uniform, layer, units)
        rows = len(self.clean.logits)
        parts = []
        for part in torch.arange(rows).split(max(1, ROW_TOKENS // self.tail["input_ids"].shape[1])):
            cache = _after(self.cache, beginnings, which)
            with self.ablator.model.hooks(*self.ablator.later(layer, units[0])):
                logits = self.ablator.resumable.resumed(
                    layer,
                    self.clean.pre[layer][part].repeat(len(units), 1, 1),
                    attention[:, part].flatten(0, 1),
                    {name: value[part].repeat(len(units), 1) for name, value in self.tail.items()},
                    wanted=self.wanted,
                    cache=cache,
                )
            parts.append(logits.unflatten(0, (len(units), -1)))
        yield from zip(units, torch.cat(parts, 1), strict=True)


@dataclass(frozen=True)
class UniformOutputs:
    """z of every head, were its attention spread evenly over what each query may see."""

    outputs: dict[int, Tensor] = field(default_factory=dict)
    where: ClassVar[Where] = Where()

    @torch.no_grad()
    def read(self, x: AttentionInputs, ctx: Context) -> None:
        """Called at every layer's attention."""
        parts = []
        for block in torch.arange(x.query.shape[2]).split(max(1, 2**22 // (len(x.query) * x.n_heads * x.n_keys))):
            visible = x.visible(block).expand(-1, x.n_heads, -1, -1).float()
            parts.append(head_outputs(visible / visible.sum(-1, keepdim=True).clamp_min(1), x))
        self.outputs[ctx.layer] = torch.cat(parts, 1).to(x.value.dtype)


def shared_prefix(inputs: Mapping[str, Tensor], wanted: int, *, even: bool = False) -> int:
    """Tokens with which all prompts begin, if sharing them saves a fourth of the work or more; else 0.

    `even`: only for prompts of one length.
    """
    mask = inputs["attention_mask"]
    rows = [ids[real.bool()] for ids, real in zip(inputs["input_ids"], mask, strict=True)]
    shortest = min(map(len, rows))
    if even and any(len(row) > shortest for row in rows):
        return 0
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    common = min(int(same.int().cumprod(0).sum()), shortest - wanted)
    total = sum(map(len, rows))
    return common if common > 0 and (len(rows) - 1) * common >= 0.25 * total else 0


def _together(units: Sequence[Unit], layer: int, at_once: int) -> Iterator[list[Unit]]:
    """Units that may share a call: those without heads above, `at_once` of them; each other one by itself."""
    plain = [unit for unit in units if all(head.layer == layer for head in unit.heads)]
    for i in range(0, len(plain), at_once):
        yield plain[i : i + at_once]
    yield from ([unit] for unit in units if unit not in plain)


def _held(cache: DynamicCache, number: int) -> tuple[Tensor, Tensor] | None:
    """Keys and values of one layer; None where the cache has none."""
    layer = cache.layers[number] if number < len(cache.layers) else None
    if not isinstance(layer, DynamicLayer) or not layer.is_initialized or layer.keys is None or layer.values is None:
        return None
    return layer.keys, layer.values


class _Behind(DynamicLayer):
    """Keys and values that stand before those of several rows each; what is added is handed over and not kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values of the rows."""
        assert self.keys is not None  # given at the beginning
        assert self.values is not None
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(before: Tensor, added: Tensor) -> Tensor:
    """What is added in equal numbers of rows to each row before it, in one copy."""
    added = added.unflatten(0, (len(before), -1))
    before = before.unsqueeze(1).expand(-1, added.shape[1], -1, -1, -1)
    return torch.cat([before, added], -2).flatten(0, 1)


def _after(clean: DynamicCache, above: DynamicCache | None = None, units: Tensor | slice = slice(0)) -> DynamicCache:
    """A cache to go on from: keys and values of these units in layers where `above` has some, clean ones elsewhere."""
    found = DynamicCache()
    for number in range(len(clean.layers)):
        same, changed = _held(clean, number), None if above is None else _held(above, number)
        if changed is not None:
            found.layers.append(_Behind(changed[0][units], changed[1][units]))
        else:
            found.layers.append(DynamicLayer() if same is None else _Behind(*same))
    return found
