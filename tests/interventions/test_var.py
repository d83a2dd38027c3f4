"""Redistribution: the released code's numbers, rows by hand, and the operator against the function in whole models."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from head_analysis.sinks import sink_tokens
from headscope import Record, UsageError, Where
from headscope.engine.inputs import AttentionInputs
from headscope.engine.rows import head_outputs
from headscope.hooks import Context
from headscope.prompting import Prompt
from interventions import VAR
from interventions.var import redistribute, redistributed
from tests.headscope.test_hooks import Edit, gap
from tests.interventions.cases import (
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

PARITY = load_file(Path(__file__).parent / "parity" / "var.safetensors")
CASES = sorted({name.split(".")[0] for name in PARITY})
SINKS = {"dims": (0, 1, 2, 3), "tau": 1.5, "min_image": 0.02, "rho_nonsink": 0.2}
LIMITS = {"keep": 0.4, "min_image": 0.02, "max_sink_share": 0.8}


# -- the function ------------------------------------------------------------------------------------------------------


def as_released(case: str, *, swapped: bool = False) -> float:
    """How far the function is from the released code's result."""
    pattern, sink, image, params, expected = (
        PARITY[f"{case}.{name}"] for name in ("pattern", "sink", "image", "params", "expected")
    )
    rho, least, p = params.tolist()
    limits = {"keep": 1 - p if swapped else p, "min_image": least, "max_sink_share": rho}
    return gap(redistribute(pattern, sink, slice(*image.tolist()), **limits), expected)


@pytest.mark.parametrize("case", CASES)
def test_it_equals_the_released_code(case: str):
    assert as_released(case) < 1e-6
    assert as_released(case, swapped=True) > 1e-3


def test_there_are_twelve_cases_and_all_of_them_move_something():
    assert len(CASES) == 12
    assert all(gap(PARITY[f"{case}.pattern"], PARITY[f"{case}.expected"]) > 1e-3 for case in CASES)


ROW = torch.tensor([0.4, 0.2, 0.3, 0.1])  # a text sink, a visual sink, the rest of the image, other text
SINK = torch.tensor([True, True, False, False])


def row_after(row: Tensor, sink: Tensor = SINK, **limits: float) -> Tensor:
    pattern = torch.stack([torch.eye(4)[0], torch.eye(4)[1], torch.eye(4)[2], row])[None]
    after = redistribute(pattern, sink, slice(1, 3), **{"keep": 0.6, "min_image": 0.2, "max_sink_share": 0.5} | limits)
    assert torch.equal(after[:, :3], pattern[:, :3])
    return after[0, 3]


def test_a_row_by_hand():
    # sinks keep 0.6 of what they have, and the 0.24 that they lose goes to the only image token that is none
    assert gap(row_after(ROW), torch.tensor([0.24, 0.12, 0.54, 0.1])) < 1e-6


def test_rows_that_are_not_image_centric_are_left():
    assert torch.equal(row_after(ROW, min_image=0.51), ROW)  # the image has 0.5
    assert gap(row_after(ROW, min_image=0.49), ROW) > 0.1
    assert torch.equal(row_after(ROW, max_sink_share=0.39), ROW)  # of it, 0.4 lies on the sink
    assert gap(row_after(ROW, max_sink_share=0.41), ROW) > 0.1


def test_text_sinks_alone_move_nothing():
    assert torch.equal(row_after(ROW, torch.tensor([True, False, False, False])), ROW)
    assert torch.equal(row_after(ROW, torch.tensor([False, True, True, False]), max_sink_share=1.0), ROW)  # no receiver


# -- in a model --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """Keeps what attention computes with."""

    where: Where
    seen: list[AttentionInputs] = field(default_factory=list, compare=False)

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        self.seen.append(x)


@pytest.mark.parametrize("name", ["llava", "gemma3_mm", "paligemma"])
@pytest.mark.parametrize("layer", [0, 1])
def test_the_operator_equals_the_function_on_the_models_own_rows(name: str, layer: int):
    inputs, reader = first(name), Inputs(Where(layers=(layer,)))
    plain = recorded(model(name), inputs, "pattern", reader)[layer]
    sink = sink_tokens(recorded(model(name), inputs, "resid_pre")[layer][0], SINKS["dims"], SINKS["tau"])
    places = image_of(inputs).nonzero().flatten()
    expected = redistribute(plain[0], sink, slice(int(places[0]), int(places[-1]) + 1), **LIMITS)[None]
    var = VAR(**SINKS, layers=(layer,))
    assert gap(recorded(model(name), inputs, "pattern", var)[layer], expected) < 1e-6
    assert gap(plain, expected) > 1e-2
    assert gap(recorded(model(name), inputs, "z", var)[layer], head_outputs(expected, reader.seen[0])) < 1e-5


def test_answers_are_edited_with_the_sinks_of_the_prompt():
    inputs, more = first("llava"), words(4, seed=8)
    plain, ours, states = (
        Record("pattern", Where(layers=(0,))),
        Record("pattern", Where(layers=(0,))),
        Record("resid_pre"),
    )
    in_steps(model("llava"), inputs, more, plain, states)
    in_steps(model("llava"), inputs, more, VAR(**SINKS, layers=(0,)), ours)
    sinks = [sink_tokens(call[0], SINKS["dims"], SINKS["tau"]) for call in states.seen[0]]
    assert torch.cat(sinks[1:]).any()  # a generated token that would be a sink in the prompt
    assert not torch.cat(sinks[1:]).all()
    moved = []
    for step in range(1, 5):
        known = torch.nn.functional.pad(sinks[0], (0, step))
        image = torch.nn.functional.pad(image_of(inputs), (0, step))
        rows = plain.seen[0][step]
        after, edited = redistributed(rows, known[None, None], image[None, None], **LIMITS)
        assert gap(ours.seen[0][step], torch.where(edited, after, rows)) < 1e-6
        moved.append(gap(ours.seen[0][step], rows))
    assert min(moved) > 1e-3


