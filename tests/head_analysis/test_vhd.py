"""VHD: zero for a head that cannot see the image, large where a head looks at an object that is there."""

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from head_analysis.concentration import gini, head_gini, top_share
from head_analysis.forced import token_spans
from head_analysis.object_vhd import kinds_of, steps_of, token_table
from head_analysis.object_words import ObjectWord, object_words, step_kinds
from head_analysis.separation import measure_separation
from head_analysis.vhd import VHD, measure_vhd, token_vhd, vhd_of_answers
from headscope import Head, HookedModel, Sample, UsageError
from headscope.encoding import placeholder_of
from headscope.scores import HeadScores
from tests.head_analysis.planted_image import ANSWER, BLIND, FINDER, LAYERS, NAMER, named, planted_image_model, scene
from tests.headscope.processors import PINPOINTS, PROCESSORS
from tests.tiny import IMAGE_TOKEN, TINY, VIDEO_TOKEN, build

FAMILIES = [name for name in PROCESSORS if name in TINY]
SCENES = [
    {"cat": [(8, 0, 16, 8)], "bird": [(12, 16, 20, 24)]},
    {"dog": [(4, 4, 12, 8)]},
    {"cat": [(16, 12, 24, 20)], "dog": [(0, 16, 8, 24)]},
    {"bird": [(4, 8, 12, 12)], "dog": [(16, 0, 24, 8)]},
]


@pytest.fixture(scope="module")
def planted() -> HookedModel:
    return planted_image_model()


@pytest.fixture(scope="module")
def measured(planted) -> VHD:
    samples = [scene(boxes, words=i + 1) for i, boxes in enumerate(SCENES)]
    return measure_vhd(planted, samples, max_new_tokens=12)


def family(name: str) -> HookedModel:
    hf = build(name)
    hf.generation_config.suppress_tokens = [IMAGE_TOKEN, VIDEO_TOKEN]  # a random model might write one
    model = HookedModel(hf, PROCESSORS[name](), example=TINY[name].inputs())
    if hasattr(hf.config, "image_grid_pinpoints"):
        hf.config.image_grid_pinpoints = PINPOINTS
    return model


def asking(model: HookedModel) -> list[Sample]:
    image = placeholder_of(model.processor)
    prompts = {f"w10 {image} w11 w12": (24, 24), f"w10 w13 w14 {image} w15 w16 w17": (40, 24)}
    draw = np.random.default_rng(0).integers
    return [
        Sample(prompt, images=(Image.fromarray(draw(0, 255, (height, width, 3), dtype=np.uint8)),))
        for prompt, (width, height) in prompts.items()
    ]


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_is_one_by_one_and_a_given_answer(name):
    model = family(name)
    samples = asking(model)
    together = measure_vhd(model, samples, max_new_tokens=4)
    assert all(steps.shape == (4, 2, 4) for steps in together.steps)
    assert min(steps.amax((0, 1, 2)) for steps in together.steps) > 0.1  # random heads depend on the image
    for sample, steps in zip(samples, together.steps, strict=True):
        assert gap(steps, measure_vhd(model, [sample], max_new_tokens=4).steps[0]) < 1e-4
    given = vhd_of_answers(model, model.encode(samples).inputs, [answer.tokens for answer in together.answers])
    assert all(gap(a, b) < 1e-4 for a, b in zip(together.steps, given, strict=True))


@pytest.mark.parametrize("removal", ["keep_positions", "blank_image"])
def test_what_removal_means_moves_the_number(removal):
    model = family("qwen2_vl")
    samples = asking(model)
    plain, other = (measure_vhd(model, samples, max_new_tokens=3, removal=r) for r in ("delete", removal))
    assert plain.meta["removal"] == "delete"
    assert other.meta["removal"] == removal
    assert gap(plain.steps[1], other.steps[1]) > 1e-2
    answers = [answer.tokens for answer in other.answers]
    given = vhd_of_answers(model, model.encode(samples).inputs, answers, removal=removal)
    assert all(gap(a, b) < 1e-4 for a, b in zip(other.steps, given, strict=True))


def test_blind_heads_are_near_zero_and_seeing_heads_are_not(measured):
    means = measured.scores().values
    assert means[:, BLIND].max() < 1e-2
    assert means[:, [FINDER, NAMER]].min() > 1
    assert {head.head for head in measured.scores().top(2 * LAYERS)} == {FINDER, NAMER}


def test_a_blind_image_leaves_nothing_to_see():
    """Two prompts that differ in what their image shows have one answer without it: the control for `delete`."""
    model = planted_image_model()
    inputs = [model.encode([scene(boxes)]).inputs for boxes in SCENES[:2]]
    answer = [model.tokenizer(ANSWER, add_special_tokens=False).input_ids]
    a, b = (vhd_of_answers(model, each, answer, removal="blank_image")[0] for each in inputs)
    plain = vhd_of_answers(model, model.encode([scene({})]).inputs, answer, removal="blank_image")[0]
    assert plain.max() < 1e-3  # a grey image is blank already
    assert a[1, 0, FINDER] > 5 > b[1, 0, FINDER]


