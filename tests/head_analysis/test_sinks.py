"""Sinks: a planted dimension is found at every width, ordinary weights have none, and reports say what was planted."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from head_analysis.sink_reading import sink_report, value_norms
from head_analysis.sink_summary import GROUPS, published_dims
from head_analysis.sinks import relative_threshold, sink_dimensions, sink_tokens
from headscope import HookedModel, Sample, UsageError
from tests.head_analysis.planted_image import DRAWN, LAYERS, SINK, planted_image_model, scene
from tests.headscope.processors import word_tokenizer
from tests.tiny import BOS, VOCAB

BOXES = {"cat": [(8, 0, 16, 8)], "bird": [(12, 16, 20, 24)]}
BLACK = (1, 4)
NUMBER = BLACK[0] * 6 + BLACK[1]


def llama(width: int, *, huge: tuple[int, ...] = (), seed: int = 0) -> HookedModel:
    """A random Llama in which some dimensions of the embedding of `<s>` are as large as all others together."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=BOS,
            initializer_range=0.5 * width**-0.5,
        )
        hf = LlamaForCausalLM(config).eval()
        hf.get_input_embeddings().weight.data.normal_()
    for dim in huge:
        hf.get_input_embeddings().weight.data[BOS, dim] = width**0.5
    return HookedModel(hf, word_tokenizer(), name="random llama")


@pytest.fixture(scope="module")
def planted() -> HookedModel:
    return planted_image_model()


@pytest.fixture(scope="module")
def report(planted):
    return sink_report(planted, [scene(BOXES, black=BLACK), scene(BOXES, black=BLACK, words=3), scene(BOXES, words=2)])


@pytest.mark.parametrize("width", [64, 128, 512])
@pytest.mark.parametrize("huge", [(7,), (3, 50)])
def test_planted_dimensions_are_found_at_every_width(width, huge):
    found = sink_dimensions(llama(width, huge=huge))
    assert set(huge) <= set(found.dims)
    assert found.strength.topk(len(huge)).indices.sort().values.tolist() == list(huge)
    assert found.chance < 1e-2
    assert (found.token, found.threshold) == (BOS, relative_threshold(width))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [128, 512])
def test_ordinary_weights_have_no_dimension_that_stands_out(width, seed):
    found = sink_dimensions(llama(width, seed=seed))
    assert found.chance > 1e-3
    if width == 512:  # the threshold of narrower models is within the reach of ordinary numbers
        assert not found.found
        assert str(found).startswith("none reaches 7.1; the largest is ")


def test_the_threshold_keeps_the_share_of_the_norm():
    assert relative_threshold(4096) == 20
    assert relative_threshold(128) == pytest.approx(20 * math.sqrt(128 / 4096))
    for width in (128, 1024):
        for share, expected in [(0.99 * 400 / 4096, False), (1.01 * 400 / 4096, True)]:
            state = torch.full((width,), math.sqrt((1 - share) / (width - 1)))
            state[9] = math.sqrt(share)
            assert sink_tokens(10 * state, (9,)).item() is expected
            assert not sink_tokens(10 * state, (8,))


def test_sink_tokens_need_a_dimension():
    state = torch.zeros(3, 64)
    state[1, 5] = 1.0
    assert sink_tokens(state, (5,)).tolist() == [False, True, False]
    assert not sink_tokens(state, ()).any()
    with pytest.raises(UsageError, match="sink dimension 64 was given, but the model's states have 64"):
        sink_tokens(state, (64,))


def test_the_report_names_the_planted_sinks(report):
    assert report.dimensions.dims == (SINK,)
    places = report.by_place()
    assert places[["kind", "number", "n", "sinks"]].values.tolist() == [["text", 0, 3, 3], ["image", NUMBER, 3, 2]]
    tokens = report.by_token()
    assert tokens[["text", "n", "sinks"]].values.tolist() == [["<s>", 3, 3], ["<image>", 108, 2]]
    assert report.sinks_by_layer["text"].tolist() == [1] * LAYERS
    assert report.sinks_by_layer["image"].tolist() == pytest.approx([2 / 3] * LAYERS)
    assert report.overlap() == {"text": 1, "image": 1}


