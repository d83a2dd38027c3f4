"""Small trained models that ship with headscope, so that everything can be tried without a network."""

from pathlib import Path

from headscope.errors import UsageError

_FOLDER = Path(__file__).parent


def zoo_names() -> tuple[str, ...]:
    """Names of the shipped models, as `HookedModel.load` takes them."""
    return tuple(sorted(f"zoo:{path.parent.name}" for path in _FOLDER.glob("*/config.json")))


def zoo_folder(name: str) -> Path:
    """Folder of a shipped model; UsageError names the models that exist."""
    if name not in zoo_names():
        raise UsageError(f"{name} is not in the zoo; it holds {', '.join(zoo_names()) or 'no model'}")
    return _FOLDER / name.removeprefix("zoo:")