def test_steps_are_the_tokens_that_they_predict(measured):
    assert measured.tokens(0) == ("a", " cat", " with", " one", " dog", " and", " two", " bird", " .")
    finder = measured.steps[0][:, 0, FINDER]
    assert set(finder.topk(2).indices.tolist()) == {1, 7}  # cat and bird are there, the dog is not
    assert set(measured.steps[0][:, 0, NAMER].topk(2).indices.tolist()) == {2, 8}  # a step later


def test_objects_that_are_there_have_more_than_invented_ones(measured):
    words = [named(boxes) for boxes in SCENES]
    table = token_table(measured, words)
    assert table["kind"].value_counts().to_dict() == {"other": 24, "correct": 7, "hallucinated": 5}
    found = measure_separation(table, "correct", "hallucinated")
    assert (found.auc, found.positives, found.negatives, found.samples) == (1, 7, 5, 4)
    assert found.p < 0.1
    assert found.shuffled_low < 0.5 < found.shuffled_high
    chosen = measured.at(steps_of(kinds_of(measured, words), "correct"))
    invented = measured.at(steps_of(kinds_of(measured, words), "hallucinated"))
    assert chosen.tokens(0) == (" cat", " bird")
    assert (chosen.scores().values[:, FINDER] > 5 * invented.scores().values[:, FINDER]).all()


def test_samples_without_a_chosen_step_are_counted(measured):
    some = measured.at([[1], [], [], [3]])
    assert some.scores().n == 2
    assert some.scores().meta["samples_dropped"] == 2
    with pytest.raises(UsageError, match="none of 4 samples has a step"):
        measured.at([[]] * 4).scores()
    with pytest.raises(UsageError, match="step 9 was chosen, but answer 0 has 9 tokens"):
        measured.at([[9], [], [], []])


def test_token_vhd_sums_the_largest_of_each_layer():
    vhd = torch.tensor([[[1.0, 5.0, 2.0], [0.0, 1.0, torch.nan]]])
    assert token_vhd(vhd).tolist() == [6]
    assert token_vhd(vhd, 2).tolist() == [8]
    assert token_vhd(torch.ones(1, 2, 32)).tolist() == [6]  # a tenth of 32 heads is 3
    with pytest.raises(UsageError, match="k is 4, but a layer has 3 heads"):
        token_vhd(vhd, 4)


def test_bad_input_is_refused(planted, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the word first
    with pytest.raises(UsageError, match="sample 0 has no image"):
        measure_vhd(planted, [Sample("what")])
    with pytest.raises(UsageError, match="removal 'hide' is not known"):
        measure_vhd(planted, [scene({})], max_new_tokens=2, removal="hide")
    inputs = planted.encode([scene({})]).inputs
    for answer, message in [((), "is empty"), ((4,), "holds an image token")]:
        with pytest.raises(UsageError, match=f"answer 0 {message}"):
            vhd_of_answers(planted, inputs, [answer])


def test_gini_and_top_share():
    assert gini(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(0)
    assert gini(torch.tensor([0.0, 0.0, 0.0, 1.0])) == pytest.approx(0.75)
    assert gini(torch.tensor([1.0, 3.0])) == pytest.approx(0.25)
    scores = HeadScores(torch.tensor([[[3.0, 1.0], [0.0, torch.nan]]]), "m")
    assert top_share(scores, 1) == pytest.approx(0.75)
    assert head_gini(scores) == pytest.approx(gini(torch.tensor([0.0, 1.0, 3.0])))
    with pytest.raises(UsageError, match="amounts of 0 or more"):
        gini(torch.tensor([1.0, -1.0]))
    with pytest.raises(UsageError, match="k is 4, but there are 3 heads"):
        top_share(scores, 4)


def test_tokens_span_the_characters_that_they_write(planted):
    ids = planted.tokenizer("a cat . two", add_special_tokens=False).input_ids
    text = planted.tokenizer.decode(ids)
    spans = token_spans(ids, text, planted.tokenizer)
    assert [text[start:end] for start, end in spans] == ["a", " cat", " .", " two"]
    assert token_spans([], "", planted.tokenizer) == ()


def test_kinds_follow_the_words():
    spans = ((0, 1), (1, 5), (5, 9), (9, 11))
    words = [ObjectWord("hot dog", 2, 9, True), ObjectWord("cup", 10, 11, False)]
    assert step_kinds(spans, words) == ("other", "hallucinated", "continued", "correct")
    assert object_words(words, {"cup"}) == tuple(words)
    with pytest.raises(UsageError, match="is written by no token of an answer of 11 characters"):
        step_kinds(spans, [ObjectWord("cup", 20, 23, False)])


def test_heads_are_named_in_a_frame(measured):
    assert Head(0, FINDER) in measured.scores().top(4)
