"""Scores of image keys raised, for the query that chooses a token."""

import pytest
import torch

from headscope import Record, UsageError, Where
from interventions import ImageBoost
from interventions.boost import boosted
from tests.headscope.test_hooks import gap
from tests.interventions.cases import deep_model, first, image_of, in_steps, logits, model, recorded, words

BOTH = (0, 1)


def test_scores_by_hand():
    scores = torch.tensor([-2.0, 0.0, 3.0]).reshape(1, 1, 1, 3)
    raised = boosted(scores, torch.full((1, 1, 1, 3), 0.5))
    assert raised.flatten().tolist() == [-1.0, 0.0, 4.5]  # towards zero from below, away from it above
    only_last = boosted(scores, torch.tensor([0.0, 0.0, 1.0]).reshape(1, 1, 1, 3))
    assert only_last.flatten().tolist() == [-2.0, 0.0, 6.0]


@pytest.mark.parametrize("name", ["llava", "gemma3_mm"])
def test_the_last_row_is_the_softmax_of_raised_scores(name: str):
    inputs, boost = first(name), ImageBoost(0.5, heads="L0H1, L0H2", layers=BOTH)
    scores = recorded(model(name), inputs, "scores")[0][0]
    plain, ours = (recorded(model(name), inputs, "pattern", *hooks)[0][0] for hooks in ((), (boost,)))
    image = image_of(inputs)
    visible = recorded(model(name), inputs, "mask")[0][0, :, -1]
    raised = torch.where(image, scores[:, -1] + 0.5 * scores[:, -1].abs(), scores[:, -1])
    expected = raised.masked_fill(~visible, -torch.inf).softmax(-1)
    for head in (1, 2):
        assert gap(ours[head, -1], expected[head]) < 1e-6
        assert ours[head, -1, image].sum() > plain[head, -1, image].sum()
    assert torch.equal(ours[[0, 3]], plain[[0, 3]])
    assert torch.equal(ours[:, :-1], plain[:, :-1])


def test_every_row_that_chooses_a_token_is_boosted_and_no_other():
    inputs, more = first("llava"), words(3, seed=2)
    plain, ours = Record("pattern", Where(layers=(0,))), Record("pattern", Where(layers=(0,)))
    in_steps(model("llava"), inputs, more, plain)
    in_steps(model("llava"), inputs, more, ImageBoost(layers=BOTH), ours)
    image = image_of(inputs)
    for step, (before, after) in enumerate(zip(plain.seen[0], ours.seen[0], strict=True)):
        assert torch.equal(before[:, :, :-1], after[:, :, :-1])
        on_image = [rows[0, :, -1, : len(image)][:, image].sum(-1) for rows in (before, after)]
        assert (on_image[1] > on_image[0]).all(), step
    assert len(ours.seen[0]) == 4


def test_one_pass_and_the_first_step_of_an_answer_agree():
    inputs, boost = first("llava"), ImageBoost(0.5, layers=BOTH)
    alone = logits(model("llava"), inputs, boost)[:, -1]
    assert torch.equal(in_steps(model("llava"), inputs, words(1, seed=2), boost)[:, 0], alone)
    with model("llava").hooks(boost), torch.no_grad():  # and with what transformers' own loop does
        options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        written = model("llava").hf.generate(**inputs, **options)
    assert gap(written.logits[0], alone) < 1e-5


def test_layers_are_all_but_the_first_two():
    assert ImageBoost().prepared(deep_model(5)).layers == (2, 3, 4)
    with pytest.raises(UsageError, match="ImageBoost leaves the first two layers alone, and llava has no others"):
        ImageBoost().prepared(model("llava"))


def test_alpha_zero_changes_nothing_and_less_is_refused():
    inputs = first("llava")
    assert gap(logits(model("llava"), inputs, ImageBoost(0, layers=BOTH)), logits(model("llava"), inputs)) < 1e-5
    with pytest.raises(UsageError, match=r"ImageBoost's alpha is -0\.5; give a number of at least 0"):
        ImageBoost(-0.5)
    with pytest.raises(UsageError, match="ImageBoost's alpha is nan"):
        ImageBoost(float("nan"))


def test_heads_outside_the_model_are_refused():
    with pytest.raises(UsageError, match="L0H9 asked for, but llava has layers 0-1 with 4 heads"):
        ImageBoost(heads="L0H9", layers=BOTH).prepared(model("llava"))
