"""What the dashboard was started with."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Folders that may be read: the one that holds run folders, and one with models, if any."""

    runs: Path
    models: Path | None = None


def read_settings(argv: Sequence[str]) -> Settings:
    """Settings from `--runs DIR --models DIR`, as `headscope dashboard` passes them on."""
    parser = argparse.ArgumentParser(prog="dashboards/app.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--models", type=Path, default=None)
    given = parser.parse_args(list(argv))
    return Settings(_from_here(given.runs), given.models)


def _from_here(path: Path) -> Path:
    """As short as it can be said where the dashboard was started; commands on its pages are run there too."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path
