"""Run: a folder that keeps what a command found and how: run.json, parquet tables, head scores, finished cells."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from headscope.cells import Cells
from headscope.differences import differences
from headscope.errors import HeadscopeError, UsageError
from headscope.files import clean, file_name, json_text, names_in, room_for, write_new, write_over
from headscope.locks import locked
from headscope.parquet import read_table, write_table
from headscope.provenance import origin
from headscope.scores import HeadScores
from headscope.tables import html_table

SCHEMA = 1
"""Version of run.json."""

_FIXED = ("schema", "command", "config", "created")
_FREE = ("shard",)
"""Settings that say which part of the work a process does, not what the work is."""

_LOCK = ".run.lock"
_ASSEMBLING = ".assembling.lock"


@dataclass(frozen=True)
class Run:
    """A run in its folder; make one with `Run.create`, read one with `Run.open`.

    `with Run.create(...) as run:` ends as finished, as partial when planned cells are still missing, or as failed when
    the block raises. Every file is written whole or not at all and is never overwritten, but for run.json. Several
    processes may work on one run: they share out its cells by `claim`. What was written before a run was killed can be
    read and resumed.
    """

    path: Path

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        command: str,
        config: Mapping[str, Any],
        seeds: Collection[int] = (),
        resume: bool = False,
        **facts: Any,
    ) -> "Run":
        """A run in a new or empty folder, with versions and commit noted; UsageError if the folder holds anything.

        With `resume`, a run that is there is opened instead, if it is of the same command and config (UsageError shows
        all that differs; `shard` may); it notes the versions and commit it goes on with.
        """
        run = cls(Path(path))
        if _occupied(run.path) and not resume:
            raise UsageError(
                f"{run.path} exists and is not an empty folder; give another --out, or --resume to go on with it"
            )
        if _occupied(run.path) and not run._file.is_file():
            Run.open(run.path)
        about = {
            "schema": SCHEMA,
            "command": command,
            "config": dict(config),
            "created": _now(),
            "status": "running",
            "model": None,
            "seeds": list(seeds),
            **origin(),
            **facts,
        }
        text = json_text(about, "run")
        with run._locked():
            if resume and run._file.is_file():
                return run._resumed(command, config)
            write_new(run._file, lambda file: _write(file, text))
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """The run in a folder; UsageError if there is none, or its run.json cannot be read."""
        run = cls(Path(path))
        schema = run.facts.get("schema")
        if not isinstance(schema, int) or schema > SCHEMA:
            raise UsageError(f"{run._file} has schema {schema}, this headscope reads up to {SCHEMA}; update headscope")
        return run

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says now."""
        if not self._file.is_file():
            raise UsageError(
                f"{self.path} is not a run: it has no run.json; give the folder that a command's --out named"
            )
        try:
            facts = json.loads(self._file.read_text("utf-8"))
        except ValueError as error:
            raise UsageError(
                f"{self._file} is not JSON ({error}); restore it, or start a run in another folder"
            ) from error
        if not isinstance(facts, dict):
            raise UsageError(f"{self._file} holds {type(facts).__name__}, not a mapping; start a run in another folder")
        return facts

    def update(self, **facts: Any) -> None:
        """Add or replace facts in run.json; the command, config and time of creation stay as they are."""
        fixed = [key for key in facts if key in _FIXED]
        if fixed:
            raise UsageError(f"{fixed[0]!r} was settled when the run was created; note it under another name")
        with self._locked():
            self._note(facts)

    def finish(self, status: str = "finished", **facts: Any) -> None:
        """Note the end: the status, and the seconds since the run was created or last resumed (`wall_s`).

        A run whose planned cells are not all there is "partial", not "finished".
        """
        if status == "finished" and self.missing_cells():
            status = "partial"
        self._cells.clean()
        now = self.facts
        since = now["resumed"][-1]["at"] if now.get("resumed") else now["created"]
        wall = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
        self.update(**{"status": status, "wall_s": round(wall, 3), "error": None, **facts})

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        """Keep a table under a name; UsageError if the name is taken."""
        write_table(self.path / file_name(name, ".parquet"), table)

    def table(self, name: str) -> pd.DataFrame:
        """The table kept under a name; UsageError lists the names there are."""
        return read_table(self._kept(name, ".parquet", self.table_names()))

    def table_names(self) -> tuple[str, ...]:
        """Names of the tables kept so far."""
        return names_in(self.path, ".parquet")

    def save_scores(self, name: str, scores: HeadScores) -> None:
        """Keep head scores under a name; UsageError if the name is taken."""
        scores.save(self.path / file_name(name, ".safetensors"))

    def scores(self, name: str) -> HeadScores:
        """The head scores kept under a name; UsageError lists the names there are."""
        return HeadScores.load(self._kept(name, ".safetensors", self.score_names()))

    def score_names(self) -> tuple[str, ...]:
        """Names of the head scores kept so far."""
        return names_in(self.path, ".safetensors")

    def has_cell(self, key: str) -> bool:
        """Whether a cell is there; `finished_cell` also looks whether it is whole."""
        return key in self._cells

    def save_cell(self, key: str, table: pd.DataFrame) -> bool:
        """Keep the table of one finished cell; False if it is there already, which stays as it is.

        UsageError if what is there has other columns.
        """
        return self._cells.save(key, table)

    def finished_cell(self, key: str, *, columns: Collection[str] = (), rows: int | None = None) -> pd.DataFrame | None:
        """The table of a cell, None if it is not finished.

        One that cannot be read, or lacks columns or rows, is moved aside with a warning and counts as not finished.
        """
        return self._cells.finished(key, columns=columns, rows=rows)

    def claim(self, key: str) -> AbstractContextManager[bool]:
        """A block that gets True if the cell is its own to do: not finished, and no other live process is at it."""
        return self._cells.claim(key)

    def plan(self, name: str, keys: Sequence[str], about: Mapping[str, Any]) -> None:
        """Note which cells there will be and what they are of; UsageError if other work was planned under the name."""
        self._cells.plan(name, keys, about)

    def plans(self) -> dict[str, dict[str, Any]]:
        """What was planned, by name: the keys as `cells`, and what was noted with them."""
        return self._cells.plans()

    def missing_cells(self) -> tuple[str, ...]:
        """Keys of planned cells that are not finished."""
        return self._cells.missing()

    def cell(self, key: str) -> pd.DataFrame:
        """The table of one finished cell; UsageError if it is not finished."""
        return read_table(self._kept(key, ".parquet", self.cell_keys(), "cells"))

    def cell_keys(self) -> tuple[str, ...]:
        """Keys of the finished cells, sorted."""
        return self._cells.keys()

    def cells(self) -> pd.DataFrame:
        """All finished cells in one table, in the order of `cell_keys`; empty before the first."""
        tables = [self.cell(key) for key in self.cell_keys()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    @contextmanager
    def assembling(self) -> Iterator[None]:
        """A block that one process at a time is in: where tables are looked for, made of the cells, and kept."""
        lock = self.path / _ASSEMBLING
        with locked(lock):
            yield

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            with suppress(HeadscopeError, OSError):  # a full disk, say, must not hide what went wrong
                self.finish("failed", error=f"{type(error).__name__}: {error}")

    def _repr_html_(self) -> str:
        facts = self.facts
        keys = ("command", "status", "created", "wall_s", "model", "seeds", "config", "versions", "commit", "error")
        shown = [(key, _shown(facts[key])) for key in keys if facts.get(key) not in (None, [], {})]
        shown += [("tables", ", ".join(self.table_names())), ("scores", ", ".join(self.score_names()))]
        shown.append(("finished cells", str(len(self.cell_keys()))))
        return html_table(pd.DataFrame(shown, columns=["fact", "value"]), f"Run {self.path}")

    @property
    def _file(self) -> Path:
        return self.path / "run.json"

    @property
    def _cells(self) -> Cells:
        return Cells(self.path / "cells")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path / _LOCK
        with ExitStack() as held:
            with room_for(lock):
                held.enter_context(locked(lock))
            yield

    def _note(self, facts: Mapping[str, Any]) -> None:
        text = json_text({**self.facts, **facts}, "run")
        write_over(self._file, lambda file: _write(file, text))

    def _resumed(self, command: str, config: Mapping[str, Any]) -> "Run":
        facts = Run.open(self.path).facts
        before, now = (
            {"command": c, **asked_config(s)} for c, s in ((facts["command"], facts["config"]), (command, config))
        )
        if found := differences(before, now):
            raise UsageError(f"{self.path} cannot be resumed: {found}; use the same settings, or another --out")
        clean(self.path)
        self._cells.clean()
        resumed = [*facts.get("resumed", []), {"at": _now(), "process": os.getpid(), **origin()}]
        self._note({"status": "running", "error": None, "resumed": resumed})
        return self

    def _kept(self, name: str, ending: str, names: Collection[str], folder: str = "") -> Path:
        path = self.path / folder / file_name(name, ending)
        if not path.is_file():
            raise UsageError(f"{self.path} has no {name!r} there; it has: {', '.join(names) or 'nothing yet'}")
        return path


def _occupied(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(file.suffix not in (".part", ".lock") for file in path.iterdir())


def asked_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as run.json holds it, without what may differ between processes."""
    kept = {key: value for key, value in config.items() if key not in _FREE}
    return dict(json.loads(json_text(kept, "config")))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")


def _shown(fact: Any) -> str:
    return fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
