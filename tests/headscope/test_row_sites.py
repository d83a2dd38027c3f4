"""Edits of masks and scores, on every architecture, against what eager attention gives when its weights are redone."""

from functools import cache

import jaxtyping
import pytest
import torch
from torch import Tensor

from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.hooks import Context
from tests.eager import eager_copy, edited_eager
from tests.headscope import test_hooks
from tests.headscope.test_architectures import EFFECT, EVERY_STACK, equal, middle
from tests.headscope.test_hooks import Edit, gap, under
from tests.test_tiny import predicted, prediction
from tests.tiny import TINY, left_padded, prompt

HIDDEN = 2  # the place of the key that an edit hides
HEADS = (1, 3)

hooked = cache(test_hooks.hooked)


def hide(rows: Tensor, ctx: Context) -> Tensor:
    return rows & (ctx.key_positions != HIDDEN)[:, None, None]


def raise_by_key(rows: Tensor, ctx: Context) -> Tensor:
    return rows + _raise(ctx.key_positions)[:, None, None]


def _raise(places: Tensor) -> Tensor:
    return 0.7 * (places % 3).float()


def redone(weights: Tensor, change: str, *, sinks: bool) -> Tensor:
    """Weights after the same change, worked out from the weights alone; sinks keep their share of the softmax."""
    places = torch.arange(weights.shape[-1])
    factor = (places != HIDDEN).float() if change == "mask" else _raise(places).exp()
    sink = 1 - weights.sum(-1, keepdim=True) if sinks else 0.0
    changed = weights * factor
    total = changed.sum(-1, keepdim=True) + sink
    return changed / total.clamp_min(1e-30)


@EVERY_STACK
@pytest.mark.parametrize("change", ["mask", "scores"])
def test_an_edit_of_masks_or_scores_is_the_edit_of_the_softmax(name, stack, change):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = middle(model, stack)
    site = next(one for one in model.sites_of(stack) if one.layer == layer)
    chosen = Where(heads=tuple(Head(layer, head) for head in HEADS), stack=stack)
    edit = Edit(change, chosen, hide if change == "mask" else raise_by_key)

    def change_weights(called: str, index: int, weights: Tensor) -> Tensor:
        if called != site.name:
            return weights
        new = weights.clone()
        new[:, list(HEADS)] = redone(weights[:, list(HEADS)], change, sinks=name == "gpt_oss")
        return new

    ours = under(model, inputs, edit)
    theirs = predicted(edited_eager(eager_copy(model.hf), inputs, change_weights))
    assert gap(ours, prediction(model.hf, inputs)) > EFFECT
    assert equal(ours, theirs)


def test_only_an_edit_of_the_mask_shows_hidden_keys():
    model, inputs = hooked("llama"), prompt(10)

    def look_ahead(rows: Tensor, ctx: Context) -> Tensor:
        return torch.ones_like(rows)

    record = Record("pattern", Where(layers=(0,)))
    with model.hooks(Edit("mask", Where(layers=(0,)), look_ahead), record):
        model.hf(**inputs)
    assert (record.seen[0][0] > 0).all()

    def huge(rows: Tensor, ctx: Context) -> Tensor:
        return rows + 50.0 * ~ctx.visible

    assert gap(under(model, inputs, Edit("scores", Where(), huge)), prediction(model.hf, inputs)) < 1e-5


def test_edits_of_masks_come_before_scores_and_scores_before_patterns_in_any_order():
    model, inputs = hooked("llama"), prompt(10)
    seen: list[str] = []

    def noting(site: str) -> Edit:
        return Edit(site, Where(layers=(0,)), lambda rows, ctx: seen.append(site) or rows)

    with model.hooks(noting("pattern"), noting("scores"), noting("mask")):
        model.hf(**inputs)
    assert seen == ["mask", "scores", "pattern"]


def test_a_pattern_edit_sees_the_edited_mask():
    model, seen = hooked("llama"), []

    def keep(rows: Tensor, ctx: Context) -> Tensor:
        seen.append((rows, ctx.visible))
        return rows

    with model.hooks(Edit("pattern", Where(layers=(0,)), keep), Edit("mask", Where(layers=(0,)), hide)):
        model.hf(**prompt(6))
    rows, visible = seen[0]
    assert not visible[..., HIDDEN].any()
    assert not rows[..., HIDDEN].any()
    assert gap(rows.sum(-1), visible.any(-1).expand(rows.shape[:-1]).float()) < 1e-5


def test_a_query_left_without_keys_hands_over_zeros():
    model = hooked("llama")
    record = Record("z", Where(layers=(0,)))
    with model.hooks(Edit("mask", Where(layers=(0,), positions=(3,)), lambda rows, ctx: rows & False), record):
        model.hf(**prompt(6))
    z = record.seen[0][0]
    assert not z[:, 3].any()
    assert z[:, [2, 4]].abs().amax((2, 3)).min() > 0


@pytest.mark.parametrize("site", ["mask", "scores"])
def test_a_padded_batch_equals_its_samples(site):
    model = hooked("llama")
    edit = Edit(site, Where(), hide if site == "mask" else raise_by_key)
    long, short = prompt(12, seed=1), prompt(7, seed=2)
    together = under(model, left_padded(long, short), edit)
    assert gap(together[1, 5:], under(model, short, edit)[0]) < 2e-5
    assert gap(together[0], under(model, long, edit)[0]) < 2e-5


# -- image tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in TINY.items() if row.kind == "vlm"])
def test_regions_are_found_in_the_prompt_and_kept_while_decoding(name):
    model, inputs = hooked(name), TINY[name].inputs()
    image = torch.isin(inputs["input_ids"][0], torch.tensor(_image_ids(model)))
    end = int(image.nonzero().max()) + 1
    seen: list[tuple[Tensor, Context]] = []

    def keep(act: Tensor, ctx: Context) -> Tensor:
        seen.append((ctx.positions[ctx.active], ctx))
        return act

    places = {}
    for region in ("image", "text", "after_image"):
        seen.clear()
        with model.hooks(Edit("z", Where(layers=(0,), region=region), keep)):
            model.hf.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
        places[region] = torch.cat([found for found, _ in seen]).tolist()
    length = len(image)
    assert places["image"] == image.nonzero().flatten().tolist()
    assert places["text"] == [*(~image).nonzero().flatten().tolist(), length, length + 1]
    assert places["after_image"] == [place for place in range(length + 2) if place >= end]


def _image_ids(model: HookedModel) -> list[int]:
    config = model.hf.config
    return [i for i in (config.image_token_id, getattr(config, "video_token_id", None)) if i is not None]


def test_a_region_needs_a_model_with_images_and_a_pass_with_token_ids(monkeypatch):
    text, record = hooked("llama"), Record("z", Where(region="image"))
    with pytest.raises(UsageError, match="needs a model with image tokens"), text.hooks(record):
        pass
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    with pytest.raises(UsageError, match="region 'sky' is not known"):
        Where(region="sky")
    vlm = hooked("llava")
    embeds = vlm.hf.get_input_embeddings()(prompt(6)["input_ids"])
    with vlm.hooks(Record("z", Where(region="text"))), pytest.raises(UsageError, match="call the model with input_ids"):
        vlm.hf(inputs_embeds=embeds)


def test_a_sample_without_an_image_has_nothing_behind_it():
    model = hooked("llava")
    record = Record("z", Where(layers=(0,), region="after_image"))
    with model.hooks(record):
        model.hf(**prompt(6))
    assert not record.seen
