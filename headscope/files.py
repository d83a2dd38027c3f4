"""Files that are either whole or absent: written under another name in the same folder, then moved into place."""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch

from headscope.errors import HeadscopeError, UsageError
from headscope.locks import if_free, in_use, is_in_use

_LONGEST = 200
_PART = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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


def clean(folder: Path) -> None:
    """Removes what killed processes were writing into the folder, and their locks; those of live ones stay."""
    for part in folder.glob(f".*{_PART}"):
        if not is_in_use(part):
            part.unlink(missing_ok=True)
    for lock in folder.glob(".*.lock"):
        with if_free(lock):  # a lock goes when its block ends
            continue


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turns a disk that is full into a HeadscopeError that says so and what is safe."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        left = shutil.disk_usage(next(folder for folder in path.parents if folder.is_dir())).free
        raise HeadscopeError(
            f"no room to write {path} ({error.strerror or error}; {left / 2**20:.1f} MiB are free there); it was not "
            "written, finished cells are kept: make room, and the same command with --resume goes on from there"
        ) from error


@contextmanager
def _aside(path: Path, write: Callable[[Path], None]) -> Iterator[Path]:
    aside = path.with_name(f".{secrets.token_hex(8)}{_PART}")
    try:
        with room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with in_use(aside):
                write(aside)
                _settle(aside)
                yield aside
    finally:
        aside.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Waits until the disk has the file, so that a name is never given to a file that a power cut leaves empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
