"""Gets hold of every attention call of a transformers model.

All models on `AttentionInterface` look their attention function up by name in one process-wide registry. While a route
is open, each registered function is wrapped: a module with a handler goes to it, every other module straight to the
function that stood there before. No config changes, so models that test the implementation's name behave as always.
"eager" is not in the registry but is honoured once added; its entry calls the model's own `eager_attention_forward`.
The last route to close puts the registry back, also after an exception and in whatever order routes close.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from headscope.engine.inputs import AttentionInputs
from headscope.errors import UnsupportedModelError, UsageError


@dataclass(frozen=True)
class AttentionCall:
    """One call of a model's attention function: its arguments and the function itself."""

    function: Callable[..., tuple[Tensor, Tensor | None]]
    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]

    def fused(self) -> tuple[Tensor, Tensor | None]:
        """What the model's own function returns: head outputs [batch query head d_v], and weights or None."""
        return self.function(self.module, self.query, self.key, self.value, self.mask, **self.options)

    def inputs(self) -> AttentionInputs:
        """The tensors of the call in the engine's form."""
        options = self.options
        scaling = options.get("scaling")
        causal = options.get("is_causal")
        if causal is None:
            causal = getattr(self.module, "is_causal", True)
        mask = self.mask
        if mask is not None and mask.ndim != 4:
            raise UnsupportedModelError(
                f"{type(self.module).__name__} passes an attention mask of shape {tuple(mask.shape)}, as flash kernels "
                "take it; load the model with attn_implementation='sdpa' or 'eager'"
            )
        return AttentionInputs(
            query=self.query,
            key=self.key,
            value=self.value,
            scaling=self.query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            mask=mask,
            causal=bool(causal) and mask is None and self.query.shape[2] > 1,
            bias=options.get("position_bias"),
            softcap=options.get("softcap"),
            sinks=options.get("s_aux"),
        )


Handler = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]


@contextmanager
def route_attention(handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Sends the attention calls of these modules to their handlers until the block ends."""
    _ROUTER.open(handlers)
    try:
        yield
    finally:
        _ROUTER.close(handlers)


class _Router:
    """The one piece of process-wide state, because the registry it wraps is process-wide."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Mapping[nn.Module, Handler]] = []
        self._replaced: dict[str, Callable | None] = {}

    def open(self, handlers: Mapping[nn.Module, Handler]) -> None:
        with self._lock:
            if any(module in held for held in self._open for module in handlers):
                raise UsageError(
                    "this model's attention is hooked already, through another HookedModel of the same transformers "
                    "model, whose edits would be lost; use one HookedModel for both, or close the first block before"
                )
            if not self._open:
                self._install()
            self._open = [*self._open, handlers]

    def close(self, handlers: Mapping[nn.Module, Handler]) -> None:
        with self._lock:
            self._open = [held for held in self._open if held is not handlers]
            if not self._open:
                self._restore()

    def _install(self) -> None:
        registry = AttentionInterface._global_mapping
        for name in (*registry, "eager"):
            before = registry.get(name)
            self._replaced[name] = before
            registry[name] = self._wrap(before or _eager)

    def _restore(self) -> None:
        registry = AttentionInterface._global_mapping
        for name, before in self._replaced.items():
            if before is None:
                registry.pop(name, None)
            else:
                registry[name] = before
        self._replaced = {}

    def _wrap(self, function: Callable) -> Callable:
        def attention(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None = None,
            **options: Any,
        ) -> tuple[Tensor, Tensor | None]:
            for handlers in reversed(self._open):
                handler = handlers.get(module)
                if handler is not None:
                    return handler(AttentionCall(function, module, query, key, value, attention_mask, options))
            return function(module, query, key, value, attention_mask, **options)

        return attention


def _eager(module: nn.Module, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """The eager function of the file that defines the module's class, which is what the model would have called."""
    for base in type(module).__mro__:
        function = getattr(sys.modules[base.__module__], "eager_attention_forward", None)
        if function is not None:
            return function(module, *args, **options)
    raise RuntimeError(f"{type(module).__name__} has no eager_attention_forward beside it; load the model with 'sdpa'")


_ROUTER = _Router()
