"""Locks between processes, on files: the system lets go of them when their holder ends, however it ends.

They are those of flock(2), which Linux and macOS have, over NFS too. Where there are none (Windows, some network file
systems) everybody is let through: two processes may then do the same work twice, and of two updates of run.json at the
same instant one may be lost; no finished cell ever is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until nobody else is in a block of this path; the file is there for as long as the block runs."""
    held = None
    while held is None:
        held = _try(path, wait=True)
    try:
        yield
    finally:
        _let_go(path, held)


@contextmanager
def if_free(path: Path) -> Iterator[bool]:
    """True, and nobody else gets in meanwhile; or False at once, where somebody is in."""
    held = _try(path, wait=False)
    try:
        yield held is not None
    finally:
        if held is not None:
            _let_go(path, held)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Makes a file and holds it, so that `is_in_use` tells it from what a killed process left."""
    if fcntl is None:  # there an open file could not be moved into place
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _flock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def is_in_use(path: Path) -> bool:
    """Whether some process holds the file; True where that cannot be told."""
    if fcntl is None:
        return True
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _try(path: Path, *, wait: bool) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Whoever held the lock before may have removed the file: a lock on a file without a name keeps nobody out.
        held = _flock(handle, wait=wait) and _named(path, handle)
    except BaseException:
        os.close(handle)
        raise
    if held:
        return handle
    os.close(handle)
    return None


def _flock(handle: int, *, wait: bool) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _named(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _let_go(path: Path, handle: int) -> None:
    if fcntl is not None:  # an open file cannot be removed on Windows
        path.unlink(missing_ok=True)
    os.close(handle)
