"""Reinforced heads: the rule by hand, planted blindness, and the one pass against a run for every layer."""

from collections.abc import Sequence
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from head_analysis.vision import divergence
from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.images.removal import Removal, image_free
from interventions import VAR, VHR, Ablate, KnockOut, Scale
from interventions.vhr import default_layers, reinforced_heads
from tests.headscope.test_hooks import gap
from tests.interventions.cases import first, in_steps, logits, model, recorded, second, together, words
from tests.tiny import IMAGE_TOKEN, TINY, Inputs

BOTH = (0, 1)
SINKS = {"dims": (0, 1, 2, 3), "tau": 1.5, "layers": BOTH, "min_image": 0.02, "rho_nonsink": 0.2}


def chosen(name: str, inputs: Inputs, vhr: VHR, *before: Any, behind: Sequence[Any] = ()) -> dict[int, Tensor]:
    """Which heads of which samples come out doubled: layer -> [sample head]."""
    record, after = Record("z"), Record("z")
    with model(name).hooks(*before, record, vhr, after, *behind), torch.no_grad():
        model(name).hf(**inputs)
    # what stands before VHR sees its pass with and without the image too, and the prompt itself last
    return {layer: doubled(record.seen[layer][-1], after.seen[layer][-1]) for layer in record.seen}


def doubled(before: Tensor, after: Tensor) -> Tensor:
    """Heads [sample head] twice as large as before at every query; all others must be the same."""
    twice, same = ((after == factor * before).all(-1).all(1) for factor in (2, 1))
    assert (twice ^ same).all()
    return twice


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_the_rule_by_hand():
    vhd = torch.tensor([1.0, 2.0, 3.0, 10.0])  # median 2.5; mean 4, standard deviation 3.5
    level = torch.ones(4)
    assert reinforced_heads(vhd, level).tolist() == [False, False, True, True]
    surges = torch.tensor([1.0, 1.0, 1.0, 9.0])  # mean 3, standard deviation 3.5
    assert reinforced_heads(vhd, surges).tolist() == [False, True, True, False]  # of 1, 2, 3 and 0
    assert reinforced_heads(vhd, surges, remove_outliers=False).tolist() == [False, False, True, True]
    assert reinforced_heads(vhd, surges.flip(0)).tolist() == [False, False, True, True]  # another head surges


def test_an_odd_number_of_heads_leaves_the_middle_one_out():
    assert reinforced_heads(torch.tensor([3.0, 1.0, 2.0]), torch.ones(3)).tolist() == [True, False, False]
    assert not reinforced_heads(torch.zeros(4), torch.ones(4)).any()


def test_layers_are_the_papers():
    assert default_layers(range(32)) == (1, *range(18, 32))
    assert default_layers(range(2)) == (1,)
    assert default_layers([0]) == (0,)


# -- planted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_heads_that_cannot_see_the_image_are_never_chosen(seed: int):
    inputs, vhr = second("llava", seed=seed), VHR(layers=(0,), removal="keep_positions")
    blind = KnockOut(heads="L0H0, L0H3")
    assert chosen("llava", inputs, vhr, blind)[0].tolist() == [[False, True, True, False]]


def test_the_same_heads_are_chosen_while_they_see():
    picks = torch.cat([chosen("llava", second("llava", seed=seed), VHR(layers=(0,)))[0] for seed in range(4)])
    assert picks[:, [0, 3]].any()


def test_a_head_with_nothing_to_say_is_never_chosen():
    hooked = HookedModel(TINY["llava"].build(), example=first("llava"))
    hooked.hf.model.language_model.layers[0].self_attn.v_proj.weight.data[:8] = 0  # the group of heads 0 and 1
    before, after = Record("z"), Record("z")
    with hooked.hooks(before, VHR(layers=(0,), outliers="kept"), after), torch.no_grad():
        hooked.hf(**first("llava"))
    assert before.seen[0][0][:, :, :2].eq(0).all()
    assert torch.equal(after.seen[0][0][:, :, 2:], 2 * before.seen[0][-1][:, :, 2:])


# -- the one pass ------------------------------------------------------------------------------------------------------


