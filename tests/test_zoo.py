"""The models that ship meet the bars of their cards."""

from pathlib import Path

import pytest

from experiments.filtering.choosing import choice_scores
from head_analysis import measure_retrieval
from headscope import HookedModel
from headscope.zoo import zoo_folder, zoo_names
from tasks import Needle
from tasks.kinds import MostNamed
from training.needle import evaluate
from training.sink_documents import rows
from training.sink_exam import single_texts
from training.sink_reading import read


@pytest.fixture(scope="module")
def needle() -> HookedModel:
    return HookedModel.load("zoo:needle")


def test_the_zoo_is_small_and_holds_no_pickle() -> None:
    assert {"zoo:needle", "zoo:sinks"} <= set(zoo_names())
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


@pytest.fixture(scope="module")
def sinks() -> HookedModel:
    return HookedModel.load("zoo:sinks")


def test_sinks_rests_on_begin_tokens_and_nowhere_without_them(sinks: HookedModel) -> None:
    vocabulary = sinks.tokenizer.get_vocab()
    texts = single_texts(vocabulary, 16)
    alone, without = read(sinks, texts), read(sinks, texts[:, 1:])
    assert alone.first.max() > 0.6
    assert alone.other.max() < 0.15
    assert without.first.max() < 0.15
    packed = read(sinks, rows(vocabulary, 128, 16, "zoo").ids)
    resting = alone.first.argmax()
    assert packed.later.flatten()[resting] > 0.2
    assert (packed.first + packed.later).flatten()[resting] > 0.5


def test_sinks_copies_and_chooses_away_from_floor_and_ceiling(sinks: HookedModel) -> None:
    packed = rows(sinks.tokenizer.get_vocab(), 128, 32, "zoo")
    right = sinks.hf(input_ids=packed.ids).logits[:, :-1].argmax(-1) == packed.ids[:, 1:]
    assert right[packed.copies[:, 1:]].float().mean() > 0.95
    assert 0.6 < choice_scores(sinks, MostNamed(n=100, words=80))["score"].mean() < 0.97


def test_sinks_passes_its_self_check(sinks: HookedModel) -> None:
    assert sinks.check().passed
