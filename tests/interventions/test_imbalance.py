"""Image tokens that the vision tower attends to: the sets by hand, their tokens in every family, the boost in a model."""

import jaxtyping
import pytest
import torch
from torch import Tensor

from headscope import Context, HookedModel, Record, UnsupportedModelError, UsageError, Where
from interventions import ImageBoost, ImbalanceFix, tower
from interventions.imbalance import token_sets
from interventions.tower import TowerAttention, has_class_token, refuse_unknown, token_ratings
from tests.headscope.test_hooks import Edit, gap
from tests.interventions.cases import (
    VLMS,
    deep_model,
    first,
    image_of,
    in_steps,
    logits,
    model,
    recorded,
    second,
    together,
    words,
)
from tests.tiny import Inputs, build, prompt

BOTH = (0, 1)
NAN = float("nan")

# -- the sets ----------------------------------------------------------------------------------------------------------


def members(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


def test_sets_by_hand():
    early = torch.tensor([0.0, 8.0, 7.0, 1.0, 2.0, 6.0, 3.0, 4.0])
    late = torch.tensor([1.0, 9.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])  # quartiles 1 and 2, so above 3.5
    local, summary = token_sets(early, late)
    assert members(summary) == [1]
    assert members(local) == [2]  # of the two highest, the other is a summary token
    local, _ = token_sets(early, torch.ones(8))
    assert members(local) == [1, 2]
    local, _ = token_sets(early, late, torch.arange(8.0), spatial_share=0.25)
    assert members(local) == [2, 6, 7]


def test_shares_are_rounded_down_and_tokens_without_a_patch_do_not_count():
    ratings = torch.tensor([NAN, 1.0, 2.0, 3.0, NAN, 4.0, 5.0, 6.0, 7.0])  # seven are rated
    flat = torch.where(ratings.isnan(), NAN, 1.0)
    assert [len(members(token_sets(ratings, flat, share=share)[0])) for share in (0.0, 0.25, 0.29, 1.0)] == [0, 1, 2, 7]
    assert members(token_sets(ratings, flat, share=0.25)[0]) == [8]
    assert not token_sets(flat * NAN, flat * NAN)[1].any()
    assert not token_sets(torch.zeros(0), torch.zeros(0))[0].any()


# -- from patches to tokens --------------------------------------------------------------------------------------------


def calls_of(name: str, inputs: Inputs, source: str = "received") -> dict[int, list[Tensor]]:
    reader = TowerAttention(source, BOTH, has_class_token(model(name).hf))
    logits(model(name), inputs, reader)
    return reader.kept


def moved_by(name: str, inputs: Inputs, patch: int, calls: list[Tensor]) -> list[int]:
    """Image tokens that differ when noise is added to one patch, counted through all views, where the tower ends."""
    wide, skipped = calls[0].shape[1], int(has_class_token(model(name).hf))

    def noisy(act: Tensor, place: tuple[int, int]) -> Tensor:
        act = act.clone()
        act[place] += torch.randn(act.shape[-1], generator=torch.Generator().manual_seed(0))
        return act

    def change(act: Tensor, ctx: Context) -> Tensor:
        in_one_row = "qwen" in name  # the patches of all images
        return noisy(act, (0, patch) if in_one_row else (patch // wide, patch % wide + skipped))

    image = image_of(inputs)
    plain = recorded(model(name), inputs, "resid_pre")[0][0, image]
    if "llava" in name:  # its features are taken out of the tower before an edit of its last state
        projector = model(name).hf.model.multi_modal_projector
        handle = projector.register_forward_pre_hook(lambda _, args: noisy(args[0], (patch // wide, patch % wide)))
        changed = recorded(model(name), inputs, "resid_pre")[0][0, image]
        handle.remove()
    else:
        noise = Edit("resid_post", Where(stack="vision", layers=(1,)), change)
        changed = recorded(model(name), inputs, "resid_pre", noise)[0][0, image]
    return members((plain - changed).abs().amax(-1) > 1e-6)


def rated_by(name: str, inputs: Inputs, patch: int, calls: list[Tensor]) -> list[int]:
    """Image tokens that get a part of a rating given to one patch only."""
    line = torch.zeros(sum(call.numel() for call in calls))
    line[patch] = 1.0
    parts = line.split([call.numel() for call in calls])
    only = [part.reshape(call.shape) for part, call in zip(parts, calls, strict=True)]
    ratings = token_ratings(model(name).hf, inputs, only, int(image_of(inputs).sum()))
    return members(ratings.nan_to_num(0) > 0)


@pytest.mark.parametrize("name", VLMS)
def test_a_patch_rates_the_token_it_is_part_of(name: str):
    inputs = first(name)
    layer = 1
    calls = calls_of(name, inputs)[layer]
    total = sum(call.numel() for call in calls)
    assert total in (36, 72)
    for patch in range(0, total, 7):
        found = rated_by(name, inputs, patch, calls)
        assert len(found) == 1
        assert found == moved_by(name, inputs, patch, calls)


def test_patches_taken_in_another_order_are_found_out(monkeypatch):
    inputs = first("qwen2_5_vl")
    calls = calls_of("qwen2_5_vl", inputs)[1]
    monkeypatch.setitem(tower._TOKENS, "qwen2_5_vl", tower._merged_in_turn)
    wrong = [
        rated_by("qwen2_5_vl", inputs, patch, calls) != moved_by("qwen2_5_vl", inputs, patch, calls)
        for patch in range(26, 72, 12)
    ]
    assert any(wrong)


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl"])
def test_attention_of_the_class_token_is_its_row(name: str):
    inputs = first(name)
    rows = recorded(model(name), inputs, "pattern", where=Where(stack="vision"))
    for layer, calls in calls_of(name, inputs, "class").items():
        assert gap(calls[0], rows[layer][:, :, 0, 1:].sum(1)) < 1e-6


@pytest.mark.parametrize("name", ["llava", "idefics3", "paligemma"])
def test_attention_received_is_the_mean_over_patches(name: str):
    inputs, skipped = first(name), int(has_class_token(model(name).hf))
    rows = recorded(model(name), inputs, "pattern", where=Where(stack="vision"))
    for layer, calls in calls_of(name, inputs).items():
        assert gap(calls[0], rows[layer][:, :, skipped:, skipped:].sum(1).mean(1)) < 1e-6


def test_padding_inside_a_tile_neither_gives_nor_receives():
    inputs = first("idefics3")
    mask = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    mask[..., 12:] = False  # the right half
    inputs["pixel_attention_mask"] = mask
    grid = calls_of("idefics3", inputs)[0][0].reshape(6, 6)
    assert grid[:, 3:].eq(0).all()
    assert float(grid.sum()) == pytest.approx(4, rel=1e-5)  # a row of each of the four heads


def test_class_tokens_are_found_where_there_are_some():
    assert {name for name in VLMS if has_class_token(model(name).hf)} == {"llava", "llava_next", "internvl"}


# -- in a model --------------------------------------------------------------------------------------------------------


def amounts(name: str, inputs: Inputs, *, alpha: float, beta: float) -> Tensor:
    """What the released variant adds to scores at every column, from the tower's own rows."""
    source = "class" if has_class_token(model(name).hf) else "received"
    kept = calls_of(name, inputs, source)[0]  # in two layers, the first is also the one before the last
    ratings = token_ratings(model(name).hf, inputs, kept, int(image_of(inputs).sum()))
    local, summary = token_sets(ratings, ratings)
    found = torch.zeros(inputs["input_ids"].shape[1])
    found[image_of(inputs)] = alpha * local.float() + beta * summary.float()
    return found


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_last_row_is_the_softmax_of_raised_scores(name: str, variant: str):
    inputs, fix = first(name), ImbalanceFix(variant, spatial=0.0, layers=BOTH)
    scores, plain = (recorded(model(name), inputs, site)[0][0] for site in ("scores", "pattern"))
    ours = recorded(model(name), inputs, "pattern", fix)[0][0]
    added = amounts(name, inputs, alpha=0.7, beta=0.3 if variant == "released" else 0.4)
    weight = torch.ones(4)
    if variant == "paper":
        image = image_of(inputs)
        behind = torch.arange(len(image)) > image.nonzero().max()
        weight = plain[:, behind][..., image].sum(-1).mean(-1)
        weight = weight / weight.max()
    local = added == 0.7
    by_head = torch.where(local, added * weight[:, None], added)
    expected = (scores[:, -1] + by_head * scores[:, -1].abs()).softmax(-1)
    assert gap(ours[:, -1], expected) < 1e-6
    assert gap(ours[:, -1], plain[:, -1]) > 1e-3
    assert torch.equal(ours[:, :-1], plain[:, :-1])
    assert local.sum() > 3


def test_the_papers_spatial_set_adds_tokens():
    with_it, without = (ImbalanceFix("paper", spatial=share, layers=BOTH) for share in (0.2, 0.0))
    assert gap(logits(model("llava"), first("llava"), with_it), logits(model("llava"), first("llava"), without)) > 1e-3


def test_it_is_a_boost_of_all_image_tokens_when_all_are_local():
    inputs = first("llava_onevision")
    ours = logits(model("llava_onevision"), inputs, ImbalanceFix(local=1, beta=0.7, layers=BOTH))
    boost = logits(model("llava_onevision"), inputs, ImageBoost(0.7, layers=BOTH))
    assert gap(ours, boost) > 1e-4  # but for the ends of rows, which stand for no patch
    ours = logits(model("llava"), first("llava"), ImbalanceFix(local=1, beta=0.7, layers=BOTH))
    assert gap(ours, logits(model("llava"), first("llava"), ImageBoost(0.7, layers=BOTH))) < 1e-5


def test_answers_are_edited_at_every_step_with_the_tokens_of_the_prompt():
    inputs, more = first("llava"), words(3, seed=9)
    seen = Record("scores", Where(layers=(0,))), Record("scores", Where(layers=(0,)))
    in_steps(model("llava"), inputs, more, seen[0])
    in_steps(model("llava"), inputs, more, ImbalanceFix(layers=BOTH), seen[1])
    added = amounts("llava", inputs, alpha=0.7, beta=0.3)
    for plain, ours in zip(seen[0].seen[0], seen[1].seen[0], strict=True):
        before, after = plain[0, :, -1, : len(added)], ours[0, :, -1, : len(added)]
        assert gap(after, before + added * before.abs()) < 1e-5
        assert torch.equal(plain[..., len(added) :], ours[..., len(added) :])


def test_images_of_a_batch_are_ranked_apart():
    prompts = first("llava"), second("llava")
    batch = together(*prompts)
    rows = [recorded(model("llava"), batch, "scores", *hooks)[0] for hooks in ((), (ImbalanceFix(layers=BOTH),))]
    for sample, inputs in enumerate(prompts):
        added = amounts("llava", inputs, alpha=0.7, beta=0.3)
        before, after = (scores[sample, :, -1, -len(added) :] for scores in rows)
        assert gap(after, before + added * before.abs()) < 1e-5
    picked = [amounts("llava", inputs, alpha=0.7, beta=0.3)[image_of(inputs)] for inputs in prompts]
    assert not torch.equal(*picked)


def test_layers_and_source_are_the_models_own_unless_given():
    ready = ImbalanceFix().prepared(deep_model(5))
    assert (ready.layers, ready.source, ready.summary) == ((2, 3, 4), "class", 0.3)
    assert ImbalanceFix("paper", layers=BOTH).prepared(model("qwen2_vl")).source == "received"
    received = ImbalanceFix(source="received", layers=BOTH)
    assert gap(*(logits(model("llava"), first("llava"), fix) for fix in (received, ImbalanceFix(layers=BOTH)))) > 1e-3


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local": 25}, "ImbalanceFix's local is 25, but it is a share of tokens; give 0 to 1"),
        ({"spatial": -0.1}, r"ImbalanceFix's spatial is -0\.1"),
        ({"alpha": -1}, "ImbalanceFix's alpha is -1; give a number of at least 0"),
        ({"beta": -1}, "ImbalanceFix's beta is -1"),
    ],
)
def test_bad_numbers_are_refused(options: dict, message: str):
    with pytest.raises(UsageError, match=message):
        ImbalanceFix(**options)


def test_bad_words_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse them first
    with pytest.raises(UsageError, match="variant 'code' of ImbalanceFix is not known; use released or paper"):
        ImbalanceFix("code")
    with pytest.raises(UsageError, match="ImbalanceFix's source is 'cls'; use 'class', 'received', or None"):
        ImbalanceFix(source="cls")


def test_a_tower_without_a_class_token_has_none_to_rank_by():
    with pytest.raises(UsageError, match="vision tower of qwen2_vl has no class token; use source='received'"):
        ImbalanceFix(source="class", layers=BOTH).prepared(model("qwen2_vl"))


def test_a_tower_out_of_sight_is_refused():
    blind = HookedModel(build("llava"), example=prompt(), name="blind")
    with pytest.raises(
        UsageError, match=r"no such tower of blind was seen; load it with its processor, or pass example"
    ):
        ImbalanceFix(layers=BOTH).prepared(blind)


def test_a_family_whose_tokens_are_not_known_is_refused():
    hf = build("llava")
    hf.config.model_type = "other"
    with pytest.raises(UnsupportedModelError, match=r"an image token of 'other' stands for .known: llava, "):
        refuse_unknown(hf)


def test_numbers_of_tokens_that_do_not_match_are_refused():
    calls = [torch.ones(1, 36)]
    for name, count in (("llava", 40), ("gemma3_mm", 10), ("qwen2_vl", 30)):
        with pytest.raises(UsageError, match=rf"has {count} image tokens, but the vision tower's patches make \d+"):
            token_ratings(model(name).hf, first(name), calls, count)
    with pytest.raises(UsageError, match="the vision tower did not run; give the pixels in the same call"):
        token_ratings(model("llava").hf, first("llava"), [], 36)


def test_a_class_token_that_the_model_keeps_has_no_rating():
    ratings = token_ratings(model("llava").hf, first("llava"), [torch.arange(36.0)[None]], 37)
    assert ratings[0].isnan()
    assert torch.equal(ratings[1:], torch.arange(36.0))
