"""Follows a model's forward passes: which tokens are padding, what is cached, which queries choose an answer token."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from headscope.hooks import Context

_SENSES = frozenset({"vision", "audio"})
_ENCODERS = frozenset({"encoder"}) | _SENSES
_OWN_SEQUENCE = _ENCODERS | {"decoder", "cross"}


class Flow:
    """State of the forward pass that is running; made by `hooks()` and gone with it."""

    def __init__(self, hf: nn.Module) -> None:
        self._signature = inspect.signature(hf.forward)
        self.takes = frozenset(self._signature.parameters)
        self._mask: Tensor | None = None
        self._decoder_mask: Tensor | None = None
        self._past = 0
        self._emit_from: Tensor | int | None = None
        self._length: Tensor | None = None
        self._known: dict[tuple, Context] = {}
        self._running = False

    def before_forward(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Pre-hook of the whole model: notes mask and cache of the pass that begins."""
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given = {**given.get("kwargs", {}), **given}
        self._running = True
        cache = given.get("past_key_values")
        self._past = int(cache.get_seq_length()) if cache is not None else 0
        self._mask = _flat(given.get("attention_mask"))
        self._decoder_mask = _flat(given.get("decoder_attention_mask"))
        self._known.clear()
        if self._past == 0:
            self._length = None

    def after_forward(self, *_: object) -> None:
        """Hook of the whole model: what was noted ends with the pass, also after an exception."""
        self._running, self._past, self._mask, self._decoder_mask = False, 0, None, None
        self._known.clear()

    def before_encoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Pre-hook of an encoder, which `generate` calls by itself: notes its mask."""
        if not self._running:
            self._mask = _flat(kwargs.get("attention_mask"))
            self._known.clear()

    @contextmanager
    def emitting(self, first_column: Tensor | int) -> Iterator[None]:
        """Inside, queries from this column on (counted with padding; one number, or one a sample) are `decode`."""
        before, self._emit_from = self._emit_from, first_column
        self._known.clear()
        try:
            yield
        finally:
            self._emit_from = before

    def context(self, stack: str, layer: int, heads: tuple[int, ...], shape: tuple[int, int, int]) -> Context:
        """The place of one attention call with `shape` = (batch, queries, keys), seen by all its queries and keys."""
        key = (stack if stack in _OWN_SEQUENCE else "", *shape)
        if key not in self._known:
            self._known[key] = self._place(stack, *shape)
        return replace(self._known[key], stack=stack, layer=layer, heads=heads)

    def _place(self, stack: str, batch: int, queries: int, keys: int) -> Context:
        encodes = stack in _ENCODERS
        past = 0 if encodes else self._past
        mask = None if stack in _SENSES else self._decoder_mask if stack in ("decoder", "cross") else self._mask
        if not past and keys > queries and stack != "cross" and mask is None:
            past = keys - queries  # called below the whole model, with a cache this object has not seen
        places = _places(mask, batch, past + queries)
        columns = torch.arange(past, past + queries)
        if self._emit_from is None or encodes:
            decode = torch.full((batch, queries), past > 0)
        else:
            decode = (columns >= torch.as_tensor(self._emit_from).reshape(-1, 1).cpu()).expand(batch, -1)
        length = places.max(1).values + 1
        if not encodes:
            if past and self._length is not None and len(self._length) == batch:
                length = self._length
            elif not past:
                self._length = length
        key_places = _places(self._mask, batch, keys) if stack == "cross" else _last(places, keys)
        return Context(stack, 0, (), places[:, past:], decode, length, key_positions=key_places)


def _last(places: Tensor, keys: int) -> Tensor:
    """Places of the keys a layer holds: the last ones (sliding window), or all and room for more (static cache)."""
    room = keys - places.shape[1]
    return places[:, -keys:] if room <= 0 else nn.functional.pad(places, (0, room), value=-1)


def _flat(mask: Any) -> Tensor | None:
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _places(mask: Tensor | None, batch: int, columns: int) -> Tensor:
    """Place of each column in its sample [batch column], -1 for padding."""
    if mask is None or mask.shape[1] != columns or batch % mask.shape[0]:
        return torch.arange(columns).expand(batch, -1)
    real = mask.bool().cpu()
    places = torch.where(real, real.long().cumsum(1) - 1, -1)
    return places.repeat_interleave(batch // mask.shape[0], 0)
