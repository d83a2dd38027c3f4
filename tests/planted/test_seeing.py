"""Every analysis of images finds the planted heads and no other, and what the one that sees is worth is known."""

import pytest
import torch
from torch import Tensor

from experiments import run_sweep, units
from experiments.patching.activations import activation_patching
from head_analysis import (
    measure_image_attention,
    measure_localisation,
    measure_vhd,
    sink_dimensions,
)
from head_analysis.located import Localisation
from headscope import Head, HookedModel, Sample
from interventions import Ablate, KnockOut, head_outputs
from tests.planted.seeing import EVERYWHERE, GAZER, HEADS, LAYERS, SEER, STARER, TOKENS, scenes, seeing_model, spoken
from tests.planted.wiring import MASSIVE

SEEDS = pytest.mark.parametrize("seed", [0, 1])
HEADS_THERE = [Head(layer, head) for layer in range(LAYERS) for head in range(HEADS)]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return seeing_model()


@pytest.fixture(scope="module")
def blind() -> HookedModel:
    """The control: the same model without the head that sees."""
    return seeing_model(seer=False)


def located(model: HookedModel, samples: list[Sample]) -> Localisation:
    answers = [sample.target.strip() for sample in samples]
    return measure_localisation(model, samples, answers, [spoken(sample) for sample in samples])


def advantage(model: HookedModel, samples: list[Sample], *hooks: object) -> Tensor:
    """Logit of the right colour less that of the wrong one, for each sample."""
    with model.hooks(*hooks):
        logits = model.forward(samples, last=1).logits[:, -1]
    right, wrong = (
        torch.tensor([model.tokenizer.convert_tokens_to_ids(word.strip()) for word in words])
        for words in ([s.target for s in samples], [s.meta["foil"] for s in samples])
    )
    rows = torch.arange(len(samples))
    return logits[rows, right] - logits[rows, wrong]


# -- found -----------------------------------------------------------------------------------------------------------


def test_the_model_names_the_colour_and_cannot_without_its_seer(model, blind):
    for seed in (0, 1):
        samples = scenes(6, seed=seed)
        answers = model.generate(samples, max_new_tokens=1)
        assert [answer.text for answer in answers] == [sample.target.strip() for sample in samples]
        assert advantage(model, samples).tolist() == pytest.approx([10] * 6, abs=0.02)
        assert advantage(blind, samples).tolist() == pytest.approx([0] * 6, abs=0.02)


@SEEDS
def test_image_attention_names_those_that_look_and_how_much(model, seed):
    found = measure_image_attention(model, scenes(6, seed=seed))
    expected = torch.zeros(LAYERS, HEADS)
    for head in (SEER, GAZER, STARER):
        expected[head] = 1
    expected[EVERYWHERE] = TOKENS / (TOKENS + 3)  # `<s> what <image> ?`
    torch.testing.assert_close(found.text_to_image.values, expected, atol=1e-4, rtol=0)
    assert set(found.image_centric.above(0.5)) == {SEER, GAZER, STARER, EVERYWHERE}
    assert set(found.image_to_image.above(0.9)) == {GAZER}
    early = torch.arange(3, TOKENS + 3)  # an image token sees two words and the image tokens up to itself
    assert found.image_to_image.values[EVERYWHERE] == pytest.approx(float(((early - 2) / early).mean()), abs=1e-4)


@SEEDS
@pytest.mark.parametrize("removal", ["delete", "keep_positions", "blank_image"])
def test_vhd_is_the_length_of_what_the_image_adds(model, seed, removal):
    scores = measure_vhd(model, scenes(4, seed=seed), max_new_tokens=1, removal=removal).scores()
    assert scores.samples[:, SEER.layer, SEER.head].tolist() == pytest.approx([1] * 4, abs=1e-3)
    assert scores.above(0.01) == (SEER,)  # others look, and hand on nothing


@SEEDS
def test_localisation_names_the_seer_against_chance_and_a_fixed_gaze(model, seed):
    samples = scenes(12, seed=seed)
    found = located(model, samples)
    assert found.scores().samples[:, SEER.layer, SEER.head].eq(1).all()
    table = found.table().set_index("name")
    assert table.index[table["p_adjusted"] <= 0.05].tolist() == [str(SEER)]
    assert table.loc[str(SEER), "share"] - table.loc[str(SEER), "elsewhere"] > 0.5
    assert found.chance == pytest.approx(sum(s.meta["tokens"] for s in samples) / 12 / TOKENS)


