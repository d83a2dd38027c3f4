"""Samples with images in tokens: marks located, batches padded, prompts and images that do not match refused."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headscope import HookedModel, Sample, UsageError
from headscope.encoding import encode, layout_of, placeholder_of, tokens_of
from tests.headscope.images.test_families import EVERY_FAMILY, quiet_model
from tests.headscope.processors import PROCESSORS
from tests.headscope.test_hooks import word_tokenizer as text_tokenizer
from tests.tiny import BOS, IMAGE_TOKEN

CPU = torch.device("cpu")
WIDE, HIGH = (70, 40), (40, 90)


@cache
def processor_of(name: str) -> Any:
    return PROCESSORS[name]()


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def words(ids: Any) -> list[int]:
    """The ids that are words of the prompt: above those of special tokens, below those of an image's tiles."""
    return [i for i in ids if 10 <= i < 80]


# -- marks -----------------------------------------------------------------------------------------------------------


@EVERY_FAMILY
def test_marks_are_found_around_the_images(name: str):
    image = placeholder_of(processor_of(name))
    prompt = f"w10 w11 {image} w12 w13\nw14 {image} w15 w16"
    marks = {"before": "w11", "between": "w12 w13\nw14", "after": "w16", "span": (0, 3)}
    tokens = tokens_of(Sample(prompt, marks=marks, images=(noise(WIDE), noise(HIGH))), processor_of(name))
    found = {mark: words(tokens.ids[start:end]) for mark, (start, end) in tokens.marks.items()}
    assert found == {"before": [11], "between": [12, 13, 14], "after": [16], "span": [10]}
    start, end = tokens.marks["between"]
    assert IMAGE_TOKEN not in tokens.ids[start:end]


@EVERY_FAMILY
def test_the_mark_of_a_placeholder_is_all_that_stands_for_the_image(name: str):
    processor = processor_of(name)
    image = placeholder_of(processor)
    sample = Sample(f"w10 {image} w11 {image} w12", marks={"first": (4, 4 + len(image))}, images=(noise(WIDE),) * 2)
    start, end = tokens_of(sample, processor).marks["first"]
    layout = layout_of(sample, quiet_model(name).config, processor)
    inside = (layout.places >= start) & (layout.places < end)
    assert torch.equal(inside, layout.image == 0)


def test_a_mark_may_reach_across_an_image():
    sample = Sample("w10 <image> w11 w12", marks={"all": "w10 <image> w11"}, images=(noise(WIDE),))
    tokens = tokens_of(sample, processor_of("llava"))
    assert tokens.marks["all"] == (1, 1 + 38)


def test_a_text_that_the_processor_writes_twice_is_refused():
    """PaliGemma writes `<s>` before the text and a new line after it, so a new line at the end could be either."""
    sample = Sample("<image>\n", marks={"end": "\n"}, images=(noise(WIDE),))
    with pytest.raises(
        UsageError, match=r"the processor rewrote '\\n' as '<s>\\n\\n', in which marks cannot be located"
    ):
        tokens_of(sample, processor_of("paligemma"))


def test_a_mark_that_no_token_covers_is_refused():
    sample = Sample("w10  w11 <image>", marks={"gap": (3, 4)}, images=(noise(WIDE),))
    with pytest.raises(UsageError, match="no token covers mark 'gap'"):
        tokens_of(sample, processor_of("llava"))


# -- batches ---------------------------------------------------------------------------------------------------------


