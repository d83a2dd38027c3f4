"""Models whose passes run somewhere else, as hooks need them: with weights here for a dry run, or without any."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnsight import TransformersModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig

from headscope.backends.doors import TorchDoors
from headscope.backends.narrow import found_on_copy
from headscope.backends.nnsight import TracedModel, order_of
from headscope.backends.remote import Place, model_key
from headscope.errors import UsageError
from headscope.examples import example_inputs
from headscope.flow import image_tokens
from headscope.sites import AttentionSite, discover
from headscope.zoo import zoo_folder


@dataclass(frozen=True)
class Served:
    """A model of nnsight, and where its passes run."""

    model: Any
    processor: Any
    place: Place

    def opened(
        self, example: Mapping[str, Tensor] | None
    ) -> tuple[TracedModel, Mapping[str, Tensor], tuple[AttentionSite, ...]]:
        """The model as hooks need it, inputs that it takes, and its attention layers."""
        module = self.model._module
        if self.place.host is None:
            example = example or example_inputs(module, self.processor)
            return self._traced(module, example), example, discover(module, example, TorchDoors())

        def inputs(made: Any) -> Mapping[str, Tensor]:
            return example or example_inputs(made, self.processor)

        made, example, sites = found_on_copy(module, inputs)
        return self._traced(made, example), example, sites

    def _traced(self, runs: Any, example: Mapping[str, Tensor]) -> TracedModel:
        return TracedModel(self.model, order_of(runs, example), self.place)


def described(name: str, place: Place, *, revision: str | None, trust_remote_code: bool) -> Served:
    """A model on a server, of which only config and processor are read here; UsageError for a name that is not known."""
    source = str(zoo_folder(name)) if name.startswith("zoo:") else name
    if place.official and Path(source).is_dir():
        raise UsageError(
            f"remote=True asks NDIF, which knows models by their names on the hub, and {name} is a folder here; give "
            "such a name, the address of a server of your own, or remote='local'"
        )
    trusted = {"trust_remote_code": True} if trust_remote_code else {}
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, **trusted)
        sees = bool(image_tokens(config)) and type(config) in AutoModelForImageTextToText._model_mapping
        task = "image-text-to-text" if sees else "text-generation"
        processor = (AutoProcessor if sees else AutoTokenizer).from_pretrained(source, revision=revision, **trusted)
        given = {"processor": processor} if sees else {"tokenizer": processor}
        model = TransformersModel(source, task=task, revision=revision, **given, **trusted)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"config and tokenizer of {name} cannot be read ({str(error).strip().splitlines()[0]}); give a hub id such "
            "as openai-community/gpt2"
        ) from error
    module = model._module.eval()
    try:
        module.generation_config = GenerationConfig.from_pretrained(source, revision=revision or "main")
    except OSError:  # the model has none of its own
        module.generation_config = GenerationConfig.from_model_config(config)
    model_key(model)  # before anything is asked of it
    return Served(model, processor, place)
