"""Controls are the same edit of other heads or tokens, as many as were edited."""

from collections import Counter
from functools import cache

import pytest
import torch

from experiments.controls import with_controls
from headscope import Head, UsageError
from interventions import ACT, VAR, VHR, Ablate, KnockOut, Project, Scale, Steer
from tests.headscope import test_hooks

hooked = cache(test_hooks.hooked)


@pytest.mark.parametrize("one", [Ablate("L0H1, L1H2"), Scale("L0H1, L1H2", 2.0), VHR(2, heads="L0H1, L1H2")])
def test_named_heads_are_exchanged_for_others_of_their_layers(one):
    treatment, *controls = with_controls(hooked("llava"), "mine", [one], draws=4)
    assert (treatment.kind, treatment.name, treatment.interventions) == ("treatment", "mine", (one,))
    assert len(controls) == 4
    for control in controls:
        (drawn,) = control.interventions
        assert (control.kind, control.family) == ("control", "random for mine")
        assert not set(drawn.heads) & set(one.heads)
        assert Counter(head.layer for head in drawn.heads) == {0: 1, 1: 1}
        assert type(drawn) is type(one)
    assert len({control.interventions[0].heads for control in controls}) > 1


def test_operators_have_random_twins():
    model = hooked("llava")
    (_, control) = with_controls(model, "both", [VAR(rho_nonsink=0.3), VHR(3, layers=(1,))], draws=1)
    assert control.interventions == (
        VAR(rho_nonsink=0.3, donors="random"),
        VHR(3, layers=(1,), choice="random"),
    )
    (_, *controls) = with_controls(model, "act", [ACT()], draws=2)
    assert [control.interventions[0] for control in controls] == [ACT(lowers="random", seed=seed) for seed in (0, 1)]


@pytest.mark.parametrize("kind", [Steer, Project])
def test_directions_have_random_twins_of_the_same_length_at_the_same_places(kind):
    one = kind({"L0H1": torch.arange(8.0), "L1H2": torch.ones(8)})
    (_, *controls) = with_controls(hooked("llama"), "steered", [one], draws=2)
    for seed, control in enumerate(controls):
        (drawn,) = control.interventions
        assert type(drawn) is kind
        assert drawn.directions.keys() == one.directions.keys()
        for place, vector in one.directions.items():
            expected = one.random_like(seed).directions[place]
            assert torch.equal(drawn.directions[place], expected)
            assert not torch.allclose(drawn.directions[place], vector)
            torch.testing.assert_close(drawn.directions[place].norm(), vector.norm())


def test_what_has_no_twin_stays_and_alone_has_no_control():
    model = hooked("llava")
    assert len(with_controls(model, "knock out", [KnockOut()], draws=3)) == 1
    _, control = with_controls(model, "with heads", [KnockOut(), Ablate("L0H1")], draws=1)
    assert control.interventions[0] == KnockOut()
    assert control.interventions[1].heads != (Head(0, 1),)


def test_too_few_heads_to_draw_from_are_refused():
    with pytest.raises(UsageError):
        with_controls(hooked("llava"), "all", [Ablate("L0H0, L0H1, L0H2")], draws=1)
