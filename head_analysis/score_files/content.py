"""What a published file holds, before it is known what it means: bytes, text, JSON."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headscope.errors import UsageError

_GZIP = b"\x1f\x8b"
_LARGEST = 2**28  # the largest files published hold 3 MB; a gzip file of this size may unfold to any


@dataclass(frozen=True)
class Content:
    """A file and the bytes in it, unpacked if they were gzipped."""

    path: Path
    data: bytes

    @cached_property
    def text(self) -> str:
        """The bytes as text; UsageError if they are none."""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is not text ({error}); give a file of scores") from error

    @cached_property
    def json(self) -> Any:
        """The text as JSON, NaN and numbers out of range included; UsageError if it is none, or says a key twice."""
        try:
            return json.loads(self.text, object_pairs_hook=self._once)
        except UsageError:
            raise
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{self.path} is not JSON ({error}); fetch it again") from error

    @property
    def name(self) -> str:
        """The file's name without its endings, which often is that of a model."""
        return re.sub(r"(\.(json|tsv|ya?ml|parquet))?(\.gz)?$", "", self.path.name)

    def _once(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in found if keys.count(key) > 1)
            raise UsageError(f"{self.path} says {short(double)} twice; keep one of them")
        return found


def read_content(path: str | Path, *, inside: str) -> Content:
    """What is in a file, or in the one called `inside` of a folder.

    UsageError for one that is missing, empty, cut short or far too large.
    """
    path = Path(path)
    try:
        path = path / inside if path.is_dir() else path
        if not path.is_file():
            raise UsageError(f"there is no file {path}; give the path of a score file")
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} holds {path.stat().st_size >> 20} MiB, no score file is that large; give another")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{short(str(path))} cannot be read ({error}); give the path of a score file") from error
    data = _unpacked(data, path) if data.startswith(_GZIP) else data
    if not data.strip():
        raise UsageError(f"{path} is empty; fetch it again")
    return Content(path, data)


def short(value: Any) -> str:
    """What was found, in at most 40 characters."""
    text = repr(value[:40]) if isinstance(value, str | bytes | list) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _unpacked(data: bytes, path: Path) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            found = file.read(_LARGEST + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise UsageError(f"{path} is not a whole gzip file ({error}); fetch it again") from error
    if len(found) > _LARGEST:
        raise UsageError(f"{path} unpacks to more than {_LARGEST >> 20} MiB, no score file is that large; give another")
    return found
