"""Cells: the independent parts of a long piece of work, each kept as soon as it is done and never done again.

Several processes may work on the same cells. Each claims a cell before it begins; a claim ends with its process, however
that ends. Where two have done the same cell all the same, the first to write it wins.
"""

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from headscope.errors import UsageError
from headscope.files import clean, file_name, json_text, names_in, room_for, write_new
from headscope.locks import if_free
from headscope.parquet import read_table, write_table

_ENDING = ".parquet"
_PLAN = ".plan.json"


@dataclass(frozen=True)
class Cells:
    """The finished cells in a folder, by key."""

    folder: Path

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def path(self, key: str) -> Path:
        """The file of a cell, there or not."""
        return self.folder / file_name(key, _ENDING)

    def keys(self) -> tuple[str, ...]:
        """Keys of the finished cells, sorted."""
        return names_in(self.folder, _ENDING)

    def save(self, key: str, table: pd.DataFrame) -> bool:
        """Keeps a cell; False if it is there already, which stays as it is.

        UsageError if what is there has other columns, so that it must be the cell of other work.
        """
        try:
            write_table(self.path(key), table)
            return True
        except UsageError:
            if key not in self:
                raise
            there = self.finished(key)
            if there is not None and list(there.columns) != list(table.columns):
                raise
        if there is None:  # what was there could not be read, and has been moved aside
            return self.save(key, table)
        return False

    def finished(self, key: str, *, columns: Collection[str] = (), rows: int | None = None) -> pd.DataFrame | None:
        """The table of a cell, None if it is not finished.

        A file that cannot be read, lacks one of the columns or has another number of rows is moved aside (NAME.bad) with
        a warning, so that the cell counts as not finished.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            table = read_table(path)
            fault = _fault(table, columns, rows)
        except UsageError as error:
            fault = str(error.__cause__ or error)
        if not fault:
            return table
        self._put_aside(path, fault)
        return None

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether the cell is this block's to do: False if it is finished, or another process is at it."""
        lock = self.folder / f".{file_name(key, '.lock')}"
        with ExitStack() as held:
            with room_for(lock):
                free = held.enter_context(if_free(lock))
            yield free and key not in self

    def plan(self, name: str, keys: Sequence[str], about: Mapping[str, Any]) -> None:
        """Notes which cells there will be, and of what; UsageError if others, or of something else, were planned."""
        path, new = self.folder / file_name(name, _PLAN), {"cells": list(keys), **about}
        text = json_text(new, "plan")
        if not path.is_file():
            try:
                write_new(path, lambda file: _write(file, text))
            except UsageError:  # another process was quicker
                if not path.is_file():
                    raise
        there, new = self._read(path), json.loads(text)
        changed = [key for key in there | new if there.get(key) != new.get(key)]
        if changed:
            raise UsageError(
                f"{self.folder.parent} holds cells of other work ({', '.join(changed)} differ from what is asked now); "
                "ask the same, or start a run in another folder"
            )

    def plans(self) -> dict[str, dict[str, Any]]:
        """What was planned, by name: the keys under `cells`, and what was noted with them."""
        return {name: self._read(self.folder / file_name(name, _PLAN)) for name in names_in(self.folder, _PLAN)}

    def missing(self) -> tuple[str, ...]:
        """Keys of planned cells that are not finished, in the order of the plans."""
        there = set(self.keys())
        return tuple(key for plan in self.plans().values() for key in plan["cells"] if key not in there)

    def clean(self) -> None:
        """Removes what killed processes left half done."""
        clean(self.folder)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            plan = json.loads(path.read_text("utf-8"))
            return {**plan, "cells": list(plan["cells"])}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is not a plan of cells ({error!r}); remove it, and resume the run") from error

    def _put_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(path.name + ".bad")
        logging.getLogger(__name__).warning(
            "warning: %s cannot be used (%s); moved to %s and done again", path, " ".join(why.split()), aside.name
        )
        with suppress(FileNotFoundError):  # another process has seen it too
            os.replace(path, aside)


def _fault(table: pd.DataFrame, columns: Collection[str], rows: int | None) -> str:
    lacking = [column for column in columns if column not in table]
    if lacking:
        return f"it has no column {lacking[0]!r}"
    return f"it has {len(table)} rows, not {rows}" if rows is not None and len(table) != rows else ""


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")
