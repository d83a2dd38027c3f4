"""Heads multiplied by a factor."""

import pytest
import torch

from headscope import UsageError
from interventions import Ablate, Scale
from tests.headscope.test_hooks import gap
from tests.interventions.cases import at_once, first, logits, model, recorded, words


def test_z_of_the_heads_is_multiplied_and_rows_are_left_alone():
    inputs, scale = first("llama"), Scale("L0H1", 3)
    plain, ours = (recorded(model("llama"), inputs, "z", *hooks)[0] for hooks in ((), (scale,)))
    assert torch.equal(ours[:, :, 1], 3 * plain[:, :, 1])
    assert torch.equal(ours[:, :, [0, 2, 3]], plain[:, :, [0, 2, 3]])
    rows, ours = (recorded(model("llama"), inputs, "pattern", *hooks)[0] for hooks in ((), (scale,)))
    assert torch.equal(rows, ours)


def test_factors_zero_and_one():
    inputs = first("llama")
    plain = logits(model("llama"), inputs)
    assert torch.equal(logits(model("llama"), inputs, Scale("L0H1, L1H2", 1)), plain)
    nothing = logits(model("llama"), inputs, Scale("L0H1, L1H2", 0))
    assert torch.equal(nothing, logits(model("llama"), inputs, Ablate("L0H1, L1H2")))
    assert gap(nothing, plain) > 1e-2


def test_phases_are_told_apart():
    inputs, more = first("llama"), words(3, seed=1)
    plain, decode, prefill, both = (
        at_once(model("llama"), inputs, more, *hooks)
        for hooks in (
            (),
            (Scale("L0H1", 0, phase="decode"),),
            (Scale("L0H1", 0, phase="prefill"),),
            (Scale("L0H1", 0),),
        )
    )
    assert min(gap(a, b) for a, b in [(plain, decode), (plain, prefill), (prefill, both), (decode, both)]) > 1e-3


def test_heads_and_phases_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="L1H7 asked for, but llama has layers 0-1 with 4 heads"):
        logits(model("llama"), first("llama"), Scale("L1H7", 0.5))
    with pytest.raises(UsageError, match="'L0' is not a head"):
        Scale("L0", 0.5)
