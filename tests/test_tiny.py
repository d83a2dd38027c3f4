"""The tiny models and the eager reference are what the other tests take them for."""

import pytest
import torch
from torch import Tensor

from tests.eager import eager_copy, eager_patterns, edited_eager, editing_eager
from tests.tiny import TINY, UNSUPPORTED, Tiny, build, left_padded, prompt

SINKS = {"gpt_oss"}  # part of each row's mass goes to no key
NEW_TOKENS = 4


def rows(table: dict[str, Tiny]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", table.values(), ids=table.keys())


def predicted(output) -> Tensor:
    keys = ("logits", "last_hidden_state", "logits_per_image")
    return next(output[key] for key in keys if key in output)


def prediction(model, inputs) -> Tensor:
    with torch.no_grad():
        return predicted(model(**inputs))


@rows(TINY)
def test_row_is_finite_eager_like_sdpa_and_peaked(row):
    model = row.build()
    eager, inputs = eager_copy(model), row.inputs()
    default, plain = prediction(model, inputs), prediction(eager, inputs)
    assert default.std() > 0.3
    assert default.abs().max() < 50
    # no exception is needed: gemma2 and gpt_oss refuse sdpa and are eager by default
    torch.testing.assert_close(default, plain, atol=5e-5, rtol=0)

    identity = predicted(edited_eager(eager, inputs, lambda name, index, weights: weights))
    torch.testing.assert_close(identity, plain, atol=1e-5, rtol=0)

    for name, calls in eager_patterns(eager, inputs).items():
        mass = torch.cat([weights.sum(-1).flatten() for weights in calls])
        if row.name in SINKS:
            assert mass.max() < 1 + 1e-5
            assert 0 < mass.mean() < 0.95
        else:
            torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-5, rtol=0)
        assert over_uniform(calls) > 3, name


def over_uniform(calls: list[Tensor]) -> float:
    """Mean ratio of a row's largest entry to 1/n, over rows with at least 6 keys."""
    keys = torch.cat([(weights > 0).sum(-1).flatten() for weights in calls])
    largest = torch.cat([weights.amax(-1).flatten() for weights in calls])
    return (largest * keys)[keys >= 6].mean().item()


@rows({name: row for name, row in TINY.items() if row.generates})
def test_row_generates_to_the_end(row):
    inputs = row.inputs()
    ids = row.build().generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    start = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    assert ids.shape[1] == start + NEW_TOKENS


@rows(UNSUPPORTED)
def test_unsupported_row_runs_and_makes_no_eager_call(row):
    model, inputs = row.build(), row.inputs()
    assert prediction(model, inputs).isfinite().all()
    with pytest.raises(ValueError, match="made no call"):
        eager_patterns(model, inputs)


def test_build_repeats_the_weights_and_leaves_the_random_state():
    state = torch.get_rng_state()
    first, second = build("llama"), build("llama")
    assert torch.equal(state, torch.get_rng_state())
    assert first is not second
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gemma2", "gpt_oss"])
def test_left_padding_changes_no_prediction(name):
    short, long = prompt(12, seed=1), prompt(16, seed=2)
    model, batch = build(name), left_padded(short, long)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    both = prediction(model, batch | {"position_ids": positions})
    torch.testing.assert_close(both[:1, 4:], prediction(model, short), atol=5e-5, rtol=0)
    torch.testing.assert_close(both[1:], prediction(model, long), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "deepseek_v3"])
def test_a_pattern_of_zeros_is_an_absent_head(name):
    model, inputs = eager_copy(build(name)), prompt()
    layer, head = "model.layers.1.self_attn", 2

    def without_head(module, index, weights):
        # times a tensor: the weights that were passed stay as they are
        return weights * (torch.arange(4) != head).view(1, 4, 1, 1) if module == layer else weights

    edited = predicted(edited_eager(model, inputs, without_head))
    with torch.no_grad():
        output = model.get_submodule(layer).o_proj.weight
        width = output.shape[1] // 4
        output[:, head * width : (head + 1) * width] = 0
    torch.testing.assert_close(edited, prediction(model, inputs), atol=1e-5, rtol=0)
    assert (edited - prediction(eager_copy(build(name)), inputs)).abs().max() > 0.01


def test_calls_are_counted_per_module():
    row = TINY["qwen2_5_vl"]
    patterns = eager_patterns(eager_copy(row.build()), row.inputs())
    windows, images = (len(patterns[f"model.visual.blocks.{layer}.attn"]) for layer in range(2))
    assert (windows, images) == (6, 2)


def test_the_edit_ends_with_the_block_even_on_an_exception():
    model, inputs = eager_copy(build("llama")), prompt()
    plain = prediction(model, inputs)

    def edited_then_broken():
        with editing_eager(model, lambda name, index, weights: weights / 2):
            assert (prediction(model, inputs) - plain).abs().max() > 0.01
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        edited_then_broken()
    assert torch.equal(plain, prediction(model, inputs))


def test_another_model_is_left_alone():
    model, other, inputs = eager_copy(build("llama")), eager_copy(build("llama_mha")), prompt()
    plain = prediction(other, inputs)
    with editing_eager(model, lambda name, index, weights: weights * 0):
        assert torch.equal(plain, prediction(other, inputs))
        prediction(model, inputs)
