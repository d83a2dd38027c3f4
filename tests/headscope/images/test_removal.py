"""Prompts without their image: what is left of them, and the model on both at once."""

import jaxtyping
import pytest
import torch

from headscope import UsageError
from headscope.images.removal import Removal, continued_inputs, image_free, with_and_without
from tests.headscope.test_hooks import gap
from tests.interventions.cases import VLMS, first, forward, model, second, together, words
from tests.tiny import IMAGE_TOKEN, Inputs

REMOVALS: tuple[Removal, ...] = ("delete", "keep_positions", "blank_image")


def image(inputs: Inputs) -> torch.Tensor:
    return inputs["input_ids"] == IMAGE_TOKEN


def without(name: str, inputs: Inputs, removal: Removal) -> Inputs:
    return image_free(model(name).hf, inputs, image(inputs), removal=removal)


@pytest.mark.parametrize("name", VLMS)
def test_deleted_is_text_as_if_there_had_been_no_image(name: str):
    inputs = first(name)
    bare = without(name, inputs, "delete")
    ids = inputs["input_ids"][~image(inputs)][None]
    assert torch.equal(bare["input_ids"], ids)
    assert not any(key.startswith(("pixel", "image")) for key in bare)
    plain = {key: bare[key] for key in ("input_ids", "token_type_ids", "mm_token_type_ids") if key in bare}
    assert gap(forward(model(name), bare), forward(model(name), plain)) < 1e-5


def test_positions_stay_or_move_up():
    inputs = first("llava")  # six words, 36 image tokens, six words
    assert without("llava", inputs, "keep_positions")["position_ids"].tolist() == [[*range(6), *range(42, 48)]]
    assert "position_ids" not in without("llava", inputs, "delete")
    qwen = without("qwen2_vl", first("qwen2_vl"), "keep_positions")["position_ids"]
    assert qwen.shape[0] == 3
    assert qwen[:, 0, :6].tolist() == [list(range(6))] * 3
    assert int(qwen[0, 0, 6]) == 6 + 3  # an image of 2 x 3 tokens takes as many positions as its longer side


@pytest.mark.parametrize("name", VLMS)
def test_a_blank_image_has_one_value_and_all_its_tokens(name: str):
    inputs = first(name)
    bare = without(name, inputs, "blank_image")
    assert torch.equal(bare["input_ids"], inputs["input_ids"])
    assert bare["pixel_values"].shape == inputs["pixel_values"].shape
    assert bare["pixel_values"].abs().max() < 1e-30
    blank = {**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}
    if name != "idefics3":  # which takes an image of zeros for padding
        assert gap(forward(model(name), bare), forward(model(name), blank)) < 1e-5
    assert gap(forward(model(name), bare), forward(model(name), inputs)) > 1e-2


def test_tiles_that_are_padding_stay_padding():
    inputs = together(first("idefics3"), second("idefics3"))
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"], torch.zeros_like(inputs["pixel_values"])], 1)
    bare = without("idefics3", inputs, "blank_image")["pixel_values"]
    assert (bare[:, 0] != 0).all()
    assert (bare[:, 1] == 0).all()


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("name", VLMS)
def test_both_in_one_batch_equal_each_alone(name: str, removal: Removal):
    inputs = together(first(name), second(name))
    both = forward(model(name), with_and_without(inputs, image(inputs), model(name).hf, removal=removal))
    parts = forward(model(name), inputs), forward(model(name), without(name, inputs, removal))
    for half, part in zip(both.chunk(2), parts, strict=True):
        for sample, padding in ((0, 0), (1, 3)):
            length = part.shape[1] - padding
            assert gap(half[sample, -length:], part[sample, -length:]) < 1e-4


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_sample_without_an_image_stays_as_it_is(removal: Removal):
    inputs = together(first("llava"), {"input_ids": words(9, seed=1)})
    plain = forward(model("llava"), inputs)[1, -9:]
    bare = forward(model("llava"), without("llava", inputs, removal))[1, -9:]
    assert gap(plain, bare) < 1e-4


def test_answers_are_put_behind_each_prompt():
    inputs = together(first("gemma3_mm"), second("gemma3_mm"))
    longer = continued_inputs(inputs, [(20, 21), (30, 31, 32, 33, 34, 35)])
    ids, mask = longer["input_ids"], longer["attention_mask"]
    assert ids.shape[1] == 24  # 21 + 2 are fewer than 18 + 6
    assert ids[0, -2:].tolist() == [20, 21]
    assert ids[1, -6:].tolist() == [30, 31, 32, 33, 34, 35]
    assert mask.sum(1).tolist() == [23, 24]
    assert mask[0, 0] == 0
    assert torch.equal(ids[0, 1:22], first("gemma3_mm")["input_ids"][0])
    assert longer["token_type_ids"][:, -2:].eq(0).all()
    assert torch.equal(longer["pixel_values"], inputs["pixel_values"])
    assert torch.equal(continued_inputs(inputs, [(), ()])["input_ids"], inputs["input_ids"])


def test_what_cannot_be_removed_is_refused(monkeypatch):
    inputs = first("llava")
    only = {**inputs, "input_ids": inputs["input_ids"][:, 6:42]}
    with pytest.raises(UsageError, match="holds nothing but image tokens, so nothing is left without the image"):
        without("llava", only, "delete")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(
        UsageError, match="removal 'noise' is not known; use one of delete, keep_positions, blank_image"
    ):
        without("llava", inputs, "noise")
