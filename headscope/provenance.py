"""Where a result comes from: versions of what computed it, and the commit of its source."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("headscope", "torch", "transformers", "numpy")


def origin() -> dict[str, Any]:
    """Versions of python and of the packages that matter, and the commit of headscope's source."""
    return {
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in _PACKAGES},
        "commit": commit(Path(__file__)),
    }


def commit(source: Path) -> str | None:
    """The commit that a source file is checked out at, with "+dirty" where tracked files differ from it.

    None where the file is not tracked: an installed package may lie inside the checkout of another project.
    """
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    head = _git(source.parent, "rev-parse", "HEAD")
    changes = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+dirty" if head and changes else head


def _git(folder: Path, *arguments: str) -> str | None:
    # Variables such as GIT_DIR, set inside a git hook, would point at a checkout other than the folder's.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "GIT_OPTIONAL_LOCKS": "0"
    }
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, env=env, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