@EVERY_FAMILY
def test_a_batch_says_of_each_sample_what_it_says_alone(name: str):
    processor = processor_of(name)
    image = placeholder_of(processor)
    samples = [
        Sample(f"{image} w10 w11", images=(noise(WIDE),), marks={"last": "w11"}),
        Sample("w12 w13 w14", marks={"last": "w14"}),
        Sample(f"w15 {image} w16 w17 w18 {image} w19", images=(noise(HIGH), noise(WIDE, 1)), marks={"last": "w19"}),
    ]
    batch = encode(samples, processor, CPU)
    assert batch.tokens == tuple(tokens_of(sample, processor) for sample in samples)
    for i, sample in enumerate(samples):
        padding = int(batch.padding[i])
        assert batch.inputs["input_ids"][i, padding:].tolist() == list(batch.tokens[i].ids)
        assert batch.inputs["attention_mask"][i].tolist() == [0] * padding + [1] * len(batch.tokens[i].ids)
        alone = layout_of(sample, quiet_model(name).config, processor)
        assert torch.equal(batch.layout_of(i, quiet_model(name).config, processor).places, alone.places)
    assert batch.image_sizes == ((WIDE,), (), (HIGH, WIDE))
    assert "labels" not in batch.inputs


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl", "idefics3", "internvl"])
def test_padded_predictions_are_those_of_one_by_one(name: str):
    processor = processor_of(name)
    model = HookedModel(quiet_model(name), processor)
    image = placeholder_of(processor)
    samples = [
        Sample(f"{image} w10 w11", images=(noise(WIDE),)),
        Sample("w12 w13 w14"),
        Sample(f"w15 {image} w16 {image} w19", images=(noise(HIGH), noise(WIDE, 1))),
    ]
    together = model.forward(samples)
    for i, sample in enumerate(samples):
        alone = model.forward([sample]).of_sample(0)[-1]
        assert (together.of_sample(i)[-1] - alone).abs().max() < 2e-4
    blind = model.forward([Sample(f"{image} w10 w11", images=(noise(WIDE, 9),))]).of_sample(0)[-1]
    assert (together.of_sample(0)[-1] - blind).abs().max() > 1e-2  # the images do matter


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's own, of tensors
@EVERY_FAMILY
def test_inputs_are_those_of_the_processor_itself(name: str):
    processor = processor_of(name)
    prompt, images = f"w10 {placeholder_of(processor)} w11", [[noise(WIDE)]]
    expected = processor(text=[prompt], images=images, return_tensors="pt")
    inputs = encode([Sample(prompt, images=(noise(WIDE),))], processor, CPU).inputs
    assert set(inputs) == set(expected) - {"labels"}
    for key, value in inputs.items():
        assert value.dtype == expected[key].dtype
        assert torch.equal(value, expected[key])


def test_text_alone_has_no_pixels():
    batch = encode([Sample("w10 w11"), Sample("w12")], processor_of("llava"), CPU)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    assert batch.image_sizes == ((), ())


def test_an_image_may_be_a_file_or_an_array(tmp_path: Path):
    picture = noise(WIDE)
    picture.save(tmp_path / "noise.png")
    pixels = [
        encode([Sample("<image> w10", images=(source,))], processor_of("llava"), CPU).inputs["pixel_values"]
        for source in (picture, tmp_path / "noise.png", np.asarray(picture))
    ]
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])


def test_a_chat_begins_once():
    """The template wrote `<s>`, so the tokenizer must not; without a template it must."""
    images = (noise(WIDE),)
    for chat, prompt in ((True, "<s> <image> w10"), (False, "<image> w10")):
        sample = Sample(prompt, images=images, chat=chat)
        ids = encode([sample], processor_of("llava"), CPU).inputs["input_ids"][0].tolist()
        assert (ids[0], ids.count(BOS)) == (BOS, 1)
        assert tokens_of(sample, processor_of("llava")).ids == tuple(ids)


# -- what is refused -------------------------------------------------------------------------------------------------


@EVERY_FAMILY
@pytest.mark.parametrize(("placeholders", "images"), [(2, 1), (1, 2), (0, 1), (1, 0)])
def test_placeholders_and_images_must_match(name: str, placeholders: int, images: int):
    processor = processor_of(name)
    image = placeholder_of(processor)
    sample = Sample("w10 " + f"{image} " * placeholders, images=(noise(WIDE),) * images)
    said = (
        rf"the prompt has {placeholders} image placeholders \({image.replace('|', '[|]')}\) and the sample {images} im"
    )
    for ask in (lambda: tokens_of(sample, processor), lambda: encode([sample], processor, CPU)):
        with pytest.raises(UsageError, match=said):
            ask()


def test_images_need_a_processor_that_takes_them():
    with pytest.raises(UsageError, match=r"images but .*Tokenizer.* takes text only"):
        encode([Sample("w10", images=(noise(WIDE),))], text_tokenizer(), CPU)


def test_chats_and_other_prompts_with_images_go_apart():
    samples = [Sample("<image> w10", images=(noise(WIDE),), chat=chat) for chat in (True, False)]
    with pytest.raises(UsageError, match="some of these are chats and some are not"):
        encode(samples, processor_of("llava"), CPU)


def test_what_the_processor_refuses_is_passed_on():
    with pytest.raises(UsageError, match=r"Qwen2VLProcessor does not take these samples: absolute aspect ratio"):
        tokens_of(Sample("<|image_pad|>", images=(noise((2, 500)),)), processor_of("qwen2_vl"))


def test_an_image_that_is_none_is_named():
    with pytest.raises(UsageError, match=r"'nowhere\.png' does not exist"):
        encode([Sample("<image> w10", images=("nowhere.png",))], processor_of("llava"), CPU)
