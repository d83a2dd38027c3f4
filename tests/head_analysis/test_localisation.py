"""Localisation: heads that were made to look at the object are found, at the row where they do, and no others."""

import jaxtyping
import pytest
import torch

from head_analysis.localisation import Localisation, measure_localisation
from head_analysis.object_words import ObjectWord
from headscope import HookedModel, Sample, UsageError
from tests.head_analysis.planted_image import (
    ANSWER,
    BLIND,
    DRAWN,
    FINDER,
    LAYERS,
    NAMER,
    named,
    planted_image_model,
    scene,
)

SCENES = [
    {"cat": [(8, 0, 16, 8)], "bird": [(12, 16, 20, 24)]},
    {"dog": [(4, 4, 12, 8)], "cat": [(16, 16, 24, 20)]},
    {"cat": [(16, 12, 24, 20), (4, 4, 8, 8)], "dog": [(0, 16, 8, 24)]},
    {"bird": [(4, 8, 12, 12)], "dog": [(16, 0, 24, 8)], "cat": [(12, 16, 20, 24)]},
    {"bird": [(16, 4, 24, 12)]},
    {"dog": [(8, 16, 16, 20)]},
]


@pytest.fixture(scope="module")
def planted() -> HookedModel:
    return planted_image_model()


def measured(model: HookedModel, **options) -> Localisation:
    samples = [scene(boxes, words=i % 3 + 1) for i, boxes in enumerate(SCENES)]
    answers = [model.generate(sample, max_new_tokens=12) for sample in samples]
    return measure_localisation(model, samples, answers, [named(boxes) for boxes in SCENES], **options)


@pytest.mark.parametrize(("row", "head", "blind"), [("predicting", FINDER, NAMER), ("word", NAMER, FINDER)])
def test_the_planted_head_is_found_at_its_row_only(planted, row, head, blind):
    found = measured(planted, row=row)
    shares = found.scores().values
    assert shares[:, head].tolist() == [1] * LAYERS
    assert shares[:, [blind, BLIND, DRAWN]].max() < 0.5
    table = found.table()
    assert set(table["head"][:LAYERS]) == {head}
    best, rest = table[table["head"] == head], table[table["head"] != head]
    assert (best["low"] > best["chance"]).all()
    assert (best["p_adjusted"] < 0.1).all()
    assert (rest["p_adjusted"] > 0.1).all()
    assert best["elsewhere"].max() < 0.4  # it looks elsewhere when the object is elsewhere


def test_words_and_chance_are_counted(planted):
    found = measured(planted)
    assert found.words[["sample", "category", "step", "inside", "tokens"]].values.tolist()[:3] == [
        [0, "cat", 1, 4, 36],
        [0, "bird", 7, 4, 36],
        [1, "cat", 1, 2, 36],
    ]
    assert len(found.words) == sum(map(len, SCENES))
    assert found.words["inside"][4] == 5  # both boxes of a cat
    per_sample = [(4 + 4) / 2, (2 + 2) / 2, (5 + 4) / 2, (2 + 4 + 4) / 3, 4, 2]
    assert found.chance == pytest.approx(sum(per_sample) / 6 / 36)
    assert found.meta["words_without_box"] == 6 * 3 - len(found.words)


def test_a_batch_is_one_by_one(planted):
    together, alone = measured(planted), measured(planted, batch_tokens=1)
    assert torch.equal(together.found, alone.found)
    assert torch.equal(together.elsewhere, alone.elsewhere)


def test_a_given_text_is_as_good_as_the_models_own(planted):
    sample = scene(SCENES[0])
    given = measure_localisation(planted, [sample], [ANSWER], [named(SCENES[0])])
    assert given.scores().values[:, FINDER].tolist() == [1] * LAYERS


def test_boxes_of_other_objects_are_not_found(planted):
    """The control: where cats are said to be where birds are, the head that finds cats finds none."""
    wrong = [scene(boxes) for boxes in ({"cat": [(8, 0, 16, 8)], "bird": [(12, 16, 20, 24)]},)]
    swapped = {"cat": [(12, 16, 20, 24)], "bird": [(8, 0, 16, 8)]}
    sample = Sample(wrong[0].prompt, images=wrong[0].images, meta={"boxes": swapped})
    found = measure_localisation(planted, [sample], [ANSWER], [named(swapped)])
    assert found.scores().values[:, FINDER].tolist() == [0] * LAYERS


def test_a_head_with_a_fixed_gaze_is_as_good_elsewhere(planted):
    """Every object lies at the same place, and the sink too: DRAWN is always right, and no better than elsewhere."""
    here = (8, 8, 16, 16)
    scenes = [scene({name: [here]}, black=(2, 2)) for name in ("cat", "dog", "bird")]
    words = [named({name: [here]}) for name in ("cat", "dog", "bird")]
    table = measure_localisation(planted, scenes, [ANSWER] * 3, words).table()
    drawn = table[table["head"] == DRAWN]
    assert (drawn["share"] == 1).all()
    assert (drawn["elsewhere"] == 1).all()


def test_bad_input_is_refused(planted, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    sample, words = scene(SCENES[0]), named(SCENES[0])
    with pytest.raises(UsageError, match="row 'next' is not known"):
        measure_localisation(planted, [sample], [ANSWER], [words], row="next")
    with pytest.raises(UsageError, match="1 samples, 1 answers and words for 2"):
        measure_localisation(planted, [sample], [ANSWER], [words, words])
    with pytest.raises(UsageError, match="1 images and no boxes in its meta"):
        measure_localisation(planted, [Sample(sample.prompt, images=sample.images)], [ANSWER], [words])
    for nothing in ([], [ObjectWord("fish", 0, 1, True)]):
        with pytest.raises(UsageError, match=f"none of {len(nothing)} object words has a box"):
            measure_localisation(planted, [sample], [ANSWER], [nothing])
    small = Sample(sample.prompt, images=sample.images, meta={"boxes": {"cat": [(0, 0, 1, 1)]}})
    with pytest.raises(UsageError, match="has a box with an image token in it"):
        measure_localisation(planted, [small], [ANSWER], [words])
    with pytest.raises(UsageError, match="the answer '' has no tokens"):
        measure_localisation(planted, [sample], [""], [[]])
