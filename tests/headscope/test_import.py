"""Importing headscope stays light."""

import subprocess
import sys

HEAVY = {"streamlit", "nnsight", "transformer_lens", "sklearn", "plotly", "pytest", "beartype"}


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, headscope; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not HEAVY & set(loaded)
