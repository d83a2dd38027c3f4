"""The one model that all readers of the dashboard share, lent to one of them at a time."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboards.confined import folders_with
from dashboards.settings import Settings
from head_analysis.sinks import SinkDimensions, sink_dimensions
from headscope.errors import UsageError
from headscope.model import HookedModel
from headscope.zoo import zoo_names

_DEPTH = 2
_HUB_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class Loaded:
    """A model and what is worked out once for it. A hooked model is not safe for several threads, hence the lock."""

    model: HookedModel
    sinks: SinkDimensions
    lock: threading.RLock


def model_names(settings: Settings, of_runs: Sequence[str]) -> tuple[str, ...]:
    """Models that may be loaded: the zoo, those that runs were made on, and the folders below `--models`.

    A run cannot name a folder of this machine unless it lies below `--models`.
    """
    local = _folders(settings)
    named = {name for name in of_runs if _is_hub_id(name) or _below(settings, name)}
    return tuple(dict.fromkeys([*zoo_names(), *sorted(named), *local]))


def needs_consent(name: str) -> bool:
    """Whether loading may take long or fetch files, so that an address alone must not start it."""
    return name not in zoo_names()


def source_of(name: str, settings: Settings, of_runs: Sequence[str]) -> str:
    """What a model of `model_names` is loaded from; UsageError for any other name."""
    if name not in model_names(settings, of_runs):
        raise UsageError(
            f"{name!r} is not a model that this dashboard may load; make a run on it, or start the dashboard with "
            "--models and the folder that holds it"
        )
    return _folders(settings).get(name, name)


@contextmanager
def borrowed(name: str, settings: Settings, of_runs: Sequence[str]) -> Iterator[Loaded]:
    """The model, for this block alone; UsageError for a name that is not on the list of `model_names`.

    Code that comes with a model never runs, and weights are read from safetensors only.
    """
    loaded = _loaded(source_of(name, settings, of_runs))
    with loaded.lock:
        yield loaded


@st.cache_resource(max_entries=1, show_spinner="Loading the model")
def _loaded(source: str) -> Loaded:
    model = HookedModel.load(source)
    return Loaded(model, sink_dimensions(model), threading.RLock())


def _folders(settings: Settings) -> dict[str, str]:
    if settings.models is None:
        return {}
    names = folders_with(settings.models, "config.json", depth=_DEPTH)
    return {f"folder: {name}": str(settings.models / name) for name in names}


def _is_hub_id(name: str) -> bool:
    """Whether a name is that of a model on the hub, and not what would be taken for a folder of this machine."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def _below(settings: Settings, name: str) -> bool:
    if settings.models is None or not name:
        return False
    try:
        return Path(name).expanduser().resolve().is_relative_to(settings.models.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown user
        return False
