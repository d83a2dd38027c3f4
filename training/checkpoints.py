"""What a run needs to be stopped and taken up again: weights, optimizer state, recipe and progress in one file."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

P = TypeVar("P")


def save_checkpoint(work: Path, recipe: Any, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Any) -> None:
    """One safetensors file with everything, moved into place in one step."""
    tensors = {f"model.{name}": value for name, value in model.named_parameters()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    meta = {"recipe": json.dumps(asdict(recipe)), "progress": json.dumps(asdict(progress))}
    work.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, work / "next.safetensors", metadata=meta)
    (work / "next.safetensors").replace(work / "checkpoint.safetensors")


def load_progress(work: Path, recipe: Any, kind: type[P]) -> P:
    """How far the run in `work` got, or a fresh start; a checkpoint of another recipe is refused."""
    path = work / "checkpoint.safetensors"
    if not path.exists():
        return kind()
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    if json.loads(meta["recipe"]) != json.loads(json.dumps(asdict(recipe))):
        raise ValueError(f"{path} was written by another recipe; choose another --work folder or remove it")
    return kind(**json.loads(meta["progress"]))


def load_weights(work: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Restores the model and, if given, the optimizer it was trained with; nothing where there is no checkpoint."""
    path = work / "checkpoint.safetensors"
    if not path.exists():
        return
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    if optimizer is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, index, *rest = key.split(".")
        if kind == "optimizer":
            state.setdefault(int(index), {})[rest[0]] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
