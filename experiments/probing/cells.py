"""Results of probes in a run: kept cell by cell as they are found, and read back as they were."""

from typing import Any

import pandas as pd

from headscope.errors import UsageError
from headscope.heads import Head
from headscope.runs import Run
from probes import ProbeResult

_NOTES = "probes"
_HITS, _CONTROLS = "hits", "controls"


def keep_probe(run: Run, key: str, result: ProbeResult) -> None:
    """Keeps a result under a key; the table last, so that a cell that is there is whole."""
    notes = {**result.meta, "measure": result.measure, "shape": list(result.shape)}
    run.update(**{_NOTES: {**_notes(run), key: notes}})
    names = [str(place) for place in result.places]
    run.save_cell(f"{key} {_HITS}", pd.DataFrame(result.samples, columns=names))
    run.save_cell(f"{key} {_CONTROLS}", pd.DataFrame(result.controls.T, columns=names))
    run.save_cell(key, result.table)


def probe_keys(run: Run) -> tuple[str, ...]:
    """Keys of the results that a run holds, as they were begun."""
    there = set(run.cell_keys())
    return tuple(key for key in _notes(run) if key in there)


def read_probe(run: Run, key: str) -> ProbeResult:
    """The result kept under a key; UsageError if there is none, or what is kept does not fit together."""
    notes = _notes(run).get(key)
    if not isinstance(notes, dict):
        raise UsageError(f"{run.path} holds no probe {key!r}; it has: {', '.join(probe_keys(run)) or 'none yet'}")
    table, hits, controls = (run.cell(name) for name in (key, f"{key} {_HITS}", f"{key} {_CONTROLS}"))
    try:
        about = {name: value for name, value in notes.items() if name not in ("measure", "shape")}
        layers, heads = notes["shape"]
        places = tuple(Head.parse(row["name"]) if "name" in table else int(row["layer"]) for _, row in table.iterrows())
        if lacking := {notes["measure"], "low", "high", "control"} - set(table):
            raise KeyError(min(lacking))
        if not hits.shape[1] == controls.shape[1] == len(places):
            raise ValueError(f"{len(places)} places have samples of {hits.shape[1]}, controls of {controls.shape[1]}")
        return ProbeResult(
            places,
            hits.to_numpy(float, copy=True),
            controls.to_numpy(float, copy=True).T,
            table,
            notes["measure"],
            (layers, heads),
            about,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the probe {key!r} in {run.path} is damaged ({type(error).__name__}: {error}); remove its files from the "
            "folder cells and make it again: the same command with --resume"
        ) from error


def _notes(run: Run) -> dict[str, Any]:
    notes = run.facts.get(_NOTES)
    return notes if isinstance(notes, dict) else {}
