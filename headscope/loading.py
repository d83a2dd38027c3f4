"""Loads a transformers model and its processor from a folder, the hub, or the zoo that ships with headscope."""

import os
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PreTrainedModel

from headscope.costs import Cost, require_memory
from headscope.errors import UsageError
from headscope.zoo import zoo_folder

DeviceMap = str | dict[str, str | int]
"""`auto`, `balanced`, `sequential`, or the device of each named module, as transformers takes it."""


def load_pretrained(
    name_or_path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    device_map: DeviceMap | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Model in eval mode on `device`, or spread as `device_map` says; and its processor (a tokenizer for text), or None.

    Weights are read from safetensors only unless `allow_pickle`; code that comes with a model runs only with
    `trust_remote_code`. UsageError for a path, name, dtype or device that does not exist, for missing weights, and for a
    folder whose weights the device has no memory for.
    """
    source, kind = _source(str(name_or_path)), _dtype(dtype)
    if device_map is not None and device is not None:
        raise UsageError(f"device {device!r} and device_map {device_map!r} were both given; give one of them")
    place = _device(device)
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(source, **common)
        if device_map is None:
            _refuse_too_large(source, config, kind, place)
        hf, report = _auto_class(config).from_pretrained(
            source,
            config=config,
            dtype=kind,
            use_safetensors=None if allow_pickle else True,
            output_loading_info=True,
            **({} if device_map is None else {"device_map": device_map}),
            **common,
        )
    except (OSError, ValueError, KeyError, RuntimeError, AssertionError, SafetensorError) as error:
        raise UsageError(_explain(source, error, allow_pickle=allow_pickle)) from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # poolers feed no head
    if missing:
        raise UsageError(
            f"{source} lacks {len(missing)} weights that a {type(hf).__name__} has ({', '.join(missing[:3])}, ...); they "
            "would be random numbers, so it is refused: get the complete checkpoint, or fix `architectures` in its config"
        )
    hf.eval()
    try:
        hf = hf if device_map is not None else hf.to(place)
    except RuntimeError as error:
        raise UsageError(f"device {str(place)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return hf, _processor(source, common)


def _source(name: str) -> str:
    if name.startswith("zoo:"):
        return str(zoo_folder(name))
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep in name and not _is_hub_id(name))
    path = Path(name).expanduser()
    if path.exists():
        if path.is_dir() and not (path / "config.json").exists():
            raise UsageError(f"folder {name} holds no config.json; give the folder that save_pretrained wrote")
        return str(path)
    if looks_local:
        raise UsageError(
            f"there is no model folder {name}; give an existing folder, a hub id such as gpt2, or zoo:needle"
        )
    return name


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and all(part and not part.startswith(".") for part in name.split("/"))


def _auto_class(config: Any) -> Any:
    """The class named in the config; a bare backbone gets the causal language model where there is one."""
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if found is not None:
            return found
    for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM):
        if type(config) in auto._model_mapping:
            return auto
    return transformers.AutoModel


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"dtype {dtype!r} is not known; use auto, float32, bfloat16 or float16")
    return found


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)  # before gigabytes are read
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {str(device)!r} cannot be used ({reason}); use cpu, or cuda or cuda:N if there is one"
        ) from error
    return found


def _refuse_too_large(source: str, config: Any, dtype: str | torch.dtype, device: torch.device) -> None:
    """Before anything is read: the machine would swap for minutes, or the process be killed without a word."""
    size = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
    saved = getattr(config, "dtype", None)
    if isinstance(dtype, torch.dtype) and isinstance(saved, torch.dtype):
        size = size * dtype.itemsize // saved.itemsize
    require_memory(
        Cost(1.0, size), device, f"{source} is too large for it: take a smaller dtype, another device or model"
    )


_PROCESSOR_FILES = re.compile(r"token|vocab|merges|tekken|processor|\.model$")


def _processor(source: str, common: dict[str, Any]) -> Any:
    """The model's processor where it has one, else its tokenizer, else None (vision towers, models without text)."""
    if Path(source).is_dir() and not any(_PROCESSOR_FILES.search(file.name) for file in Path(source).iterdir()):
        return None  # transformers would make up a tokenizer that knows no words
    for auto in (AutoProcessor, AutoTokenizer):
        try:
            return auto.from_pretrained(source, **common)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
    return None


def _explain(source: str, error: Exception, *, allow_pickle: bool) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, SafetensorError):
        return f"{source} cannot be loaded: its safetensors file is damaged or cut short ({text}); get it again"
    if "safetensors" in text and not allow_pickle:
        return (
            f"{source} has no safetensors weights; convert them, or pass allow_pickle=True (pickle files can run code)"
        )
    if "ignore_mismatched_sizes" in text:
        return f"{source} cannot be loaded: its weights do not have the shapes that its config.json gives"
    if "trust_remote_code" in str(error):
        return (
            f"{source} needs code of its own to load; read that code, then pass trust_remote_code=True if you accept it"
        )
    return f"{source} cannot be loaded: {text}"
