"""What has become of a sweep that was started here."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from dashboards.reading import open_run
from dashboards.started import Started, process_of
from headscope.errors import HeadscopeError

State = Literal["running", "finished", "stopped", "died"]


def state_of(runs: Path, begun: Started) -> State:
    """`died`: its process is gone, nobody stopped it, and its run is not finished."""
    if process_of(runs, begun) is not None:
        return "running"
    with suppress(HeadscopeError, OSError):
        if open_run(runs, begun.name).facts.get("status") == "finished":
            return "finished"
    return "stopped" if begun.stopped else "died"
