"""Rows on demand are the model's own rows."""

import pandas as pd
import pytest
import torch

from dashboards.attention import MOST_TOKENS, Prompt, read_prompt, read_rows, token_table
from dashboards.prompts import Example, examples, own
from head_analysis.sinks import SinkDimensions, sink_dimensions
from headscope import HookedModel
from headscope.errors import UsageError
from headscope.heads import Head
from headscope.samples import Sample
from headscope.zoo import zoo_names
from tasks import Needle
from tests.headscope.test_hooks import word_tokenizer
from tests.tiny import build

pytestmark = pytest.mark.skipif(not {"zoo:needle", "zoo:scenes"} <= set(zoo_names()), reason="the zoo is not trained")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.load("zoo:needle")


@pytest.fixture(scope="module")
def dimensions(model) -> SinkDimensions:
    return sink_dimensions(model)


def test_rows_are_those_of_the_model(model, dimensions):
    sample = Sample("the secret words of irene are ring")
    reading = read_rows(model, sample, (), 4, dimensions)
    (expected,) = model.attention_rows([sample], positions=(4,))
    torch.testing.assert_close(reading.rows, expected[:, :, 0])
    torch.testing.assert_close(reading.row(Head(2, 1)), expected[2, 1, 0])
    assert (reading.rows[..., 5:] == 0).all(), "later tokens are not seen"
    assert reading.rows.numel() == len(model.heads()) * len(model.tokens(sample).ids), "one row a head"


def test_rows_behind_an_answer(model, dimensions):
    example = examples(model, Needle((64,), 2))["needle 0, length 64, depth 0.00"]
    prompt = read_prompt(model, example.sample, new_tokens=8, stop=example.stop)
    assert len(prompt.texts) == prompt.n_prompt + len(prompt.answer)
    assert " ".join(prompt.texts[prompt.n_prompt :]).startswith(example.sample.target.split()[0])
    reading = read_rows(model, example.sample, prompt.answer, prompt.n_prompt - 1, dimensions)
    best = reading.mass_on(prompt.groups["needle"]).iloc[0]
    assert best["value"] > 0.5, "some head looks at the needle where the answer begins"


def test_places_that_do_not_exist(model, dimensions):
    with pytest.raises(UsageError, match="token 99 was asked for"):
        read_rows(model, Sample("the words"), (), 99, dimensions)
    reading = read_rows(model, Sample("the words"), (), 0, dimensions)
    with pytest.raises(UsageError, match="no such head"):
        reading.row(Head(40, 0))


def test_a_prompt_that_is_too_long(model):
    with pytest.raises(UsageError, match="shorten it"):
        read_prompt(model, Sample("the " * (MOST_TOKENS + 1)))


def test_the_table_of_tokens():
    prompt = Prompt(("<s>", "the", "key", "blue"), 3, (7,), {"needle": (2,)}, None)
    row, sinks = torch.tensor([0.1, 0.2, 0.7, 0.0]), torch.tensor([True, False, False, False])
    table = token_table(prompt, row, sinks, 1, columns=3)
    assert list(table["kind"]) == ["prompt", "query", "needle", "answer"]
    assert list(table["weight"]) == pytest.approx([0.1, 0.2, 0.7, 0.0])
    assert list(table["sink"]) == [True, False, False, False]
    assert list(zip(table["line"], table["column"], strict=True)) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_the_tokens_of_an_image_share_a_cell():
    model = HookedModel.load("zoo:scenes")
    example = examples(model, None)["scene 0"]
    prompt = read_prompt(model, example.sample)
    reading = read_rows(model, example.sample, (), prompt.n_prompt - 1, sink_dimensions(model))
    row = reading.row(Head(5, 1))
    table: pd.DataFrame = token_table(prompt, row, reading.sinks_at(5), reading.query, columns=12)
    image = table[table["kind"] == "image"]
    assert len(image) == 1
    assert image["weight"].iloc[0] == pytest.approx(float(row[list(prompt.groups["image"])].sum()))
    assert table["weight"].sum() == pytest.approx(1.0, abs=1e-5)
    inside = prompt.groups["image"][3]
    asked = token_table(prompt, row, reading.sinks_at(5), inside, columns=12)
    assert list(asked.loc[asked["text"] == "image ×64", "kind"]) == ["query"], "the cell of the token that attends"


def test_a_sink_is_marked_where_it_stands(model):
    sample = Sample("the secret words of irene")
    planted = SinkDimensions((0,), torch.ones(4), 1e-6, (1,), 0)
    reading = read_rows(model, sample, (), 2, planted)
    assert reading.sinks_at(1).all(), "every state has something in dimension 0"
    none = read_rows(model, sample, (), 2, SinkDimensions((), torch.ones(4), 1e-6, (1,), 0))
    assert not none.sinks.any()


def test_a_model_that_knows_other_words_has_no_examples():
    assert examples(HookedModel(build("llama"), word_tokenizer()), None) == {}


def test_own_prompts(model):
    assert own(model, "the words") == Example(Sample("the words"))
    with pytest.raises(UsageError, match="the text is empty"):
        own(model, "  ")
