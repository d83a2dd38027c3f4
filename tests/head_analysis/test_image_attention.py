"""Attention to the image: equal to sums over full patterns, found where it was planted, the same in a padded batch."""

import pytest
import torch

from head_analysis.image_attention import image_centric, measure_image_attention
from head_analysis.sink_marks import SinkMarks
from headscope import HookedModel, Record, Sample, UsageError
from tests.head_analysis.planted_image import BLIND, DRAWN, FINDER, NAMER, SINK, planted_image_model, scene
from tests.head_analysis.test_vhd import FAMILIES, asking, family

BOXES = {"cat": [(8, 0, 16, 8)], "bird": [(12, 16, 20, 24)]}
NAMES = ("text_to_image", "image_to_image", "image_centric")


@pytest.fixture(scope="module")
def planted() -> HookedModel:
    return planted_image_model()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_one_by_one_and_the_sum_over_the_pattern(name):
    model = family(name)
    samples = asking(model)
    together = measure_image_attention(model, samples, dims=())
    for i, sample in enumerate(samples):
        alone = measure_image_attention(model, [sample], dims=())
        for score in NAMES:
            torch.testing.assert_close(getattr(together, score).samples[i], getattr(alone, score).samples[0])
        ids = torch.tensor(model.tokens(sample).ids)
        image = ids == model.hf.config.image_token_id
        pattern = model.record([sample], "pattern")[0]
        mass = pattern[..., image].sum(-1)
        behind = int(image.nonzero().max()) + 1
        torch.testing.assert_close(together.text_to_image.samples[i], mass[..., behind:].mean(-1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.image_to_image.samples[i], mass[..., image].mean(-1), atol=1e-5, rtol=1e-4)
        centric = (mass[..., behind:] >= 0.2).float().mean(-1)
        torch.testing.assert_close(together.image_centric.samples[i], centric)


def test_planted_heads_look_where_they_were_made_to(planted):
    found = measure_image_attention(planted, [scene(BOXES, black=(1, 4)), scene(BOXES, black=(3, 2), words=3)])
    text, centric = (scores.values.mean(0) for scores in (found.text_to_image, found.image_centric))
    assert text[BLIND] < 1e-6
    assert text[[FINDER, NAMER]].min() > 0.8
    assert 0.4 < text[DRAWN] < 0.7  # shared with the sink at the start
    assert centric.tolist() == [1, 1, 0, 0]  # all that DRAWN gives the image lies on its sink
    assert found.image_centric.meta["dims"] == [SINK]


def test_without_sinks_a_drawn_head_is_image_centric(planted):
    """The control: the same head, told that there are no sinks."""
    found = measure_image_attention(planted, [scene(BOXES, black=(1, 4))], dims=())
    assert found.image_centric.values[:, DRAWN].tolist() == [1, 1, 1]


def test_answer_steps_are_the_queries_that_choose_them(planted):
    sample = scene(BOXES)
    answer = planted.generate(sample, max_new_tokens=12)
    every = measure_image_attention(planted, [sample], answers=[answer]).text_to_image.values
    cat = measure_image_attention(planted, [sample], answers=[answer.tokens], steps=[[1]]).text_to_image.values
    dog = measure_image_attention(planted, [sample], answers=[answer], steps=[[4]]).text_to_image.values
    assert cat[0, FINDER] > 0.999  # all on the red tokens
    assert dog[0, FINDER] < every[0, FINDER] < cat[0, FINDER]
    whole = Sample(f"{sample.prompt} {answer.text}", images=sample.images)
    rows = planted.attention_rows([whole], positions=(-9,))[0][
        :, :, 0
    ]  # `a` is 9 words from the end, and chooses `cat`
    image = torch.tensor(planted.tokens(whole).ids) == planted.hf.config.image_token_id
    torch.testing.assert_close(cat, rows[..., image].sum(-1), atol=1e-5, rtol=1e-4)


def test_marks_are_those_of_the_recorded_states(planted):
    samples = [scene(BOXES, black=(1, 4)), scene(BOXES, words=4)]
    marks, record = SinkMarks((SINK,), 3.0), Record("resid_pre")
    with planted.hooks(marks, record):
        output = planted.forward(samples)
    padding = output.batch.padding.tolist()
    assert padding == [6, 0]
    first = marks.of_sample(0)
    assert first.sum(1).tolist() == [2, 2, 2]
    assert first[0].nonzero().flatten().tolist() == [6, 6 + 3 + 10]  # the start, and the black patch
    assert marks.of_sample(1)[0].nonzero().flatten().tolist() == [0]


def test_conditions_of_image_centric():
    image, useful = torch.tensor([0.19, 0.2, 0.6, 0.6, 0.0]), torch.tensor([0.19, 0.1, 0.31, 0.29, 0.0])
    assert image_centric(image, useful).tolist() == [False, True, True, False, False]
    assert image_centric(image, useful, min_image=0.0, rho=1.0).tolist() == [True, False, False, False, False]


def test_bad_input_is_refused(planted):
    sample = scene({})
    behind = Sample("what <image>", images=sample.images)
    for samples, message in [([], "no samples"), ([Sample("what")], "has no image"), ([behind], "no text behind it")]:
        with pytest.raises(UsageError, match=message):
            measure_image_attention(planted, samples)
    with pytest.raises(UsageError, match=r"rho is 2.0, but it is a share"):
        measure_image_attention(planted, [sample], rho=2.0)
    with pytest.raises(UsageError, match="steps were chosen without answers"):
        measure_image_attention(planted, [sample], steps=[[0]])
    with pytest.raises(UsageError, match=r"steps \[3\] were chosen of answer 0, which has 2 tokens"):
        measure_image_attention(planted, [sample], answers=[(9, 10)], steps=[[3]])
    with pytest.raises(UsageError, match="1 answers were given for 2 samples"):
        measure_image_attention(planted, [sample, sample], answers=[(9,)])
