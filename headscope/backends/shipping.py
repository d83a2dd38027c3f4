"""Requests: a trace as bytes that a server can read which has nnsight, transformers and torch, and no headscope.

nnsight sends functions as their source and names modules of the model by their path. Added to that: classes and functions
of headscope travel by value and without annotations (the server need not know jaxtyping), and what only this side calls
stays here: the hooked model itself, and an operator's choosing before a pass.
"""

import inspect
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from cloudpickle.cloudpickle import (  # type: ignore[import-untyped]
    _PICKLE_BY_VALUE_MODULES,
    register_pickle_by_value,
    unregister_pickle_by_value,
)
from nnsight.intervention.serialization import DEFAULT_PROTOCOL, CustomCloudPickler, reduce_block
from nnsight.ndif import pull_env

from headscope.backends.findings import PACKAGES
from headscope.errors import UnsupportedModelError

_STAY = frozenset({"headscope.model", "headscope.bridge_hooks"})
"""Modules whose classes are known by name only on the server."""

_CALLED_HERE = ("prepared", "begin")
"""Methods by which an operator chooses its hooks, before a trace."""


def request(tracer: Any, model: Any) -> bytes:
    """The trace and all that its body refers to; UnsupportedModelError for a hook that holds the model itself."""
    pull_env()  # modules of the user's own travel by value too
    block = reduce_block(tracer.node, tracer.info.frame.f_globals, dict(tracer.info.frame.f_locals))
    with io.BytesIO() as file, _by_value():
        _Pickler(file, model).dump((tracer, block))
        return file.getvalue()


@contextmanager
def _by_value() -> Iterator[None]:
    """Inside, headscope's packages travel by value, as far as they are loaded."""
    chosen = [sys.modules[name] for name in PACKAGES if name in sys.modules and name not in _PICKLE_BY_VALUE_MODULES]
    for package in chosen:
        register_pickle_by_value(package)
    try:
        yield
    finally:
        for package in chosen:
            unregister_pickle_by_value(package)


class _Pickler(CustomCloudPickler):
    """nnsight's, with annotations and what stays here taken out."""

    def __init__(self, file: io.BytesIO, model: Any) -> None:
        super().__init__(file, protocol=DEFAULT_PROTOCOL)
        self._model = model

    def reducer_override(self, obj: Any) -> Any:
        """A class as this side may send it; what cannot travel is refused."""
        if type(obj).__module__ in _STAY or type(obj).__name__ == "TracedModel":
            raise UnsupportedModelError(
                "a hook keeps hold of the hooked model itself, which cannot be sent to a server; use it with a model "
                "that is loaded here"
            )
        processor = getattr(self._model, "processor", None)
        if processor is not None and obj is getattr(processor, "tokenizer", None):
            return getattr, (processor, "tokenizer")  # the server has it
        if not isinstance(obj, type):
            return super().reducer_override(obj)
        if obj.__module__.split(".")[0] == "jaxtyping":
            return getattr, (torch, "Tensor")
        if obj.__module__ in _STAY:
            return type, (obj.__name__, (), {})
        reduced = super().reducer_override(obj)
        return reduced if reduced is NotImplemented or len(reduced) < 3 else _as_new(reduced)

    def _dynamic_function_reduce(self, func: FunctionType) -> tuple:
        func = inspect.unwrap(func) if func.__module__.split(".")[0] in PACKAGES else func  # from checks of annotations
        before, func.__annotations__ = func.__annotations__, {}
        try:
            return super()._dynamic_function_reduce(func)
        finally:
            func.__annotations__ = before


def _as_new(reduced: tuple) -> tuple:
    """A class that is made anew where it arrives; a known one would have its methods replaced, in this process too."""
    make, args, (state, slots), *rest = reduced
    args = (*args[:-2], None, args[-1])  # without the id under which cloudpickle knows it
    dropped = {"__annotations__", *_CALLED_HERE}
    return make, args, ({name: one for name, one in state.items() if name not in dropped}, slots), *rest
