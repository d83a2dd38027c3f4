"""Adapters: how hooks reach into the models of each library. Everything above sees `Doors` and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor
from transformers import PreTrainedModel

from headscope.backends.doors import Doors, TorchDoors
from headscope.backends.nnsight import TraceDoors, around, is_traced, traced
from headscope.backends.transformer_lens import BridgeDoors, bridged, is_bridge
from headscope.errors import UsageError
from headscope.examples import example_inputs

BackendName = Literal["transformers", "transformer_lens", "nnsight"]
"""`transformers`: the model as it is, and fastest. `transformer_lens`: in a TransformerBridge. `nnsight`: in traces."""


@dataclass(frozen=True)
class Opened:
    """A model of any library as hooks need it."""

    hf: Any
    """The transformers model, or what stands for it."""
    processor: Any
    example: Mapping[str, Tensor]
    """Inputs that the model accepts."""
    doors: Doors
    sites: tuple[Any, ...] = ()
    """Its attention layers, where they had to be found in another way."""


def opened(model: Any, processor: Any, example: Mapping[str, Tensor] | None) -> Opened:
    """A transformers model, a TransformerBridge or an nnsight model; UsageError for anything else.

    The example is made up if it is not given.
    """
    if is_bridge(model):
        processor = processor or getattr(model, "processor", None) or model.tokenizer
        hf = model.original_model
        return Opened(hf, processor, example or example_inputs(hf, processor), BridgeDoors(model))
    if is_served(model):
        hf, example, sites = model.opened(example)
        return Opened(hf, model.processor, example, TraceDoors(hf), sites)
    if is_traced(model):
        processor = processor or getattr(model, "tokenizer", None)
        example = example or example_inputs(model._module, processor)
        hf = around(model, example)
        return Opened(hf, processor, example, TraceDoors(hf))
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"a {type(model).__name__} cannot be hooked; give a model of transformers, a TransformerBridge, or a "
            "TransformersModel of nnsight"
        )
    return Opened(model, processor, example or example_inputs(model, processor), TorchDoors())


def wrapped(hf: PreTrainedModel, processor: Any, name: str, backend: str) -> Any:
    """The loaded model as the library wants it; UsageError for an unknown backend."""
    if backend not in get_args(BackendName):
        raise UsageError(f"backend {backend!r} is not known; use one of {', '.join(get_args(BackendName))}")
    if backend == "transformer_lens":
        return bridged(hf, processor, name)
    return traced(hf, processor) if backend == "nnsight" else hf


def served(
    name: str,
    remote: bool | str,
    backend: str,
    load: Callable[[], tuple[PreTrainedModel, Any]],
    chosen: Sequence[str] = (),
    **options: Any,
) -> Any:
    """A model whose passes run where `remote` says; `load` is called for a dry run only, which needs weights here.

    `chosen` are settings of weights that a server has made already, `options` those of `described`. UsageError for such
    settings of a model on a server, for another backend than nnsight, for a place that does not exist, for
    a missing key, and for a model that does not generate text.
    """
    if backend != "nnsight":
        raise UsageError(f"remote={remote!r} needs backend='nnsight'; the models of {backend} run here only")
    from headscope.backends import remote as there  # brings nnsight along
    from headscope.backends.served import Served, described

    place = there.place_of(remote)
    if place.host is not None:
        if chosen:
            raise UsageError(f"{', '.join(chosen)} of {name} is up to the server that runs it; leave it out")
        return described(name, place, **options)
    hf, processor = load()
    if not hf.can_generate():
        raise UsageError(f"remote={remote!r} takes models that generate text, and {name} is a {type(hf).__name__}")
    return Served(traced(hf, processor), processor, place)


def is_served(model: object) -> bool:
    """Whether passes of the model run somewhere else; nnsight is not imported to find out."""
    return type(model).__module__ == "headscope.backends.served"
