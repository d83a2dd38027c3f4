"""How often workers may fail before a command gives up."""

from collections import Counter
from collections.abc import Collection

from headscope.errors import HeadscopeError

MOST = 3
"""Failures at one cell, or of one worker after the other to start."""


class Failures:
    """Counts what went wrong by cell, and how many workers in a row never got to one."""

    def __init__(self) -> None:
        self._at: Counter[str] = Counter()
        self._starting = 0

    def started(self) -> None:
        """A worker has its model."""
        self._starting = 0

    def note(self, keys: Collection[str], message: str) -> None:
        """A worker failed with these cells unfinished, or none yet; HeadscopeError once that is too often."""
        self._at.update(keys)
        self._starting += not keys
        often = [key for key in keys if self._at[key] >= MOST]
        if often or self._starting >= MOST:
            where = f"at {often[0]!r}" if often else "before their first cell"
            raise HeadscopeError(
                f"workers failed {MOST} times {where}; the last one said: {message}; finished cells are kept: put that "
                "right (fewer --workers or a smaller --batch-tokens need less memory) and go on with --resume"
            )
