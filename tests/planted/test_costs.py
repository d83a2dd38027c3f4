"""Every removal of a head costs what the construction says, in each of the four senses; silent heads cost nothing.

Costs are logits of the right answer less those of the wrong one, 10 for a word fully copied; silent heads cost exactly 0.
What heads do with the norms shows in the fourth digit.
"""

import math

import pytest
import torch

from experiments import compare, run_sweep, units
from experiments.controls import with_controls
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.sweep import HookedRunner, Sweep
from experiments.sweeps.units import groups
from headscope import Head, HookedModel, Sample, Where
from headscope.draws import draw_heads
from interventions import Ablate, head_outputs
from tasks.ioi import IOI
from tests.planted.naming import NAMES
from tests.planted.whole import (
    DUPLICATE,
    FILLERS,
    FIRST_SINK,
    HERE,
    INDUCTION,
    INHIBITION,
    LATER_SINK,
    MOVER,
    NEGATIVE,
    PLANTED,
    PREVIOUS,
    RETRIEVER,
    Finding,
    going_on,
    whole_model,
)

CLOSE = 0.02
TRADES = ("finding", "going on", "naming")
COSTS = {
    "finding": {RETRIEVER: -10},
    "going on": {PREVIOUS: -10, INDUCTION: -10},
    # Without its movers' choice a third of each lies on the right name, two on the wrong one: 7.5 becomes -2.5.
    "naming": {DUPLICATE: -10, INHIBITION: -10, MOVER: -10, NEGATIVE: 2.5},
}
"""What a head costs that hands over nothing of use."""
WORTH = {"finding": 10, "going on": 10, "naming": 7.5}


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return whole_model()


def prompts(model: HookedModel, trade: str, *, n: int = 4, seed: int = 0) -> list[Sample]:
    if trade == "finding":
        return Finding(n=n, seed=seed).samples(model.tokenizer)
    if trade == "going on":
        return going_on(n, seed=seed)[0]
    return IOI(n=n, names=NAMES, seed=seed).samples(model.tokenizer)


def swept(model: HookedModel, samples: list[Sample], mode: str = "zero") -> Sweep:
    """All heads, with a reference that no answer stands in and no word stands in twice."""
    reference = head_outputs(model, [" ".join(FILLERS[20:])])
    return run_sweep(
        model, samples, units(model.heads()), metric="logit_difference", ablation=Ablation(mode, reference)
    )


def expect(found: Sweep, known: dict[Head, list[float]]) -> None:
    """These effects for each sample, 0 for all other heads, and exactly 0 for those that write nothing."""
    effects = found.scores().samples
    expected = torch.zeros(effects.shape)
    for head, values in known.items():
        expected[:, head.layer, head.head] = torch.tensor(values)
    torch.testing.assert_close(effects, expected, atol=CLOSE, rtol=0)
    for head in found.scores().heads:
        if head not in PLANTED or head in (FIRST_SINK, LATER_SINK, HERE):
            assert effects[:, head.layer, head.head].abs().max() == 0


# -- the planted table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
@pytest.mark.parametrize("trade", TRADES)
def test_a_sweep_reproduces_the_planted_table(model, trade, mode):
    for seed in (0, 1) if mode == "zero" else (2,):
        found = swept(model, prompts(model, trade, seed=seed), mode)
        assert found.table["clean"].to_numpy() == pytest.approx(WORTH[trade], abs=CLOSE)
        expect(found, {head: [cost] * 4 for head, cost in COSTS[trade].items()})


@pytest.mark.parametrize("trade", TRADES)
def test_heads_made_to_look_everywhere_cost_what_their_share_of_the_words_leaves(model, trade):
    samples = prompts(model, trade)
    lengths = [len(model.tokens(sample).ids) for sample in samples]
    if trade == "finding":  # the wanted word stands once among n
        known = {RETRIEVER: [10 / n - 10 for n in lengths]}
    elif trade == "going on":  # right and wrong word stand once each
        known = {INDUCTION: [-10.0] * 4, PREVIOUS: [blurred(sample) - 10 for sample in samples]}
    else:  # the wrong name stands twice, the right one once
        known = {
            DUPLICATE: [-10.0] * 4,  # a name's flag is less than half a flag, which INHIBITION does not look at
            INHIBITION: [-15 / (1 + math.exp(60 / n) / 2) for n in lengths],
            MOVER: [-10 - 10 / n for n in lengths],
            NEGATIVE: [2.5 + 2.5 / n for n in lengths],
        }
    expect(swept(model, samples, "uniform"), known)


