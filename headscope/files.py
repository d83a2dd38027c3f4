"""Files that are either whole or absent: written under another name in the same folder, then moved into place."""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch

from headscope.errors import UsageError

_LONGEST = 200


def write_new(path: Path, write: Callable[[Path], None]) -> None:
    """A new file at `path`, made by `write`; UsageError if something is there, which is left as it was."""
    taken = UsageError(f"{path} exists and results are never overwritten; give another name, or move it away first")
    if path.exists():
        raise taken
    with _aside(path, write) as written:
        try:
            _place(written, path)
        except FileExistsError:
            raise taken from None


def write_over(path: Path, write: Callable[[Path], None]) -> None:
    """The file at `path` made anew by `write`; a reader sees the old one or the new one, never half of one."""
    with _aside(path, write) as written:
        os.replace(written, path)


def json_text(value: Mapping[str, Any], name: str) -> str:
    """A mapping as JSON text; UsageError names the first entry that JSON cannot hold, such as NaN."""
    for key, entry in value.items():
        try:
            json.dumps({key: entry}, default=_plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{name}[{key!r}] cannot be written as JSON ({error}); use finite numbers, text, lists and mappings"
            ) from error
    return json.dumps(dict(value), default=_plain, allow_nan=False, ensure_ascii=False, indent=2)


def file_name(name: str, ending: str) -> str:
    """A name as the name of a file, odd characters written as %XX; UsageError if it would leave its folder."""
    if not name or re.search(r"[/\\\0]|^\.+$", name) or ".." in name:
        raise UsageError(
            f"{name!r} cannot name a file inside a run; leave out separators and '..', and do not leave it empty"
        )
    safe = quote(name, safe=" =,+@()[]")
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    if len(safe) > _LONGEST:
        raise UsageError(f"the name {name[:40]!r}... takes {len(safe)} characters; use at most {_LONGEST}")
    return safe + ending


def names_in(folder: Path, ending: str) -> tuple[str, ...]:
    """The names whose files with this ending are in the folder, sorted; undoes `file_name`."""
    return tuple(sorted(unquote(path.name.removesuffix(ending)) for path in folder.glob(f"*{ending}")))


@contextmanager
def _aside(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        write(aside)
        yield aside
    finally:
        aside.unlink(missing_ok=True)


def _place(written: Path, path: Path) -> None:
    try:
        os.link(written, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system: claim the name first, so that two writers cannot both have it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.replace(written, path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath | torch.dtype | torch.device):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a number, text, list or mapping")