def planted(*columns: int) -> Edit:
    """A huge dimension 5 in the state of some tokens, where there were none that large."""

    def change(act: Tensor, ctx: Context) -> Tensor:
        act = act.clone()
        act[:, list(columns), 5] += 100
        return act

    return Edit("resid_pre", Where(layers=(0,)), change)


def test_a_layer_without_visual_sinks_is_left_alone():
    inputs, hooked = first("llava"), model("llava")
    var = VAR(dims=(5,), tau=5.0, min_image=0.0, rho_nonsink=0.0, layers=(0,))
    image = int(image_of(inputs).nonzero()[3])
    assert torch.equal(logits(hooked, inputs, var), logits(hooked, inputs))
    assert torch.equal(logits(hooked, inputs, planted(0), var), logits(hooked, inputs, planted(0)))
    both = planted(0, image)
    assert gap(logits(hooked, inputs, both, var), logits(hooked, inputs, both)) > 1e-2


def test_a_sample_without_visual_sinks_is_left_alone_beside_one_that_has_them():
    inputs, hooked = together(first("llava"), second("llava")), model("llava")
    column = int(image_of(inputs).nonzero()[3])

    def change(act: Tensor, ctx: Context) -> Tensor:
        act = act.clone()
        act[0, column, 5] += 100
        act[:, 4, 5] += 100  # text before the image, in both
        return act

    plant = Edit("resid_pre", Where(layers=(0,)), change)
    var = VAR(dims=(5,), tau=5.0, min_image=0.0, rho_nonsink=0.0, layers=(0,))
    plain, ours = logits(hooked, inputs, plant), logits(hooked, inputs, plant, var)
    assert gap(ours[0], plain[0]) > 1e-2
    assert gap(ours[1], plain[1]) < 1e-5


def test_variants_differ_in_their_share_and_in_the_last_layer():
    hooked, inputs = deep_model(5), first("llava")
    paper, released = VAR(dims=(0,), tau=1.5).prepared(hooked), VAR("released", dims=(0,), tau=1.5).prepared(hooked)
    assert (paper.layers, released.layers) == ((2, 3), (2, 3, 4))
    assert (paper.moved, released.moved) == (0.6, 0.4)
    rows = {
        var.variant: recorded(hooked, inputs, "pattern", var)
        for var in (
            VAR("paper", **SINKS),
            VAR("released", **SINKS),
            VAR("released", **SINKS, p_moved=0.6, layers=(2, 3)),
        )
    }
    plain, paper_rows = recorded(hooked, inputs, "pattern"), recorded(hooked, inputs, "pattern", VAR(**SINKS))
    assert all(torch.equal(paper_rows[layer], plain[layer]) for layer in (0, 1))
    assert gap(paper_rows[2], plain[2]) > 1e-2
    assert gap(rows["released"][2], paper_rows[2]) < 1e-6  # the released variant told to do as the paper says


def test_dimensions_and_threshold_are_the_models_own_unless_given():
    ready = VAR(layers=(0, 1)).prepared(model("llava"))
    assert ready.tau == pytest.approx((400 / 4096 * 32) ** 0.5)
    assert ready.dims is not None


def test_random_donors_are_as_many_and_others():
    inputs = together(first("llava"), second("llava"))
    image = torch.stack([row == 5 for row in inputs["input_ids"]])
    found = {}
    for donors, seed in (("sinks", 0), ("random", 0), ("random", 1)):
        var = VAR(dims=(0,), tau=1.5, layers=(0, 1), donors=donors, seed=seed).prepared(model("llava"))
        find, _ = var.begin(Prompt(model("llava"), inputs, image, ()))
        logits(model("llava"), inputs, find)
        found[donors, seed] = find.sinks
    for layer in (0, 1):
        sinks, drawn, again = (found[key][layer] for key in found)
        assert sinks.any(1).all()
        assert not (sinks & drawn).any()
        assert torch.equal(sinks.sum(1), drawn.sum(1))
        for sample, prompt in enumerate((first("llava"), second("llava"))):
            among = image_of(prompt)
            assert sinks[sample][: len(among)][among].sum() == drawn[sample][: len(among)][among].sum()
        assert not torch.equal(drawn, again)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho_nonsink": 1.5}, "VAR's rho_nonsink is 1.5, but it is a share of attention; give a number from 0 to 1"),
        ({"rho_nonsink": -0.1}, "VAR's rho_nonsink is -0.1"),
        ({"p_moved": 60}, "VAR's p_moved is 60"),
        ({"min_image": float("nan")}, "VAR's min_image is nan"),
    ],
)
def test_shares_outside_the_unit_interval_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        VAR(**options)


def test_unknown_words_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse them first
    with pytest.raises(UsageError, match="variant 'code' of VAR is not known; use 'paper' or 'released'"):
        VAR("code")
    with pytest.raises(UsageError, match="VAR's donors are 'all'; use 'sinks', or 'random' for the control"):
        VAR(donors="all")


def test_a_model_too_shallow_for_it_is_told_to_name_layers():
    with pytest.raises(UsageError, match="the last alone, and llava has no others; name some with layers="):
        VAR().prepared(model("llava"))
    with pytest.raises(UsageError, match=r"layers \[7\] asked for"):
        VAR(layers=(0, 7)).prepared(model("llava"))


def test_a_dimension_that_the_model_does_not_have_is_refused():
    with pytest.raises(UsageError, match="sink dimension 4000 was given, but the model's states have 32"):
        logits(model("llava"), first("llava"), VAR(dims=(4000,), layers=(0,)))
