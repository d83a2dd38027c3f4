"""The models that ship meet the bars of their cards."""

from pathlib import Path

import pytest

from head_analysis import measure_retrieval
from headscope import HookedModel
from headscope.zoo import zoo_folder, zoo_names
from tasks import Needle
from training.needle import evaluate


@pytest.fixture(scope="module")
def needle() -> HookedModel:
    return HookedModel.load("zoo:needle")


def test_the_zoo_is_small_and_holds_no_pickle() -> None:
    assert "zoo:needle" in zoo_names()
    for name in zoo_names():
        files = [path for path in Path(zoo_folder(name)).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 8e6
        assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".jinja"}


def test_needle_answers_at_every_length(needle: HookedModel) -> None:
    found = evaluate(needle.hf, needle.tokenizer, n=64)
    assert min(value for name, value in found.items() if name.startswith("exact match, 1 fact,")) >= 0.93
    assert min(value for name, value in found.items() if name.startswith("exact match, 4 facts,")) >= 0.80


def test_needle_retrieves_with_few_heads_and_generation_agrees_with_the_card(needle: HookedModel) -> None:
    found = measure_retrieval(needle, Needle(lengths=(256,), depths=5, repeats=4))
    assert found.answers["score"].mean() >= 0.9
    scores = found.scores
    assert scores.values[tuple(scores.top(1)[0])] > 0.5
    assert len(scores.above(0.1)) < 0.2 * len(scores.heads)


def test_needle_passes_its_self_check(needle: HookedModel) -> None:
    assert needle.check().passed
