"""Names that come from an address or a file, turned into folders that cannot lie anywhere else."""

import os
from pathlib import Path

from headscope.errors import UsageError

_SEPARATORS = frozenset("/\\\0")


def folder_in(root: Path, name: str) -> Path:
    """The folder called `name` directly inside `root`.

    UsageError for separators, for names that begin with a dot, and where the folder, or anything directly inside it, in
    its `cells` or its `tensors`, is a link to what lies outside `root`.
    """
    if not name or name.startswith(".") or _SEPARATORS & set(name):
        raise UsageError(
            f"{name!r} is not the name of a folder inside {root}; choose one from the list, without separators or dots "
            "in front"
        )
    path, inside = root / name, root.resolve()
    if path.resolve().parent != inside:
        raise UsageError(f"{name!r} leads out of {root}; move the folder itself there")
    for folder in (path, path / "cells", path / "tensors"):
        _refuse_links(folder, inside)
    return path


def folders_with(root: Path, file: str, *, depth: int = 1) -> tuple[str, ...]:
    """Folders below `root` that hold this file, as paths from `root`, sorted; links out of `root` are left out."""
    inside = root.resolve()
    found = (path.parent for level in range(1, depth + 1) for path in root.glob("/".join(["*"] * level) + f"/{file}"))
    return tuple(sorted(path.relative_to(root).as_posix() for path in found if path.resolve().is_relative_to(inside)))


def _refuse_links(folder: Path, inside: Path) -> None:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        links = [entry.path for entry in entries if entry.is_symlink()]
    for link in links:
        if not Path(link).resolve().is_relative_to(inside):
            raise UsageError(f"{link} is a link to a file outside {inside}; replace it by the file itself")
