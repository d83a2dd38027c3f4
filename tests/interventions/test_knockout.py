"""Keys hidden from queries: rows by hand, and a model whose text sees no image against one that is given none."""

import jaxtyping
import pytest
import torch

from headscope import Record, UsageError, Where
from headscope.images.removal import image_free
from interventions import KnockOut, MutualMask
from tests.headscope.test_hooks import gap
from tests.interventions.cases import deep_model, first, image_of, in_steps, logits, model, recorded, words
from tests.tiny import IMAGE_TOKEN


def test_rows_are_shared_among_the_keys_that_are_left():
    inputs, knockout = first("llava"), KnockOut(heads="L0H1")
    plain, ours = (recorded(model("llava"), inputs, "pattern", *hooks)[0][0] for hooks in ((), (knockout,)))
    image = image_of(inputs)
    behind = slice(int(image.nonzero().max()) + 1, None)
    left = torch.where(image, 0.0, plain[1, behind])
    assert gap(ours[1, behind], left / left.sum(-1, keepdim=True)) < 1e-6
    assert torch.equal(ours[1, : behind.start], plain[1, : behind.start])
    assert torch.equal(ours[[0, 2, 3]], plain[[0, 2, 3]])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "llava_onevision"])
def test_text_that_sees_no_image_reads_as_if_there_was_none(name: str):
    inputs, hooked = first(name), model(name)
    image = inputs["input_ids"] == IMAGE_TOKEN
    bare = image_free(hooked.hf, inputs, image, removal="keep_positions")
    ours = logits(hooked, inputs, KnockOut("image", "text"))[0, ~image[0]]
    assert gap(ours, logits(hooked, bare)[0]) < 1e-4
    assert gap(ours, logits(hooked, inputs)[0, ~image[0]]) > 1e-2


def test_a_query_left_with_nothing_hands_over_zeros():
    z = recorded(model("llama"), first("llama"), "z", KnockOut((0,), (0,)))[0]
    assert z[0, 0].eq(0).all()
    assert z[0, 1:].ne(0).any(-1).all()
    rows = recorded(model("llama"), first("llama"), "pattern", KnockOut((0,), (0,)))[0]
    assert rows[0, :, 0].eq(0).all()
    assert logits(model("llama"), first("llama"), KnockOut((0,), (0,))).isfinite().all()


def test_it_begins_at_a_layer():
    inputs, hooked = first("llava"), deep_model(5)
    plain, ours = (recorded(hooked, inputs, "mask", *hooks) for hooks in ((), (KnockOut(from_layer=3),)))
    assert [torch.equal(plain[layer], ours[layer]) for layer in range(5)] == [True, True, True, False, False]
    assert KnockOut(from_layer=3).prepared(hooked).layers == (3, 4)
    assert KnockOut(from_layer=3, layers=(1, 4)).prepared(hooked).layers == (4,)
    with pytest.raises(
        UsageError, match=r"from layer 5 on leaves none of the layers 0, 1, 2, 3, 4 of llava.*lower from_layer"
    ):
        KnockOut(from_layer=5).prepared(hooked)


@pytest.mark.parametrize(
    ("keys", "queries"), [("image", "image"), ("text", "image"), ("text", "text"), ("image", None), ((2, -3), (-1, -2))]
)
def test_groups_and_places_are_those_named(keys, queries):
    inputs = first("llava")
    image = image_of(inputs)
    places = torch.arange(len(image))
    groups = {"image": image, "text": ~image, None: places >= 0}
    named = [
        groups[group]
        if group is None or isinstance(group, str)
        else torch.isin(places, torch.tensor(group) % len(image))
        for group in (keys, queries)
    ]
    plain, ours = (recorded(model("llava"), inputs, "mask", *h)[0][0, 0] for h in ((), (KnockOut(keys, queries),)))
    assert torch.equal(ours, plain & ~(named[0][None] & named[1][:, None]))
    assert not torch.equal(ours, plain)


def test_answers_can_be_cut_off_alone():
    inputs, more = first("llava"), words(2, seed=3)
    seen = Record("mask", Where(layers=(0,)))
    in_steps(model("llava"), inputs, more, KnockOut(phase="decode"), seen)
    image = image_of(inputs)
    prompt, *answer = (call[0, 0] for call in seen.seen[0])
    assert prompt[-2, image].all()
    assert not prompt[-1, image].any()  # the query that chooses the first token
    for step, row in enumerate(answer, 1):
        assert not row[0, : len(image)][image].any()
        assert row[0, : len(image)][~image].all()
        assert row.shape[1] == len(image) + step


def test_it_goes_with_an_edit_that_shows_keys_in_the_order_given():
    inputs = first("llava")
    hide, show = KnockOut("text", "image"), MutualMask()
    shown = recorded(model("llava"), inputs, "mask", hide, show)[0][0, 0]
    hidden = recorded(model("llava"), inputs, "mask", show, hide)[0][0, 0]
    image = image_of(inputs)
    behind = ~image & (torch.arange(len(image)) > image.nonzero().max())
    assert shown[image][:, behind].all()
    assert not hidden[image][:, behind].any()


def test_bad_names_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse them first
    with pytest.raises(UsageError, match="keys 'picture' are not known; use one of image, text, or places"):
        KnockOut("picture")
    with pytest.raises(UsageError, match="region 'question' is not known"):
        KnockOut("image", "question")
    with pytest.raises(UsageError, match="phase 'answer' is not known"):
        KnockOut(phase="answer")


def test_text_models_take_places_only():
    with pytest.raises(UsageError, match=r"KnockOut of 'text' keys needs a model with image tokens"):
        KnockOut("text", (1,)).prepared(model("llama"))
    with pytest.raises(UsageError, match=r"in region 'text' needs a model with image tokens"):
        KnockOut((0,), "text").prepared(model("llama"))
    with pytest.raises(UsageError, match=r"L3H0 asked for"):
        KnockOut((0,), (1,), heads="L3H0").prepared(model("llama"))
    assert (
        gap(logits(model("llama"), first("llama"), KnockOut((0,), (-1,))), logits(model("llama"), first("llama")))
        > 1e-3
    )
