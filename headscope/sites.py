"""Finds a model's attention layers in two forward passes and proves what can be read and edited in each.

Nothing is taken from the config: heads and widths are the shapes that were seen, the output projection is the linear
layer that was fed the heads' outputs, and every layer's attention is recomputed from its inputs and compared with what
the layer itself returned. A layer whose attention cannot be reproduced is refused, not guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headscope.backends.doors import Doors, TorchDoors
from headscope.backends.transformers import AttentionCall
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import head_outputs, pattern_rows
from headscope.errors import UnsupportedModelError
from headscope.sublayers import Sublayers, sublayers

ROW_TOLERANCE = 2e-4
"""Largest relative difference between a layer's own output and rows times values, in float32, that counts as equal."""

HandsOver = Literal["inputs", "pattern"]


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer: where it is, its shapes, its output projection and how exactly it was reproduced."""

    name: str
    """Qualified name of the module that calls attention."""
    stack: str
    """"text", "vision", "encoder", "decoder", "cross", ..."""
    layer: int
    n_heads: int
    n_kv_heads: int
    d_qk: int
    d_head: int
    """Width of one head's output (of its values)."""
    calls: int
    """Attention calls in one forward; vision towers may call once per image or window."""
    rows_error: float
    """Largest difference between the layer's output and recomputed rows times values, relative to its largest entry."""
    projection: str | None
    """Qualified name of W_O; None if no linear layer takes the heads' outputs."""
    z_exact: bool
    """True if W_O's input is the heads' outputs unchanged; False if the model gates or normalises them in between."""
    block: str | None
    """Qualified name of the layer (attention, MLP and residual stream together) this attention belongs to."""
    mid: str | None
    """Qualified name of the module whose input is the stream before the MLP (`resid_mid`); None where no one module reads
    it, and for cross-attention, whose layers are those of another stack."""
    mlp: str | None
    """Qualified name of the module whose output the MLP adds to the stream (`mlp_out`); None as for `mid`."""
    parallel: bool
    """True if attention and MLP run side by side, so that no `resid_mid` exists."""
    hands_over: HandsOver = "inputs"
    """`inputs`: queries, keys and values before attention. `pattern`: the pattern, worked out by a library of its own, so
    that q, k and v cannot be edited there and hidden keys not be shown."""


def discover(hf: nn.Module, example: Mapping[str, Tensor], doors: Doors | None = None) -> tuple[AttentionSite, ...]:
    """Every attention layer that runs on `example`, by stack and layer; UnsupportedModelError if none can be hooked.

    Costs two forward passes of the example: one with all attention rows of one layer at a time, one for `sublayers`.
    """
    doors = doors or TorchDoors()
    watch = _Watch({module: name for name, module in hf.named_modules()})
    linear = [m for m in hf.modules() if isinstance(m, nn.Linear | Conv1D)]
    handles = [module.register_forward_pre_hook(watch.on_linear) for module in linear]
    try:
        with torch.no_grad(), doors.attention({module: _Place(watch, module) for module in watch.names}):
            hf(**example)
    finally:
        for handle in handles:
            handle.remove()
    if not watch.seen:
        raise UnsupportedModelError(
            f"{type(hf).__name__} never calls transformers' attention interface, so no head can be reached; models with "
            "attention code of their own (GPT-J, DeBERTa, ...) are not supported: use a model on the interface, such as "
            "Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX; Falcon and Bloom work with backend='transformer_lens'"
        )
    default = "vision" if getattr(hf, "main_input_name", "") == "pixel_values" else "text"
    seen = list(watch.seen.values())
    layers = {block: None for one in seen if not one.cross and (block := _block(one.name))}
    return _arrange(seen, default, sublayers(hf, example, layers))


@dataclass
class _Seen:
    """What the discovery forward has learnt of one module so far."""

    name: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    d_head: int
    cross: bool
    hands_over: HandsOver
    outputs: list[Tensor] = field(default_factory=list)
    calls: int = 0
    rows_error: float = 0.0
    projection: str | None = None
    z_exact: bool = False


