"""Adapters: how hooks reach into the models of each library. Everything above sees `Doors` and nothing else."""

from typing import Any, Literal, get_args

from transformers import PreTrainedModel

from headscope.backends.doors import Doors, TorchDoors
from headscope.backends.transformer_lens import BridgeDoors, bridged, is_bridge
from headscope.errors import UsageError

BackendName = Literal["transformers", "transformer_lens", "nnsight"]
"""`transformers`: the model as it is, the fastest. `transformer_lens`: inside a TransformerBridge. `nnsight`: in traces."""


def opened(model: Any, processor: Any) -> tuple[Any, Any, Doors]:
    """The transformers model inside, its processor, and the ways into it; UsageError for an unknown kind of model."""
    if is_bridge(model):
        inner = getattr(model, "processor", None) or model.tokenizer
        return model.original_model, inner if processor is None else processor, BridgeDoors(model)
    return model, processor, TorchDoors()


def wrapped(hf: PreTrainedModel, processor: Any, name: str, backend: str) -> Any:
    """The loaded model as the library wants it; UsageError for an unknown backend."""
    if backend not in get_args(BackendName):
        raise UsageError(f"backend {backend!r} is not known; use one of {', '.join(get_args(BackendName))}")
    return bridged(hf, processor, name) if backend == "transformer_lens" else hf
