"""The notebooks run from top to bottom, and what they end with holds, as shipped and when run again."""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
pytest.importorskip("nbclient", reason="needs the extra notebooks")

from notebooks.execute import FOLDER, executed  # noqa: E402

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
Range = tuple[float, float]

# What each finding says, as ranges in which its numbers lie; wide enough for another machine, too narrow for another
# conclusion.
BARS: Mapping[str, Mapping[str, Range | list[str] | str | bool]] = {
    "1_retrieval_heads": {
        "heads": ["L2H2", "L2H6"],
        "score/low": (0.8, 1.0),
        "next head": (0.3, 0.6),
        "overlap of halves": (0.95, 1.0),
        "right/low": (0.8, 1.0),
        "right without them/high": (0.0, 0.2),
        "right without two of the same layer/low": (0.75, 1.0),
        "right without any two/mean": (0.3, 0.8),
        "worst draws/0": (0.9, 1.0),
        "worst draws/1": (0.0, 0.1),
        "right/n": (20, 20),
    },
    "2_sinks_and_act": {
        "heads": ["L3H4", "L1H3", "L2H6"],
        "least attention on <s>/low": (0.45, 0.6),
        "cut <s>/difference": (0.005, 0.015),
        "cut <s>/mass": (0.5, 0.7),
        "cut as many others/difference": (-0.001, 0.001),
        "<s> more than others/low": (0.004, 0.012),
        "<s> more than others/q": (0.0, 0.05),
        "words that are sinks/difference": (-0.01, 0.02),
        "as much elsewhere/difference_low": (0.01, 0.05),
        "ACT/difference": (-0.03, 0.03),
        "answers right/nothing edited/mean": (0.93, 1.0),
    },
    "3_what_the_image_does": {
        "heads/0": "L5H1",
        "top 4 on resampled scenes": (0.7, 1.0),
        "sinks": (0, 0),
        "CHAIR_S/nothing edited/high": (0.3, 0.45),
        "CHAIR_S/top 4 removed/low": (0.65, 0.9),
        "CHAIR_S/random for top 4 removed (5 draws)/high": (0.3, 0.6),
        "CHAIR_S/VHR/value": (0.3, 0.55),
        "CHAIR_S more/VHR/difference_low": (0.0, 0.2),
        "CHAIR_S more/VAR/difference": (0.0, 0.0),
        "recall/top 4 removed/value": (0.7, 0.84),
        "words/top 4 removed/value": (13.5, 16.0),
    },
    "4_a_circuit_by_patching": {
        "pairs": (16, 16),
        "L1H7 into keys/low": (0.9, 1.0),
        "next head of layer 1 into keys": (-0.01, 0.01),
        "L1H7 into values": (-0.05, 0.05),
        "L1H7 into queries": (-0.01, 0.01),
        "to the answer/L2H2": (0.75, 0.95),
        "to the answer/L2H6": (0.15, 0.3),
        "name at IO before layer 1": (-0.01, 0.01),
        "name at IO before layer 2": (0.45, 0.65),
        "both together/low": (0.97, 1.01),
        "two others/worst": (-0.02, 0.02),
        "two others/best": (-0.02, 0.02),
    },
    "5_probes": {
        "layer 2/high": (0.7, 0.82),
        "layer 3/low": (0.93, 1.0),
        "layer 3/control": (0.42, 0.6),
        "layer 3/untrained": (0.42, 0.6),
        "cosine of the two": (-0.05, 0.25),
        "answers/nothing edited/mean": (0.9, 1.0),
        "answers/without the weights/mean": (0.9, 1.0),
        "answers/without the means/high": (0.4, 0.7),
        "answers/random for without the means (5 draws)/low": (0.85, 1.0),
    },
    "6_bring_your_own_model": {
        "check passed": True,
        "most copied by any head": (0.0, 0.05),
        "answers right": (0.0, 0.0),
        "token before/high": (0.019, 0.023),
        "token before, even attention": (0.019, 0.022),
        "trained head": "L1H7",
        "token before, trained/low": (0.6, 0.7),
    },
}


def notebook(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_of(name: str) -> list[str]:
    return [cell.source for cell in notebook(name).cells if cell.cell_type == "code"]


def outputs_of(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def finding_of(book: Any) -> dict[str, Any]:
    """What the last code cell shows."""
    return dict(ast.literal_eval(outputs_of(book)[-1]["data"]["text/plain"]))


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a finding, with the way to it."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield path, value
        return
    for key, one in inner:
        yield from flat(one, f"{path}/{key}".lstrip("/"))


def broken(name: str, finding: Mapping[str, Any]) -> list[str]:
    """The bars that a finding misses."""
    leaves, missed = dict(flat(finding)), []
    for path, bar in BARS[name].items():
        if isinstance(bar, tuple):
            value = leaves.get(path, math.nan)
            kept = bar[0] <= value <= bar[1]
        else:
            value = finding.get(path, leaves.get(path))
            kept = value == bar
        if not kept:
            missed.append(f"{path} is {value}, not in {bar}")
    return missed


def unsupported(text: str, finding: Mapping[str, Any]) -> list[str]:
    """Numbers in a sentence that no value of the finding rounds to."""
    values = [float(value) for _, value in flat(finding) if isinstance(value, int | float) and not math.isnan(value)]
    missing = []
    for word in re.findall(r"(?<![\w.])-?\d+\.\d+", text):
        unit = 10.0 ** -len(word.split(".")[1])
        if not any(abs(value - float(word)) <= 0.51 * unit + 1e-9 for value in values):
            missing.append(word)
    return missing


# -- as shipped ------------------------------------------------------------------------------------------------------


def test_every_notebook_has_bars() -> None:
    assert list(BARS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_and_defines_nothing(name: str) -> None:
    forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for code in code_of(name):
        assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, forbidden)], code
        assert "assert" not in code


@pytest.mark.parametrize("name", NAMES)
def test_what_it_keeps_was_run_in_order_without_warnings_or_paths(name: str) -> None:
    book = notebook(name)
    counts = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [
        output for output in outputs_of(book) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert not [output for output in outputs_of(book) if "widget" in " ".join(output.get("data", {}))]
    text = json.dumps(outputs_of(book))
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", text)
    figures = [output for output in outputs_of(book) if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert figures
    assert all("image/png" in figure["data"] for figure in figures)


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_with_a_finding_that_its_numbers_support(name: str) -> None:
    book = notebook(name)
    assert book.cells[0].source.startswith("# ")
    assert [cell.cell_type for cell in book.cells[-2:]] == ["code", "markdown"]
    finding = finding_of(book)
    assert broken(name, finding) == []
    assert book.cells[-1].source.startswith("**")
    assert unsupported(book.cells[-1].source, finding) == []


def test_a_number_that_was_not_found_is_noticed() -> None:
    assert unsupported("L2H2 reaches 0.98 [0.95, 1.00]", {"mean": 0.981, "ends": [0.952, 0.999]}) == []
    assert unsupported("L2H2 reaches 0.97", {"mean": 0.981, "n": 20}) == ["0.97"]
    assert broken("6_bring_your_own_model", {"check passed": False, "trained head": "L1H6"})[:1] == [
        "check passed is False, not in True"
    ]
    assert len(broken("6_bring_your_own_model", {})) == len(BARS["6_bring_your_own_model"])


# -- run again -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom_and_finds_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    again = executed(notebook(name))
    assert not [output.text for output in outputs_of(again) if output.get("name") == "stderr"]
    assert broken(name, finding_of(again)) == []
