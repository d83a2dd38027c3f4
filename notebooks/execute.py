"""Runs the notebooks from top to bottom and keeps what they show: `make notebooks`.

Figures are kept twice, interactive and as a picture, for pages that run no scripts; the picture needs Chrome or Chromium.
"""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
INTERACTIVE = "plotly_mimetype"
WITH_PICTURES = "plotly_mimetype+png"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(notebook: Any, *, figures: str = INTERACTIVE) -> Any:
    """The notebook with what its cells show now; nbclient's CellExecutionError for a cell that fails.

    Progress bars are left out, and nothing is fetched from the network.
    """
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    settings = {"PLOTLY_RENDERER": figures, "HF_HUB_OFFLINE": "1", **quiet}
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER.parent)}},
    )
    client.execute(env=os.environ | settings)
    notebook.metadata = nbformat.from_dict(_METADATA)  # kernels note their versions there, which change from day to day
    return notebook


def main(paths: list[Path]) -> None:
    """Executes these notebooks, or all, in place."""
    for path in paths or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(executed(nbformat.read(path, as_version=4), figures=WITH_PICTURES), path)


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