def layer_by_layer(name: str, inputs: Inputs, removal: Removal, *before: Any, scaled: bool = True) -> list[Head]:
    """The heads of every layer, each found by two runs of its own under what was chosen below."""
    hooked, picked = model(name), []
    bare = image_free(hooked.hf, inputs, inputs["input_ids"] == IMAGE_TOKEN, removal=removal)
    for layer in BOTH:
        scale = Scale(picked, 2.0)
        z_with = recorded(hooked, inputs, "z", *before, scale)[layer][:, -1]
        z_without = recorded(hooked, bare, "z", *before, *([scale] if scaled else []))[layer][:, -1]
        heads = reinforced_heads(divergence(z_with, z_without), z_without.square().sum(-1))[0]
        picked += [Head(layer, int(head)) for head in heads.nonzero()]
    return picked


@pytest.mark.parametrize("removal", ["delete", "keep_positions", "blank_image"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3_mm"])
def test_one_pass_equals_a_run_for_every_layer(name: str, removal: Removal):
    inputs = first(name)
    picked = layer_by_layer(name, inputs, removal)
    assert 2 <= len(picked) <= 6
    ours = logits(model(name), inputs, VHR(layers=BOTH, removal=removal))
    assert gap(ours, logits(model(name), inputs, Scale(picked, 2.0))) < 1e-4


@pytest.mark.parametrize("branch", ["scaled", "plain"])
def test_the_text_branch_is_scaled_or_not(branch: str):
    for seed in range(3):
        inputs = second("llava", seed=seed)
        picked = layer_by_layer("llava", inputs, "delete", scaled=branch == "scaled")
        ours = logits(model("llava"), inputs, VHR(layers=BOTH, text_branch=branch))
        assert gap(ours, logits(model("llava"), inputs, Scale(picked, 2.0))) < 1e-4


def test_the_image_can_be_removed_in_senses_that_differ():
    inputs, hooked = first("llava"), model("llava")
    image = inputs["input_ids"] == IMAGE_TOKEN
    last = [
        recorded(hooked, image_free(hooked.hf, inputs, image, removal=removal), "z")[1][:, -1]
        for removal in ("delete", "keep_positions", "blank_image")
    ]
    assert min(gap(last[0], last[1]), gap(last[1], last[2]), gap(last[0], last[2])) > 1e-2


# -- over time and in batches ------------------------------------------------------------------------------------------


def test_heads_are_chosen_once_and_kept_while_the_answer_is_written():
    inputs, hooked = first("llava"), model("llava")
    before, after = Record("z", Where(layers=(1,))), Record("z", Where(layers=(1,)))
    passes = []
    handle = hooked.hf.register_forward_pre_hook(lambda *_: passes.append(1))
    in_steps(hooked, inputs, words(3, seed=4), before, VHR(), after)
    handle.remove()
    assert len(passes) == 1 + 1 + 3  # one to choose, the prompt, three tokens
    sets = [doubled(a, b) for a, b in zip(before.seen[1][-4:], after.seen[1], strict=True)]
    assert len(sets) == 4
    assert all(torch.equal(heads, sets[0]) for heads in sets)
    assert sets[0].any()
    assert torch.equal(sets[0], chosen("llava", inputs, VHR())[1])


def test_every_sample_of_a_batch_has_its_own_heads():
    prompts = [second("llava", seed=seed) for seed in range(3)]
    singles = torch.cat([chosen("llava", inputs, VHR())[1] for inputs in prompts])
    assert torch.equal(chosen("llava", together(*prompts), VHR())[1], singles)
    assert len({tuple(heads) for heads in singles.tolist()}) > 1


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
@pytest.mark.parametrize("length", [7, 60])  # shorter and longer than the prompt with the image
def test_a_sample_without_an_image_is_left_alone(name: str, length: int):
    text = {"input_ids": words(length, seed=1)}
    batch = together(first(name), text)
    ours, plain = (logits(model(name), batch, *hooks) for hooks in ((VHR(layers=BOTH),), ()))
    assert torch.equal(ours[1, -length:], plain[1, -length:])
    assert gap(ours[0], plain[0]) > 1e-2


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_alpha_one_changes_nothing_at_any_step(name: str):
    inputs, more = first(name), words(3, seed=6)
    assert torch.equal(in_steps(model(name), inputs, more, VHR(1)), in_steps(model(name), inputs, more))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_positions_of_qwen_are_those_of_the_prompt_itself(name: str):
    hooked, inputs = model(name), first(name)
    offsets = next(module for module in hooked.hf.modules() if hasattr(module, "rope_deltas"))
    logits(hooked, inputs)
    expected = offsets.rope_deltas.clone()
    offsets.rope_deltas = None
    logits(hooked, inputs, VHR())
    assert torch.equal(offsets.rope_deltas, expected)
    assert expected.ne(0).any()


# -- with others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [VAR(**SINKS), Ablate("L0H1, L0H2")])
def test_what_stands_before_is_in_force_while_heads_are_chosen(before: Any):
    inputs, vhr = first("llava"), VHR(layers=BOTH)
    picked = layer_by_layer("llava", inputs, "delete", before)
    ours = logits(model("llava"), inputs, before, vhr)
    assert gap(ours, logits(model("llava"), inputs, before, Scale(picked, 2.0))) < 1e-4


@pytest.mark.parametrize("behind", [VAR(**SINKS), Ablate("L0H1, L0H2")])
def test_what_stands_behind_is_not(behind: Any):
    inputs, vhr = first("llava"), VHR(layers=BOTH)
    picked = layer_by_layer("llava", inputs, "delete")
    ours = logits(model("llava"), inputs, vhr, behind)
    assert gap(ours, logits(model("llava"), inputs, Scale(picked, 2.0), behind)) < 1e-4


def test_the_order_matters():
    removed = Ablate("L0H1, L0H2")
    orders = [
        (
            logits(model("llava"), inputs, removed, VHR(layers=BOTH)),
            logits(model("llava"), inputs, VHR(layers=BOTH), removed),
        )
        for inputs in (second("llava", seed=seed) for seed in range(3))
    ]
    assert max(gap(a, b) for a, b in orders) > 1e-2


def test_given_heads_are_scaled_and_nothing_is_chosen():
    inputs = first("llava")
    ours = logits(model("llava"), inputs, VHR(3, heads="L0H1, L1H2"))
    assert torch.equal(ours, logits(model("llava"), inputs, Scale("L0H1, L1H2", 3)))


def test_the_control_takes_as_many_heads_at_random_and_runs_nothing_to_choose():
    inputs = first("llava")
    drawn = [chosen("llava", inputs, VHR(layers=BOTH, choice="random", seed=seed)) for seed in range(6)]
    real = chosen("llava", inputs, VHR(layers=BOTH))
    for heads in drawn:
        assert all(heads[layer].sum() == real[layer].sum() == 2 for layer in BOTH)
    assert len({tuple(torch.cat([heads[0], heads[1]]).flatten().tolist()) for heads in drawn}) > 2
    again = chosen("llava", inputs, VHR(layers=BOTH, choice="random", seed=3))
    assert all(torch.equal(again[layer], drawn[3][layer]) for layer in BOTH)
    both = together(inputs, {"input_ids": words(7, seed=1)})
    assert not any(heads[1].any() for heads in chosen("llava", both, VHR(layers=BOTH, choice="random")).values())


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_values_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the words first
    with pytest.raises(UsageError, match="VHR's alpha is -1; give a factor of at least 0"):
        VHR(-1)
    with pytest.raises(UsageError, match="VHR's outliers is 'some'; use one of removed, kept"):
        VHR(outliers="some")
    with pytest.raises(UsageError, match="VHR's text_branch is 'none'; use one of scaled, plain"):
        VHR(text_branch="none")
    with pytest.raises(UsageError, match="VHR's removal is 'noise'; use one of delete, keep_positions, blank_image"):
        VHR(removal="noise")


def test_heads_and_layers_outside_the_model_are_refused():
    with pytest.raises(UsageError, match="L5H0 asked for, but llava has layers 0-1"):
        logits(model("llava"), first("llava"), VHR(heads="L5H0"))
    with pytest.raises(UsageError, match=r"layers \[9\] asked for"):
        logits(model("llava"), first("llava"), VHR(layers=(9,)))


def test_a_prompt_of_nothing_but_image_is_refused():
    inputs = first("llava")
    only = {**inputs, "input_ids": inputs["input_ids"][:, 6:42]}
    with pytest.raises(UsageError, match="holds nothing but image tokens"):
        logits(model("llava"), only, VHR())