def blurred(sample: Sample) -> float:
    """What is left where every token carries the mean of all words before it in place of the last one."""
    words = ["<s>", *sample.prompt.split()]
    asked, right, wrong = words[-1], sample.target.strip(), sample.meta["foil"].strip()
    weights = [math.exp(60 * words[: i + 1].count(asked) / (i + 1)) for i in range(len(words))]
    return 10 * (weights[words.index(right)] - weights[words.index(wrong)]) / sum(weights)


def test_the_mean_over_prompts_of_which_half_want_the_same_word_costs_half(model):
    samples = prompts(model, "finding", n=8)
    reference = head_outputs(model, samples, where=Where(positions=(-1,)))
    found = run_sweep(
        model, samples, units([RETRIEVER]), metric="logit_difference", ablation=Ablation("mean", reference)
    )
    assert found.table["effect"].to_numpy() == pytest.approx(-5, abs=CLOSE)


def test_heads_in_one_line_cost_no_more_together_and_heads_side_by_side_their_sum(model):
    asked = groups({"line": [PREVIOUS, INDUCTION]})
    found = run_sweep(model, prompts(model, "going on"), asked, metric="logit_difference")
    assert found.table["effect"].to_numpy() == pytest.approx(-10, abs=CLOSE)
    asked = groups({"movers": [MOVER, NEGATIVE]})
    found = run_sweep(model, prompts(model, "naming"), asked, metric="logit_difference")
    assert found.table["effect"].to_numpy() == pytest.approx(-7.5, abs=CLOSE)


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_whole_passes_under_hooks_give_the_same_table(model, mode):
    samples, asked = prompts(model, "going on", n=2), units(model.heads())
    slow = HookedRunner(model, Ablation(mode))
    fast, plain = (
        run_sweep(model, samples, asked, metric="logit_difference", ablation=Ablation(mode), runner=runner)
        for runner in (None, slow)
    )
    torch.testing.assert_close(fast.scores().samples, plain.scores().samples, atol=1e-4, rtol=0)


@pytest.mark.parametrize("trade", TRADES)
def test_what_is_worth_something_is_significant_and_silent_heads_have_p_1(model, trade):
    table = swept(model, prompts(model, trade, n=10)).summary().set_index("unit")
    known = {str(head) for head in COSTS[trade]}
    assert set(table.index[(table["q"] <= 0.05) & (table["effect"].abs() > CLOSE)]) == known
    assert set(table.index[: len(known)]) == known
    silent = [str(head) for head in model.heads() if head not in PLANTED]
    assert table.loc[silent, "p"].eq(1).all()


def test_without_the_planted_heads_nothing_is_worth_anything(model):
    for trade, heads in COSTS.items():
        poor = whole_model(without=list(heads))
        found = swept(poor, prompts(poor, trade, n=3))
        assert found.table["clean"].abs().max() < CLOSE
        expect(found, {})


# -- random heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trade", TRADES)
def test_random_heads_of_the_same_layers_cost_what_the_table_says_of_them(model, trade):
    costs = COSTS[trade]
    treated = max(costs, key=lambda head: abs(costs[head]))
    draws = {f"seed {seed}": draw_heads(model.heads(), 1, seed=seed, exclude=[treated]) for seed in range(8)}
    assert all(drawn[0].layer == treated.layer and drawn[0] != treated for drawn in draws.values())
    found = run_sweep(model, prompts(model, trade, n=3), groups(draws), metric="logit_difference")
    for name, part in found.table.groupby("unit"):
        assert part["effect"].to_numpy() == pytest.approx(costs.get(draws[name][0], 0), abs=CLOSE)


def test_controls_of_a_whole_circuit_cost_nothing(model):
    samples = prompts(model, "going on", n=3)
    draws = {f"{seed}": draw_heads(model.heads(), 2, seed=seed, exclude=[PREVIOUS, INDUCTION]) for seed in range(8)}
    assert len(set(draws.values())) > 4
    effects = run_sweep(model, samples, groups(draws), metric="logit_difference").table["effect"]
    assert effects.abs().max() < CLOSE


def test_a_comparison_tells_the_retriever_from_its_controls(model):
    task = Finding(n=4)
    conditions = with_controls(model, "retriever", [Ablate([RETRIEVER])], draws=3)
    table = compare(model, task, conditions, max_new_tokens=4).table
    assert table[table["condition"] == "retriever"]["score"].max() == 0
    assert table[table["condition"] != "retriever"]["score"].min() == 1