def test_the_sink_dimension_of_the_language_model_is_found(model):
    assert sink_dimensions(model).dims == (MASSIVE,)


def test_without_the_seer_nothing_is_found_that_it_did(blind):
    samples = scenes(12)
    assert measure_vhd(blind, samples[:4], max_new_tokens=1).scores().values.max() < 0.01
    assert (located(blind, samples).table()["p_adjusted"] > 0.05).all()
    found = measure_image_attention(blind, samples[:4])
    assert set(found.text_to_image.above(0.5)) == {GAZER, STARER, EVERYWHERE}


def test_boxes_of_other_images_are_not_found(model):
    """The control of the boxes: every image with the box of another one."""
    samples = scenes(12)
    boxes = [next(iter(sample.meta["boxes"].values())) for sample in samples]
    moved = [
        Sample(s.prompt, s.target, images=s.images, meta={"boxes": {s.target.strip(): boxes[(i + 5) % 12]}})
        for i, s in enumerate(samples)
    ]
    assert located(model, moved).scores().values[SEER] < 0.5


# -- worth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zero", "uniform", "mean", "resample"])
def test_each_head_costs_what_it_was_planted_for(model, mode):
    samples = scenes(4)
    reference = head_outputs(model, [Sample("what what ?"), Sample("? what")])
    plain = advantage(model, samples)
    for head in HEADS_THERE:
        cost = advantage(model, samples, Ablate([head], mode, reference=reference)) - plain
        if head != SEER:
            assert cost.abs().max() == 0
            continue
        left = [10 * s.meta["tokens"] / (TOKENS + 3) if mode == "uniform" else 0 for s in samples]
        assert cost.tolist() == pytest.approx([share - 10 for share in left], abs=0.02)


@pytest.mark.parametrize("metric", ["logit_difference", "loss"])
def test_a_sweep_sees_the_images(model: HookedModel, metric: str) -> None:
    samples = scenes(4)
    found = run_sweep(model, samples, units(HEADS_THERE), metric=metric, batch_tokens=64).table
    others = found[found["unit"] != str(SEER)]
    whole = advantage(model, samples)
    if metric == "logit_difference":
        assert torch.allclose(torch.tensor(found["clean"][:4].to_numpy(), dtype=torch.float32), whole, atol=1e-3)
        without = advantage(model, samples, Ablate([SEER]))
        mine = torch.tensor(found[found["unit"] == str(SEER)].sort_values("sample")["value"].to_numpy()).float()
        assert torch.allclose(mine, without, atol=1e-3)
        assert (whole - without).min() > 5
    else:
        assert found[found["unit"] == str(SEER)]["effect"].min() > 2
    assert others["effect"].abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({}, True),
        ({"from_layer": SEER.layer}, True),
        ({"layers": (0,)}, False),
        ({"heads": [SEER]}, True),
        ({"heads": [head for head in HEADS_THERE if head != SEER]}, False),
        ({"keys": "text"}, False),
    ],
)
def test_the_answer_is_lost_where_the_seer_cannot_see_the_image(model, options, lost):
    samples = scenes(3)
    cost = advantage(model, samples) - advantage(model, samples, KnockOut(**options))
    assert cost.tolist() == pytest.approx([10 * lost] * 3, abs=0.02)


@pytest.mark.parametrize("site", ["z", "v"])
def test_patching_between_images_names_the_seer(model, site):
    """Two images that differ in the colour of the box alone: the right answer of one is the wrong one of the other."""
    clean = scenes(3)
    other = {s.target: s for s in clean}
    corrupt = [Sample(s.prompt, s.meta["foil"], images=_painted(s, other[s.meta["foil"]])) for s in clean]
    scores = activation_patching(model, clean, corrupt, site=site)
    expected = torch.zeros(LAYERS, HEADS)
    expected[SEER] = 1
    torch.testing.assert_close(scores.values, expected, atol=5e-3, rtol=0)


def _painted(sample: Sample, other: Sample) -> tuple:
    """The sample's image with its box in the other's colour."""
    image = sample.images[0].copy()
    boxes = other.meta["boxes"]
    colour = other.images[0].getpixel(next(iter(boxes.values()))[0][:2])
    image.paste(colour, next(iter(sample.meta["boxes"].values()))[0])
    return (image,)
