"""Follows a model's forward passes: padding, what is cached, image tokens, which queries choose an answer token."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from headscope.hooks import Context

_SENSES = frozenset({"vision", "audio"})
_ENCODERS = frozenset({"encoder"}) | _SENSES
_OWN_SEQUENCE = _ENCODERS | {"decoder", "cross"}


class Asked(NamedTuple):
    """Which queries a hook asks for."""

    active: Bool[Tensor, "batch query"]
    columns: Int[Tensor, " column"]
    """Those that some sample asks for."""
    everything: bool


class Flow:
    """State of the forward pass that is running; made by `hooks()` and gone with it."""

    def __init__(self, hf: nn.Module) -> None:
        self._signature = _names_only(inspect.signature(hf.forward))
        self.takes = frozenset(self._signature.parameters)
        self._image_tokens = image_tokens(getattr(hf, "config", None))
        self._mask: Tensor | None = None
        self._real: Tensor | None = None  # that of the pass before, which a static cache's masks leave out
        self._decoder_mask: Tensor | None = None
        self._past = 0
        self._emit_from: Tensor | int | None = None
        self._length: Tensor | None = None
        self._known: dict[tuple, Context] = {}
        self._asked: dict[tuple[int, int], Asked] = {}
        self._running = False
        self._paused = False
        self._image: Tensor | None = None

    @property
    def past(self) -> int:
        """Tokens that the running pass finds in its cache."""
        return self._past

    @property
    def is_paused(self) -> bool:
        """Whether the pass that runs is none of those followed."""
        return self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, passes of the model are not followed: one that runs in the middle of another."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def arguments(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a forward call by name."""
        given = self._signature.bind_partial(*args, **kwargs).arguments
        return {**given.pop("kwargs", {}), **given}

    def image_columns(self, inputs: Mapping[str, Any]) -> Bool[Tensor, "batch column"] | None:
        """Which tokens of a call's `input_ids` stand for a part of an image; None if the model or the call has none."""
        ids = inputs.get("input_ids")
        if ids is None or not self._image_tokens:
            return None
        return torch.isin(ids, torch.tensor(self._image_tokens, device=ids.device)).cpu()

    def before_forward(self, module: nn.Module | None, args: tuple, kwargs: dict[str, Any]) -> None:
        """Pre-hook of the whole model: notes mask and cache of the pass that begins."""
        if self._paused:
            return
        given = self.arguments(args, kwargs)
        self._running = True
        cache = given.get("past_key_values")
        self._past = int(cache.get_seq_length()) if cache is not None else 0
        self._real = _real_columns(given.get("attention_mask"), self._real, self._past)
        self._mask = self._real
        self._decoder_mask = _flat(given.get("decoder_attention_mask"))
        self._forget()
        if self._past == 0:
            self._length = None
        self._image = self._image_so_far(self.image_columns(given), given.get("inputs_embeds"))

    def _image_so_far(self, image: Tensor | None, embeds: Tensor | None) -> Tensor | None:
        """Image tokens in the cache and in this pass; None if those of the cache are not known."""
        if self._past == 0:
            return image
        if image is None and embeds is not None:  # what is added to a cache as embeddings is text
            image = torch.zeros(embeds.shape[:2], dtype=torch.bool)
        before = self._image
        if image is None or before is None or before.shape != (len(image), self._past):
            return None
        return torch.cat([before, image], 1)

    def after_forward(self, *_: object) -> None:
        """Hook of the whole model: what was noted ends with the pass, also after an exception."""
        if self._paused:
            return
        self._running, self._past, self._mask, self._decoder_mask = False, 0, None, None
        self._forget()

    def before_encoder(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Pre-hook of an encoder, which `generate` calls by itself: notes its mask."""
        if not self._running and not self._paused:
            self._mask = _flat(kwargs.get("attention_mask"))
            self._forget()

    @contextmanager
    def emitting(self, first_column: Tensor | int) -> Iterator[None]:
        """Inside, queries from this column on (counted with padding; one number, or one a sample) are `decode`."""
        before, self._emit_from = self._emit_from, first_column
        self._forget()
        try:
            yield
        finally:
            self._emit_from = before

    def _forget(self) -> None:
        self._known.clear()
        self._asked.clear()

    def asked(self, hook: Any, ctx: Context) -> "Asked":
        """The queries that a hook asks for at a place; worked out once a pass, and not in every layer."""
        key = (id(hook), id(ctx.positions))  # the positions of one place are one tensor as long as it is known
        if key not in self._asked:
            active = hook.where.active(ctx)
            self._asked[key] = Asked(active, active.any(0).nonzero().flatten(), bool(active.all()))
        return self._asked[key]

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
        if not past and keys > queries and stack != "cross" and mask is None and not self._running:
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
        key_places = _places(self._mask, batch, keys) if stack == "cross" else _last(places, keys, -1)
        place = Context(stack, 0, (), places[:, past:], decode, length, key_positions=key_places)
        image = None if stack in _OWN_SEQUENCE else self._image
        if image is None or image.shape != places.shape:
            return place
        end = torch.where(image, places + 1, 0).max(1).values
        return replace(place, image=image[:, past:], image_keys=_last(image, keys, False), image_end=end)


def _names_only(signature: inspect.Signature) -> inspect.Signature:
    """Without defaults and annotations, which need not exist where a copy of the flow follows a model."""
    empty = inspect.Parameter.empty
    return inspect.Signature([one.replace(default=empty, annotation=empty) for one in signature.parameters.values()])


def image_tokens(config: Any) -> tuple[int, ...]:
    """Token ids that stand for a part of an image or video in a model's prompt; empty for a model without any."""
    found = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
    return tuple(token for token in found if isinstance(token, int))


def _last(columns: Tensor, keys: int, fill: int | bool) -> Tensor:
    """Of the keys a layer holds: the last ones (sliding window), or all and room for more (static cache)."""
    room = keys - columns.shape[1]
    return columns[:, -keys:] if room <= 0 else nn.functional.pad(columns, (0, room), value=fill)


def _flat(mask: Any) -> Tensor | None:
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _real_columns(mask: Any, before: Tensor | None, past: int) -> Tensor | None:
    """Which columns hold a token [batch column], from a mask of one or of two axes of tokens; None if it does not tell.

    With a static cache, `generate` hands over masks that are made already [batch 1 query key], one for each kind of
    layer. In the prompt's, every token is seen by itself at least; later ones may show a window's columns only, and
    what is added then is no padding.
    """
    if isinstance(mask, Mapping):
        mask = next((one for one in mask.values() if isinstance(one, Tensor)), None)
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return _flat(mask)
    if not past:
        return (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any(1).any(1)
    if before is None or before.shape[1] < past or len(before) != len(mask):
        return None
    return nn.functional.pad(before[:, :past].bool(), (0, mask.shape[2]), value=True)


def _places(mask: Tensor | None, batch: int, columns: int) -> Tensor:
    """Place of each column in its sample [batch column], -1 for padding."""
    if mask is not None and mask.shape[1] > columns and not mask[:, columns:].any():
        mask = mask[:, :columns]  # the rest is room in a static cache
    if mask is None or mask.shape[1] != columns or batch % mask.shape[0]:
        return torch.arange(columns).expand(batch, -1)
    real = mask.bool().cpu()
    places = torch.where(real, real.long().cumsum(1) - 1, -1)
    return places.repeat_interleave(batch // mask.shape[0], 0)
