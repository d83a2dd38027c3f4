"""A model that has learnt nothing: the baseline that tells what architecture and tokens alone let a probe read."""

import copy

import torch

from headscope.model import HookedModel


def untrained(model: HookedModel, *, seed: int = 0) -> HookedModel:
    """The same architecture with fresh weights, as its library draws them before training, and the same processor.

    Costs the memory of a second model. Zhang & Bowman 2018, arXiv 1809.10040, compare with such a model.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        hf = type(model.hf)(copy.deepcopy(model.hf.config))
    hf = hf.to(model.device, model.hf.dtype).eval()
    return HookedModel(hf, model.processor, name=f"{model.name}, untrained", example=model.example)
