"""Image queries that see the question behind the image, and nothing else that is new."""

import pytest
import torch

from headscope import Record, UsageError, Where
from interventions import MutualMask
from tests.headscope.test_hooks import gap
from tests.interventions.cases import (
    first,
    image_of,
    in_steps,
    logits,
    model,
    other_end,
    recorded,
    second,
    together,
    words,
)


def behind(image: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(image)) > image.nonzero().max()


@pytest.mark.parametrize("name", ["llava", "gemma3_mm", "qwen2_vl"])
def test_image_queries_see_the_question_and_all_else_is_as_before(name: str):
    inputs = first(name)
    image = image_of(inputs)
    plain, ours = (recorded(model(name), inputs, "mask", *hooks) for hooks in ((), (MutualMask(),)))
    for layer in (0, 1):
        before, after = plain[layer][0, 0], ours[layer][0, 0]
        assert torch.equal(after, before | (image[:, None] & behind(image)))
        assert not before[image][:, behind(image)].any()


def test_samples_of_a_batch_see_their_own_question():
    inputs = together(first("llava"), second("llava"))
    mask = recorded(model("llava"), inputs, "mask", MutualMask())[0]
    for sample, padding in ((0, 0), (1, 3)):
        image = inputs["input_ids"][sample] == 5
        rows = mask[sample, 0][image]
        assert rows[:, behind(image)].all()
        assert not rows[:, :padding].any()


def test_image_states_depend_on_the_question():
    inputs, image = first("llava"), image_of(first("llava"))
    states = [
        recorded(model("llava"), prompt, "resid_post", *hooks)[0][0, image]
        for hooks in ((), (MutualMask(),))
        for prompt in (inputs, other_end(inputs))
    ]
    assert torch.equal(states[0], states[1])
    assert gap(states[2], states[3]) > 1e-3


def test_an_answer_is_seen_by_no_image_query():
    inputs, more = first("llava"), words(2, seed=1)
    seen = Record("mask", Where(layers=(0,)))
    in_steps(model("llava"), inputs, more, MutualMask(), seen)
    assert [call.shape[-1] for call in seen.seen[0]] == [48, 49, 50]
    assert all(call.all() for call in seen.seen[0][1:])  # a new query sees all that came before, as ever


def test_layers_and_heads_can_be_named():
    inputs = first("llava")
    plain, ours = (
        recorded(model("llava"), inputs, "pattern", *h) for h in ((), (MutualMask(heads="L0H2", layers=(0,)),))
    )
    assert torch.equal(ours[0][:, [0, 1, 3]], plain[0][:, [0, 1, 3]])
    assert gap(ours[0][:, 2], plain[0][:, 2]) > 1e-2
    with pytest.raises(UsageError, match=r"layers \[4\] asked for"):
        MutualMask(layers=(4,)).prepared(model("llava"))


def test_an_image_without_a_question_is_left_alone():
    inputs = {name: value[:, :42] if name == "input_ids" else value for name, value in first("llava").items()}
    assert image_of(inputs)[-1]
    assert torch.equal(logits(model("llava"), inputs, MutualMask()), logits(model("llava"), inputs))


def test_a_model_that_reads_both_ways_is_not_changed():
    inputs = first("paligemma")
    inputs["token_type_ids"] = torch.zeros_like(inputs["token_type_ids"])  # all of it prompt, as its processor says
    plain, ours = (recorded(model("paligemma"), inputs, "mask", *hooks)[0] for hooks in ((), (MutualMask(),)))
    assert plain.all()
    assert torch.equal(plain, ours)
    assert gap(logits(model("paligemma"), inputs, MutualMask()), logits(model("paligemma"), inputs)) < 1e-4
