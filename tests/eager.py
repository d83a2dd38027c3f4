"""What transformers' own eager attention computes, read and edited without headscope: the reference of the tests.

Every modeling module looks its `eager_attention_forward` up by name at call time, so replacing that name for the length
of a `with` block shows each call, with its weights, and lets it answer otherwise.
"""

import copy
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import PreTrainedModel

Edit = Callable[[str, int, Tensor], Tensor]
"""`(module name, how many calls that module had before, weights [b, H, q, k]) -> weights`."""

_NAME = "eager_attention_forward"


def eager_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a new model which computes attention eagerly in every sub-model."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    return eager


def eager_patterns(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """The attention weights [b, H, q, k] of one forward, a list per attention module with an item per call.

    The columns are keys: where a model has attention sinks their column is left out, and rows sum to less than 1.
    """
    patterns = defaultdict(list)

    def keep(name: str, index: int, weights: Tensor) -> Tensor:
        patterns[name].append(weights.clone())
        return weights

    edited_eager(model, inputs, keep)
    return dict(patterns)


def edited_eager(model: PreTrainedModel, inputs: Mapping[str, Any], edit: Edit) -> Any:
    """The output of one forward, without gradients, under `editing_eager`."""
    with editing_eager(model, edit), torch.no_grad():
        return model(**inputs)


@contextmanager
def editing_eager(model: PreTrainedModel, edit: Edit) -> Iterator[None]:
    """While open, every attention call of `model` returns the edited weights times the values.

    Raises ValueError on leaving if no call was seen: the model is not eager, or not on the attention interface.
    """
    names = {module: name for name, module in model.named_modules()}
    calls: Counter[str] = Counter()

    def edited(original: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
        def attention(module, query, key, value, *args, **kwargs):
            output, weights = original(module, query, key, value, *args, **kwargs)
            if module not in names:  # another model ran meanwhile
                return output, weights
            name = names[module]
            weights = edit(name, calls[name], weights)
            calls[name] += 1
            return _mixed(weights, value), weights

        return attention

    namespaces = {sys.modules[type(module).__module__] for module in names}
    with ExitStack() as stack:
        for namespace in namespaces:
            if hasattr(namespace, _NAME):
                stack.enter_context(mock.patch.object(namespace, _NAME, edited(getattr(namespace, _NAME))))
        yield
    if not calls:
        raise ValueError(f"{type(model).__name__} made no call of {_NAME}; pass eager_copy(model), if it is supported")


def _mixed(weights: Tensor, value: Tensor) -> Tensor:
    """Values [b, Hkv, k, dv] mixed by weights [b, H, q, k] into [b, q, H, dv]."""
    groups = weights.shape[1] // value.shape[1]
    return (weights @ value.repeat_interleave(groups, dim=1)).transpose(1, 2).contiguous()
