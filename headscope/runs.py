"""Run: a folder that keeps what a command found and how: run.json, parquet tables, head scores, finished cells."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
import pyarrow

from headscope.errors import UsageError
from headscope.files import file_name, json_text, names_in, write_new, write_over
from headscope.provenance import origin
from headscope.scores import HeadScores
from headscope.tables import html_table

SCHEMA = 1
"""Version of run.json."""

_FIXED = ("schema", "command", "config", "created")


@dataclass(frozen=True)
class Run:
    """A run in its folder; make one with `Run.create`, read one with `Run.open`.

    `with Run.create(...) as run:` ends as finished, or as failed when the block raises. Every file is written whole or
    not at all and is never overwritten, but for run.json, which one process at a time may update. What was written
    before a run was killed can be read and resumed.
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

        With `resume`, a run that is there is opened instead, if its config is the same (UsageError names the first key
        that differs); it notes the versions and commit it goes on with.
        """
        run = cls(Path(path))
        if resume and _occupied(run.path):
            return run._resumed(config)
        if _occupied(run.path):
            raise UsageError(
                f"{run.path} exists and is not an empty folder; give another --out, or --resume to go on with it"
            )
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
        text = json_text(self.facts | facts, "run")
        write_over(self._file, lambda file: _write(file, text))

    def finish(self, status: str = "finished", **facts: Any) -> None:
        """Note the end: the status, and the seconds since the run was created or last resumed (`wall_s`)."""
        now = self.facts
        since = now["resumed"][-1]["at"] if now.get("resumed") else now["created"]
        wall = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
        self.update(status=status, wall_s=round(wall, 3), **facts)

    def save_table(self, name: str, table: pd.DataFrame) -> None:
        """Keep a table under a name; UsageError if the name is taken."""
        _write_table(self.path / file_name(name, ".parquet"), table)

    def table(self, name: str) -> pd.DataFrame:
        """The table kept under a name; UsageError lists the names there are."""
        return _read_table(self._kept(name, ".parquet", self.table_names()))

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
        """Whether a cell is finished, so that a resumed run can pass it by."""
        return self._cell(key).is_file()

    def save_cell(self, key: str, table: pd.DataFrame) -> None:
        """Keep the table of one finished cell of a sweep; UsageError if the cell is there."""
        _write_table(self._cell(key), table)

    def cell(self, key: str) -> pd.DataFrame:
        """The table of one finished cell; UsageError if it is not finished."""
        return _read_table(self._kept(key, ".parquet", self.cell_keys(), "cells"))

    def cell_keys(self) -> tuple[str, ...]:
        """Keys of the finished cells, sorted."""
        return names_in(self.path / "cells", ".parquet")

    def cells(self) -> pd.DataFrame:
        """All finished cells in one table, in the order of `cell_keys`; empty before the first."""
        tables = [self.cell(key) for key in self.cell_keys()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
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

    def _resumed(self, config: Mapping[str, Any]) -> "Run":
        run = Run.open(self.path)
        before, now = run.facts["config"], json.loads(json_text(config, "config"))
        for key in before | now:
            if key not in before or key not in now or before[key] != now[key]:
                raise UsageError(
                    f"{self.path} cannot be resumed: {key!r} was {_said(before, key)} and is {_said(now, key)} now; "
                    "use the same settings, or another --out"
                )
        resumed = [*run.facts.get("resumed", []), {"at": _now(), **origin()}]
        run.update(status="running", error=None, resumed=resumed)
        return run

    def _cell(self, key: str) -> Path:
        return self.path / "cells" / file_name(key, ".parquet")

    def _kept(self, name: str, ending: str, names: Collection[str], folder: str = "") -> Path:
        path = self.path / folder / file_name(name, ending)
        if not path.is_file():
            raise UsageError(f"{self.path} has no {name!r} there; it has: {', '.join(names) or 'nothing yet'}")
        return path


def _occupied(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(file.suffix != ".part" for file in path.iterdir())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")


def _write_table(path: Path, table: pd.DataFrame) -> None:
    try:
        write_new(path, lambda file: table.to_parquet(file))
    except UsageError:
        raise
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(
            f"the table for {path.name} cannot be kept as parquet ({error}); use one type in each column"
        ) from error


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UsageError(f"{path} is not a whole parquet file ({error}); remove it and compute it again") from error


def _said(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "absent"


def _shown(fact: Any) -> str:
    return fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
