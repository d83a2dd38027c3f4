"""Folders of real small runs, and the dashboard opened on them without a browser."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from experiments.cli import run as command
from headscope.runs import Run
from headscope.scores import HeadScores
from headscope.zoo import zoo_names

APP = Path(__file__).parents[2] / "dashboards" / "app.py"
MARKUP = "<img src=x onerror=alert(1)> ![seen](https://example.com/seen.png) :red[red] $x^2$"
"""What a file could hold to be run, fetched or dressed up by a careless page."""

Open = Callable[..., AppTest]


def saved(
    folder: Path, name: str, *, model: str, kinds: tuple[str, ...] = ("vhd", "sink_mass"), layers: int = 3
) -> Run:
    """A run of scores that are drawn once, with L1H2 the best of the first kind by far."""
    with Run.create(folder / name, command="heads vision", config={"model": model}, seeds=[0]) as run:
        draws = torch.Generator().manual_seed(0)
        for kind in kinds:
            samples = torch.rand(6, layers, 4, generator=draws)
            samples[:, 1, 2] += 5.0 if kind == kinds[0] else 0.0
            run.save_scores(kind, HeadScores(samples, f"{kind} (test)", {"model": model}))
        run.update(model={"name": model, "revision": None})
    return run


@pytest.fixture(scope="session", autouse=True)
def one_scan() -> Iterator[None]:
    """All installed packages are searched for components once, and not for every page, which takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Two runs of the command line on zoo:needle, one of saved scores, and three that cannot be read."""
    if "zoo:needle" not in zoo_names():
        pytest.skip("zoo:needle is not trained")
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    folder.mkdir()
    small = ("--model", "zoo:needle", "--lengths", "64,96", "--depths", "2", "--repeats", "2", "--json")
    assert command(["heads", "retrieval", *small, "--out", str(folder / "scored")]) == 0
    removed = ("--top", "2", "--from", str(folder / "scored"), "--draws", "2")
    assert command(["ablate", *small, *removed, "--out", str(folder / "removed")]) == 0
    saved(folder, "seen", model="zoo:scenes")
    (folder / "torn").mkdir()
    (folder / "torn" / "run.json").write_text('{"schema": 1, "comm')
    (folder / "newer").mkdir()
    (folder / "newer" / "run.json").write_text(json.dumps({"schema": 99, "command": "heads retrieval"}))
    cut = saved(folder, "cut", model="zoo:scenes", kinds=("vhd", "broken"))
    (cut.path / "broken.safetensors").write_bytes(b"\x08")
    (cut.path / "table.parquet").write_bytes(b"PAR1")
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    """A folder without runs."""
    folder = tmp_path / "none"
    folder.mkdir()
    return folder


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Runs whose names, facts and tables hold markup."""
    folder = tmp_path / "hostile"
    run = saved(folder, "<b onclick=alert(1)>![x](y)", model=MARKUP)
    run.update(error=MARKUP, **{MARKUP: MARKUP})
    run.save_table("words", pd.DataFrame({"token": [MARKUP, "=1+1"], "layer": [1, 1], "head": [2, 2]}))
    return folder


@pytest.fixture
def opened(monkeypatch, empty) -> Open:
    """Opens a page of the dashboard, by its file in `views`, on a folder of runs; options are those of the address."""

    def start(folder: Path) -> None:
        monkeypatch.setattr(sys, "argv", [str(APP), "--runs", str(folder)])

    def opened(view: str, folder: Path, **address: str) -> AppTest:
        page = AppTest.from_file(APP, default_timeout=60)
        if view != "runs":  # pages are known once the first has been shown, and that of an empty folder is soon shown
            start(empty)
            page.run().switch_page(f"views/{view}.py")
        start(folder)
        page.query_params.update(address)
        return page.run()

    return opened
