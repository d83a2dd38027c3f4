"""TransformerLens: a `TransformerBridge` whose heads are read and edited through its own hook points.

A bridge takes a transformers model apart in place. In most families its attention is computed again by TransformerLens,
scores and pattern passing through `hook_attn_scores` and `hook_pattern`: there rows are read and edited at those points.
In others (OPT, BERT, T5, ViT, Qwen2.5-VL, ...) the bridge leaves attention to transformers and shows the pattern
afterwards, when an edit of it is discarded; there the attention function itself is reached, as without a bridge. Streams
and head outputs are reached at the modules inside the bridge, so that an edit of `resid_mid` moves the stream itself and
`z` has the heads that the output projection really receives.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headscope.backends.doors import AttentionHandler, TorchDoors
from headscope.backends.transformers import route_attention
from headscope.engine.inputs import AttentionInputs
from headscope.errors import UnsupportedModelError, UsageError


class BridgeDoors(TorchDoors):
    """Ways into the modules of a booted bridge."""

    name = "transformer_lens"

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge

    @contextmanager
    def attention(self, handlers: Mapping[nn.Module, AttentionHandler]) -> Iterator[None]:
        """At the hook points where the bridge computes attention, elsewhere through `route_attention`."""
        if getattr(self.bridge.cfg, "use_attn_result", False):
            raise UsageError(
                "the bridge is set to use_attn_result, which goes around the output projection, so that edits of z and "
                "attn_out would be lost; call bridge.set_use_attn_result(False) first"
            )
        with ExitStack() as stack:
            for module, handler in handlers.items():
                if works_out_pattern(module):
                    stack.enter_context(_at_hook_points(module, handler))
            stack.enter_context(route_attention({m: h for m, h in handlers.items() if not works_out_pattern(m)}))
            yield


def is_bridge(model: object) -> bool:
    """Whether a model is a TransformerBridge; TransformerLens is not imported to find out."""
    return any(kind.__module__.startswith("transformer_lens.") for kind in type(model).__mro__)


def bridged(hf: Any, processor: Any, name: str) -> Any:
    """A TransformerBridge around a loaded model, which it changes in place.

    UnsupportedModelError for architectures that TransformerLens has no adapter for.
    """
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "name_or_path", ""):
        raise UsageError(
            f"TransformerLens loads the tokenizer of a model anew, and that of {name} comes from no folder or hub id; "
            "save model and tokenizer to one folder and load that, or use backend='transformers'"
        )
    hf.config.architectures = [type(hf).__name__]
    try:
        with warnings.catch_warnings(), _with_processor(processor):
            warnings.simplefilter("ignore")  # of model registries and defaults, nothing a user could act on
            return TransformerBridge.boot_transformers(name, hf_model=hf, tokenizer=tokenizer, device=hf.device)
    except (ValueError, KeyError, NotImplementedError, AttributeError, RuntimeError, ImportError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "supported architecture" in reason:
            reason = "it has no adapter for this architecture"
        raise UnsupportedModelError(
            f"TransformerLens cannot wrap {name} ({type(hf).__name__}): {reason.rstrip('.')}; use "
            "backend='transformers', which needs no adapter"
        ) from error


def works_out_pattern(module: nn.Module) -> bool:
    """Whether this is attention of a bridge that computes the pattern itself, so that an edit at `hook_pattern` lands."""
    kind = _attention_bridge()
    if kind is None or not isinstance(module, kind):
        return False
    inside = getattr(getattr(module, "original_component", None), "accepts_pattern_fn", False)
    return bool(inside) or type(module).forward is not kind.forward


@contextmanager
def _with_processor(processor: Any) -> Iterator[None]:
    """While a bridge boots it is given this processor, and fetches none of its own.

    Where a processor does not load, TransformerLens would run pip in this environment, which can replace torch.
    """
    import transformer_lens.model_bridge.sources.transformers.source as source

    def give(bridge: Any, cfg: Any, model_name: str, trust_remote_code: bool, token: str | None) -> None:
        bridge.processor = processor

    before = source.load_modality_processor
    source.load_modality_processor = give
    try:
        yield
    finally:
        source.load_modality_processor = before


def _attention_bridge() -> Any:
    """The class of attention in bridges; None as long as nobody has imported it, so that there is no such module."""
    module = sys.modules.get("transformer_lens.model_bridge.generalized_components.attention")
    return None if module is None else module.AttentionBridge


@contextmanager
def _at_hook_points(module: Any, handler: AttentionHandler) -> Iterator[None]:
    """One attention layer of a bridge: values and scores are noted as they pass, and the pattern handed over."""
    seen = _Seen(module)

    def on_pattern(pattern: Tensor, hook: Any) -> Tensor | None:
        after = handler.edit_pattern(seen.inputs(pattern), pattern)
        seen.clear()
        return None if after is pattern else after

    with ExitStack() as stack:
        stack.callback(module.register_forward_pre_hook(seen.begin, with_kwargs=True).remove)
        for point, see, first in (
            (_values_point(module), seen.values, False),
            (module.hook_attn_scores, seen.scores, False),  # after hooks of the user's own, whose edits count
            (module.hook_pattern, on_pattern, True),  # before them, so that theirs land too
        ):
            stack.callback(point.add_hook(see, prepend=first).hook.remove)
        yield


def _values_point(module: Any) -> Any:
    values = getattr(module, "v", None)
    if values is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no hook point for the values of its heads, and its hook_z splits heads of "
            "multi-head latent attention in the wrong places; use backend='transformers' for this model"
        )
    return values.hook_out


class _Seen:
    """What one call of an attention layer has let pass so far."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._cached: Tensor | None = None
        self._values: Tensor | None = None
        self._scores: Tensor | None = None

    def clear(self) -> None:
        self._cached = self._values = self._scores = None

    def begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """The values that the cache holds before this call [batch kv_head key d_v]."""
        cache, layer = kwargs.get("past_key_values") or kwargs.get("layer_past"), self._module._layer_idx
        layers = getattr(cache, "layers", ())
        held = getattr(layers[layer], "values", None) if layer is not None and layer < len(layers) else None
        self._cached = held if isinstance(held, Tensor) and held.numel() else None

    def values(self, value: Tensor, hook: Any) -> None:
        self._values = value

    def scores(self, scores: Tensor, hook: Any) -> None:
        self._scores = scores

    def inputs(self, pattern: Tensor) -> AttentionInputs:
        """The call in the engine's form: nothing but a bias, since scores are all that is known."""
        if self._scores is None or self._values is None:
            raise UnsupportedModelError(
                f"{self._module.name} worked out a pattern without scores and values passing their hook points"
            )
        scores = self._scores.detach()
        visible = scores > torch.finfo(scores.dtype).min / 2
        value = self._values.unflatten(-1, (scores.shape[1], -1)) if self._values.ndim == 3 else self._values
        value = value.transpose(1, 2)
        batch, n_heads, n_queries, n_keys = scores.shape
        if self._cached is not None and self._cached.shape[2] == n_keys:
            value = self._cached  # of a static cache, which this call has written into
        elif self._cached is not None and value.shape[2] < n_keys:
            value = torch.cat([self._cached.to(value), value], 2)[:, :, -n_keys:]
        return AttentionInputs(
            query=scores.new_zeros(batch, n_heads, n_queries, 1),
            key=scores.new_zeros(batch, value.shape[1], n_keys, 1),
            value=value,
            scaling=1.0,
            mask=visible,
            bias=scores.masked_fill(~visible, 0.0),
            sinks=getattr(self._module.original_component, "sinks", None),
        )
