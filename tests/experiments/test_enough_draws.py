"""How many draws of the control are enough: by hand, and as the correction that is in force has it."""

import numpy as np
import pytest

from experiments.probing.enough_draws import draws_note, enough_draws, fewest_found
from probes.judging import _against


def found(places: int, draws: int, perfect: int) -> int:
    """Places found where so many beat every draw and the others none."""
    controls = np.random.default_rng(0).uniform(0.4, 0.6, (places, draws))
    scores = np.array([1.0] * perfect + [0.0] * (places - perfect))
    return int(_against(controls, scores, 0.95)["found"].sum())


@pytest.mark.parametrize(("places", "enough"), [(1, 19), (2, 20), (4, 20), (48, 20), (1024, 20)])
def test_enough_is_enough_and_one_less_is_not(places, enough):
    assert enough_draws(places) == enough
    assert found(places, enough, 1) == 1
    assert found(places, enough - 1, 1) == 0


@pytest.mark.parametrize("places", [1, 2, 4, 6, 48])
@pytest.mark.parametrize("draws", [1, 2, 5, 8, 19, 20, 40])
def test_so_many_together_are_found_and_fewer_are_not(places, draws):
    fewest = fewest_found(places, draws)
    assert (fewest <= 1) == (draws >= enough_draws(places))
    if fewest <= places:
        assert found(places, draws, fewest) == fewest
        assert found(places, draws, fewest - 1) == 0
    else:
        assert found(places, draws, places) == 0


def test_notes_by_hand():
    assert draws_note(4, 20, "layer") == ""
    assert draws_note(1, 19, "layer") == ""
    assert draws_note(4, 8, "layer") == (
        "with 8 draws of the control for each layer, p is at least 0.03 (0.12 after the correction for 4 layers), so "
        "only 3 or more layers that all beat every draw can be found; to find one that stands out alone, 20 draws are "
        "enough"
    )
    assert "(0.44 after the correction for 4 heads), so no head can be found" in draws_note(4, 2, "head")
    assert draws_note(1, 1, "head") == (
        "with 1 draw of the control for each head, p is at least 0.5, so no head can be found, however well it is read; "
        "to find one that stands out alone, 19 draws are enough"
    )