def test_the_planted_head_puts_all_it_has_on_sinks(report):
    assert report.mass.values[:, DRAWN].min() > 0.99
    assert report.mass.values[:, [0, 1, 2]].max() < 0.2
    assert (report.image_mass.samples[:2, :, DRAWN] > 0.4).all()
    assert (report.image_mass.samples[2] == 0).all()  # no black patch, no image sink


def test_sinks_take_attention_and_hand_on_little(report):
    checks = report.checks().set_index("claim")["holds"]
    assert checks.drop("they are the listed ones").all()
    assert checks["they are the listed ones"] is None
    ratio, handed_on = report.compared("image sink", "other image")
    assert ratio > 3
    assert handed_on < 0.1
    groups = report.by_group().set_index("group")
    assert list(groups.index) == list(GROUPS)
    assert groups.loc["image sink", "attention"] > groups.loc["other image", "attention"]


def test_a_token_called_sink_that_is_none_fails_the_checks(planted):
    """The control: a dimension that only ordinary image tokens have."""
    report = sink_report(planted, [scene(BOXES, black=BLACK)], dims=(2,), tau=3.0)  # how red a patch is
    checks = report.checks().set_index("claim")["holds"]
    assert not checks["the first token is a sink in every sample"]
    assert not checks["and hands on less for each unit of it"]


def test_contributions_are_what_the_output_projection_makes_of_each_value(planted):
    sample = scene(BOXES, black=BLACK)
    report = sink_report(planted, [sample])
    row = planted.attention_rows([sample])[0][:, :, 0]  # layer head key
    torch.testing.assert_close(report.attention[0, ..., 1], row[..., 3 + NUMBER])
    start = report.contribution[0, :, :, 0]
    z = planted.record([Sample("<s>", chat=True)], "z")[0][:, 0]  # alone, the first token's z is its value
    handed = torch.stack(
        [(z[layer].unsqueeze(1) @ planted.output_weights(layer)).norm(dim=-1)[:, 0] for layer in range(3)]
    )
    torch.testing.assert_close(start, row[..., 0] * handed, rtol=1e-3, atol=1e-6)


def test_value_norms_are_norms_in_the_stream():
    generator = torch.Generator().manual_seed(0)
    value, weights = torch.randn(2, 5, 3, generator=generator), torch.randn(4, 3, 7, generator=generator)
    for head in range(4):
        expected = (value[head // 2] @ weights[head]).norm(dim=-1)
        torch.testing.assert_close(value_norms(value, weights)[head], expected)


def test_a_batch_is_one_by_one(planted, report):
    alone = sink_report(planted, [scene(BOXES, black=BLACK, words=3)])
    torch.testing.assert_close(report.attention[1], alone.attention[0], equal_nan=True, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(report.contribution[1], alone.contribution[0], equal_nan=True, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(report.mass.samples[1], alone.mass.samples[0], rtol=1e-4, atol=1e-6)


def test_text_models_have_reports_too():
    report = sink_report(llama(128, huge=(7,)), ["w10 w11 w12 w13", "w20 w21"])
    assert report.by_place().values.tolist() == [["text", 0, 2, 2, 1.0]]
    assert report.attention[..., 1].isnan().all()
    assert math.isnan(report.overlap()["image"])
    assert (
        report.checks().set_index("claim")["holds"]["an image sink gets more attention than another image token"]
        is None
    )


def test_published_dimensions_are_found_by_name():
    assert published_dims("liuhaotian/LLaVA-Llama-2-7b_chat") == (1415, 2533)
    assert published_dims("zoo:scenes") is None


def test_bad_input_is_refused(planted):
    with pytest.raises(UsageError, match="no samples to look for sinks in"):
        sink_report(planted, [])
    with pytest.raises(UsageError, match="only one token"):
        sink_report(planted, [Sample("<s>", chat=True)])