class _Watch:
    """Follows one forward pass: attention calls, and the linear layers called after each."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names = names
        self.seen: dict[str, _Seen] = {}
        self._latest: _Seen | None = None

    def saw(self, module: nn.Module, x: AttentionInputs, error: Tensor, out: Tensor, hands_over: HandsOver) -> None:
        name = self.names[module]
        seen = self.seen.get(name)
        if seen is None:
            shapes = tuple(x.query.shape), tuple(x.key.shape)
            cross = bool(getattr(module, "is_cross_attention", False)) or x.key.shape[2] != x.query.shape[2]
            seen = _Seen(name, *shapes, d_head=out.shape[-1], cross=cross, hands_over=hands_over)
            self.seen[name] = seen
        seen.rows_error = max(seen.rows_error, error.item())
        seen.calls += 1
        seen.outputs.append(out)
        self._latest = seen

    def on_linear(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen = self._latest
        if seen is None or not args or not isinstance(args[0], Tensor):
            return
        given, width = args[0], seen.query[1] * seen.d_head
        if given.shape[-1] != width:
            return
        name = self.names[module]
        outputs = torch.cat([out.flatten(2) for out in seen.outputs], 1)
        if given.numel() == outputs.numel() and _equal(given, outputs, exactly=seen.hands_over == "inputs"):
            seen.projection, seen.z_exact = name, True
        elif name.startswith(seen.name + ".") and given.numel() == outputs.numel():
            seen.projection = name  # gated or normalised on the way; a later layer inside the module may still follow
            return
        else:
            return
        seen.outputs.clear()
        self._latest = None


@dataclass(frozen=True)
class _Place:
    """Stands at one module's attention."""

    watch: _Watch
    module: nn.Module

    def __call__(self, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        out, weights = call.fused()
        x = call.inputs()
        again = head_outputs(pattern_rows(x), x)
        self.watch.saw(self.module, x, _relative(again, out), out, "inputs")
        return out, weights

    def edit_pattern(self, x: AttentionInputs, pattern: Tensor) -> Tensor:
        # the outputs are still to come: rows are compared here, and outputs with what the projection gets
        self.watch.saw(self.module, x, _relative(pattern_rows(x), pattern), head_outputs(pattern, x), "pattern")
        return pattern


def _relative(again: Tensor, own: Tensor) -> Tensor:
    return (again - own).abs().max() / own.abs().max().clamp_min(1e-9)


def _equal(given: Tensor, outputs: Tensor, *, exactly: bool) -> bool:
    given, outputs = given.flatten(), outputs.flatten().to(given.dtype)
    return torch.equal(given, outputs) if exactly else _relative(outputs, given).item() <= ROW_TOLERANCE


def _arrange(seen: list[_Seen], default: str, found: Mapping[str, Sublayers]) -> tuple[AttentionSite, ...]:
    """Groups layers of one kind into stacks, numbers them, and names the stacks."""
    groups: dict[str, list[_Seen]] = {}
    for one in seen:
        template = re.sub(r"\d+", "*", one.name) + ("#cross" if one.cross else "")
        groups.setdefault(template, []).append(one)
    names = _stack_names(groups, default)
    sites = []
    for template, members in groups.items():
        for layer, one in _numbered(members):
            block = _block(one.name)
            parts = Sublayers() if one.cross or block is None else found.get(block, Sublayers())
            sites.append(
                AttentionSite(
                    name=one.name,
                    stack=names[template],
                    layer=layer,
                    n_heads=one.query[1],
                    n_kv_heads=one.key[1],
                    d_qk=one.query[3],
                    d_head=one.d_head,
                    calls=one.calls,
                    rows_error=one.rows_error,
                    projection=one.projection,
                    z_exact=one.z_exact,
                    block=block,
                    mid=parts.mid,
                    mlp=parts.mlp,
                    parallel=parts.parallel,
                    hands_over=one.hands_over,
                )
            )
    return tuple(sites)


def _numbered(members: list[_Seen]) -> list[tuple[int, _Seen]]:
    """Each layer's own number in the model, which may leave gaps (hybrid models); else the order of the calls."""
    numbers = [[int(part) for part in re.findall(r"(?<=\.)\d+(?=\.|$)", one.name)] for one in members]
    varying = [place for place in zip(*numbers, strict=True) if len(set(place)) > 1]
    if len(varying) == 1:
        return sorted(zip(varying[0], members, strict=True), key=lambda pair: pair[0])
    if not varying and numbers[0]:
        return [(numbers[0][0], members[0])]
    return list(enumerate(members))


def _block(name: str) -> str | None:
    """The module path up to the first number: an entry of a list of layers."""
    found = re.match(r"(.*?\.\d+)(?:\.|$)", name)
    return found.group(1) if found else None


_STACK_WORDS = (
    ("vision", r"vision|visual|image|vit\b"),
    ("audio", r"audio|speech"),
    ("cross", r"#cross"),
    ("decoder", r"(^|\.)decoder\.(block|layers)\."),
    ("encoder", r"(^|\.)encoder\.(block|layers)\."),
)


def _stack_names(groups: Mapping[str, list[_Seen]], default: str) -> dict[str, str]:
    """A short name for each group of layers; the module path itself where two groups would share a name."""
    both = any(".decoder." in f".{t}" for t in groups) and any(".encoder." in f".{t}" for t in groups)
    names: dict[str, str] = {}
    for template in groups:
        found = (word for word, form in _STACK_WORDS if re.search(form, template) and (both or word not in _PAIR))
        name = next(found, default)
        names[template] = name if name not in names.values() else template.replace("#cross", "")
    return names


_PAIR = frozenset({"encoder", "decoder"})
