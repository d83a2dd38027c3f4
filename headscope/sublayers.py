"""Finds where the residual stream passes between a layer's attention and its MLP, by the numbers of one forward pass.

A layer `x -> x + attention -> + MLP` returns a sum of two tensors: the state that a module inside it reads (as a rule
the norm before the MLP), and what another module returns (the MLP, or the norm after it). That sum is what is looked
for; names say nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import permutations

import torch
from torch import Tensor, nn

_WRAPPED = "_original_component"
"""The name under which bridges of TransformerLens keep the module they stand for."""

_ROUNDING = 4
"""Units in the last place by which a sum may differ from its parts."""


@dataclass(frozen=True)
class Sublayers:
    """What was found in one layer."""

    mid: str | None = None
    """Qualified name of the module whose input is the state between attention and MLP, and which alone reads it."""
    mlp: str | None = None
    """Qualified name of the module whose output is what the MLP adds to that state."""
    parallel: bool = False
    """True if attention and MLP both start from the layer's input, so that no state lies between them."""


def sublayers(hf: nn.Module, example: Mapping[str, Tensor], blocks: Collection[str]) -> dict[str, Sublayers]:
    """What was found in each of `blocks` (qualified names of layers) that runs on `example`.

    Costs one forward pass, and the activations of one layer at a time.
    """
    layers = {name: _Layer(name) for name in blocks}
    with ExitStack() as stack, torch.no_grad():
        for name, layer in layers.items():
            block = hf.get_submodule(name)
            known: set[nn.Module] = set()  # bridges of TransformerLens hold the same module under several names
            for inner, module in [(name, block), *_inside(name, block, depth=2)]:
                if module in known:
                    continue
                known.add(module)
                begin, end = partial(layer.begin, inner), partial(layer.end, inner)
                stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(end).remove)
        hf(**example)
    return {name: layer.found for name, layer in layers.items() if layer.found is not None}


def _inside(name: str, module: nn.Module, depth: int) -> Iterator[tuple[str, nn.Module]]:
    """Modules inside, this many levels down; a list of modules is no level of its own, nor is what a wrapper wraps."""
    for key, child in module.named_children():
        inner = f"{name}.{key}"
        yield inner, child
        left = depth - (key != _WRAPPED and not isinstance(child, nn.ModuleList))
        if left:
            yield from _inside(inner, child, left)


@dataclass
class _Call:
    """One call of a module; tensors that cannot be the stream's are left out."""

    name: str
    given: Tensor | None
    returned: Tensor | None = None
    ended: int = 0
    """How many calls had begun when this one ended."""


class _Layer:
    """Follows the calls inside one layer, and reads them when the layer is called for the first time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: Sublayers | None = None
        self._calls: list[_Call] = []
        self._open: list[_Call] = []

    def begin(self, name: str, module: nn.Module, args: tuple, kwargs: Mapping[str, object]) -> None:
        if self.found is None and (self._calls or name == self.name):
            given = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            call = _Call(name, self._kept(given))
            self._calls.append(call)
            self._open.append(call)

    def end(self, name: str, module: nn.Module, args: tuple, output: object) -> None:
        if not self._open:
            return
        call = self._open.pop()
        call.returned, call.ended = self._kept(output), len(self._calls)
        if name == self.name:
            self.found = _read(*self._calls)
            self._calls.clear()

    def _kept(self, value: object) -> Tensor | None:
        """A copy in the shape of the layer's input; OPT flattens batch and tokens on the way."""
        value = value[0] if isinstance(value, tuple) and value else value
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        like = self._calls[0].given if self._calls else value
        if like is None or value.shape[-1:] != like.shape[-1:] or value.numel() != like.numel():
            return None
        return value.detach().clone().reshape(like.shape)


def _read(block: _Call, *calls: _Call) -> Sublayers:
    pre, post = block.given, block.returned
    if pre is None or post is None:
        return Sublayers()
    times = Counter(call.name for call in calls)
    for added in calls:
        if added.returned is None or times[added.name] > 1:
            continue
        readers = [call for call in calls[: added.ended - 1] if _reads_mid(call, pre, added.returned, post)]
        if readers:
            first = readers[0].name
            alone = times[first] == 1 and all(f"{call.name}.".startswith(f"{first}.") for call in readers)
            return Sublayers(first if alone else None, added.name)
    return Sublayers(parallel=_side_by_side(pre, post, calls))


def _reads_mid(call: _Call, pre: Tensor, added: Tensor, post: Tensor) -> bool:
    """Whether `post` is the call's input and `added`, and the stream does not itself run through the call (as in T5)."""
    if call.given is None or _same(call.given, pre) or not _is_sum(post, call.given, added):
        return False
    return call.returned is None or not (_same(call.returned, post) or _same(call.returned, call.given))


def _side_by_side(pre: Tensor, post: Tensor, calls: tuple[_Call, ...]) -> bool:
    """Whether two outputs and `pre` sum to `post`, and the second came from an input that the first had no part in."""
    for one, two in permutations(calls, 2):
        if one.returned is None or two.returned is None or not _is_sum(post, pre, one.returned, two.returned):
            continue
        starts = [pre] if one.given is None else [pre, one.given]
        later = [call.given for call in calls[one.ended - 1 :] if call.given is not None]
        if any(_same(given, start) for given in later for start in starts):
            return True
    return False


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a == b).all())


def _is_sum(total: Tensor, *parts: Tensor) -> bool:
    """Whether `total` is the sum of `parts` up to rounding, place by place."""
    error = (torch.stack(parts).sum(0) - total).abs()
    room = _ROUNDING * torch.finfo(total.dtype).eps * torch.stack(parts).abs().sum(0)
    return bool((error <= room).all())
