"""First-order estimates: slopes are right, exact where the model is linear in a head, and wrong where theory says so."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor

from experiments import run_sweep, units
from experiments.sweeps.ablated import Ablation
from experiments.sweeps.attribution import agreement, screen
from experiments.sweeps.rank_agreement import spearman, spread_over_layers
from headscope import Head, HookedModel, Sample, UsageError, Where
from headscope.hooks import Context
from headscope.scores import HeadScores
from interventions import Scale, head_outputs
from tasks.ioi import IOI
from tests.headscope.test_hooks import Edit, sentence, word_tokenizer
from tests.planted.naming import DUPLICATE, GAIN, INHIBITION, MOVER, NAMES, NEGATIVE, naming_model
from tests.planted.wiring import wired
from tests.planted.wording import word_level
from tests.tiny import build

METRICS = ("logit_difference", "probability", "loss")
STEP = 4e-3
"""Norms compute in float32 whatever the model, so smaller steps drown in rounding."""


@cache
def words(name: str, dtype: torch.dtype = torch.float64) -> HookedModel:
    """A tiny decoder whose words are tokens."""
    return HookedModel(build(name).to(dtype), word_tokenizer(), name=name)


SAMPLES = [
    Sample(sentence(length, seed=length), target=target, meta={"foil": " w33"})
    for length, target in ((9, " w20 w21 w22"), (14, " w41"), (6, " w52 w18"))
]


def exact(model: HookedModel, metric: str, sample: Sample, *hooks: object) -> Tensor:
    """The metric in the model's own precision, written out once more."""
    prompt = list(model.tokens(sample).ids)
    answer = [int(word[1:]) for word in sample.target.split()]
    with torch.no_grad(), model.hooks(*hooks):
        logits = model.hf(torch.tensor([prompt + answer[:-1]])).logits[0]
    if metric == "loss":
        losses = [-logits[len(prompt) - 1 + i].log_softmax(-1)[token] for i, token in enumerate(answer)]
        return torch.stack(losses).mean()
    last = logits[len(prompt) - 1]
    return last.softmax(-1)[answer[0]] if metric == "probability" else last[answer[0]] - last[33]


def slope(value: Callable[[float], Tensor]) -> float:
    """Derivative at 0 by central differences, extrapolated to steps of no width."""
    wide, narrow = ((value(step) - value(-step)) / (2 * step) for step in (STEP, STEP / 2))
    return float(4 * narrow - wide) / 3


def scaled_down(model: HookedModel, metric: str, sample: Sample, head: Head, step: float) -> Tensor:
    return exact(model, metric, sample, Scale([head], 1 - step))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])  # shared keys; learned places; its own attention
def test_the_slope_is_that_of_small_steps(name, metric):
    model = words(name)
    for sample in SAMPLES:
        found = screen(model, [sample], metric=metric).values
        size = float(found.abs().mean())
        assert size > 0
        for head in model.heads()[::3]:
            by_steps = slope(partial(scaled_down, model, metric, sample, head))
            assert found[head] == pytest.approx(by_steps, rel=1e-3, abs=1e-3 * size)


@pytest.mark.parametrize("mode", ["mean", "resample", "uniform"])
def test_other_modes_step_towards_what_stands_in_for_the_head(mode):
    model, sample = words("llama"), SAMPLES[1]
    ablation = Ablation(mode, head_outputs(model, [sentence(20, seed=5)]), seed=3)
    found = screen(model, [sample], ablation=ablation).values
    for head in model.heads()[::2]:
        by_steps = slope(
            lambda step, head=head: exact(model, "logit_difference", sample, _towards(ablation, head, step))
        )
        assert found[head] == pytest.approx(by_steps, rel=1e-3, abs=1e-3 * float(found.abs().mean()))


def _towards(ablation: Ablation, head: Head, share: float) -> Edit:
    """Moves what the ablation replaces, z or rows, by a share of the way."""
    whole = ablation.of([head])

    def change(act: Tensor, ctx: Context) -> Tensor:
        return act + share * (whole(act, ctx) - act)

    return Edit(whole.site, Where(heads=(head,)), change)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2"])
def test_a_padded_batch_equals_single_samples(name):
    model = words(name, torch.float32)
    together = screen(model, SAMPLES, batch_tokens=4096)
    alone = torch.cat([screen(model, [sample]).samples for sample in SAMPLES])
    torch.testing.assert_close(together.samples, alone, rtol=1e-4, atol=1e-5)


def test_narrow_weights_are_summed_wide():
    wide, narrow = (screen(words("llama", dtype), SAMPLES) for dtype in (torch.float32, torch.bfloat16))
    assert narrow.samples.dtype == torch.float32
    assert wide.correlation(narrow) > 0.95


def test_layers_without_attention_have_no_estimate():
    scores = screen(words("qwen3_next", torch.float32), SAMPLES[:1])
    assert {head.layer for head in scores.heads} == set(words("qwen3_next", torch.float32).layers())
    assert scores.samples.isnan().any()


def test_the_model_is_left_as_it_was():
    model = words("llama", torch.float32)
    model.hf.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.hf.parameters()]
    with torch.inference_mode():
        screen(model, SAMPLES)
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())


# -- a planted circuit --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


@pytest.fixture(scope="module")
def sentences(naming) -> list[Sample]:
    return IOI(n=6, names=NAMES, counterfactual="swap").samples(naming.tokenizer)


def test_heads_that_write_straight_into_the_logits_are_worth_what_is_estimated(naming, sentences):
    found = screen(naming, sentences).values
    effects = run_sweep(naming, sentences, units((MOVER, NEGATIVE)), metric="logit_difference").scores().values
    for head in (MOVER, NEGATIVE):
        assert found[head] == pytest.approx(float(effects[head]), rel=1e-3)
    assert found[MOVER] == pytest.approx(-GAIN * 4 / 3, rel=1e-3)


def test_heads_that_act_through_saturated_attention_are_missed(naming, sentences):
    """Removing them changes where the movers look, but the slope of their softmax is nothing."""
    estimate = screen(naming, sentences)
    found = agreement(naming, sentences, estimate, heads=12)
    table = found.table.set_index("head")
    for head in (DUPLICATE, INHIBITION):
        assert table.loc[str(head), "exact"] == pytest.approx(-GAIN * 4 / 3, rel=1e-3)
        assert abs(table.loc[str(head), "estimate"]) < 0.01
    assert found.overlap < 1
    assert found.rank_correlation < 0.8
    assert found.low < found.rank_correlation <= found.high


# -- agreement ----------------------------------------------------------------------------------------------------


def test_agreement_is_with_the_exact_sweep():
    model = words("llama", torch.float32)
    estimate = screen(model, SAMPLES)
    found = agreement(model, SAMPLES, estimate, heads=6, seed=2, k=2)
    assert found.n_heads == len(found.table) == 6
    heads = tuple(map(Head.parse, found.table["head"]))
    effects = run_sweep(model, SAMPLES, units(heads), metric="logit_difference").scores().values
    assert found.table["exact"].tolist() == pytest.approx([float(effects[head]) for head in heads], rel=1e-4)
    assert found.table["estimate"].tolist() == [float(estimate.values[head]) for head in heads]
    by_hand = found.table[["exact", "estimate"]].corr(method="spearman").iloc[0, 1]
    assert found.rank_correlation == pytest.approx(by_hand)
    again = agreement(model, SAMPLES, estimate, heads=6, seed=2, k=2)
    assert again.table.equals(found.table)


def test_where_all_is_linear_the_ranking_is_right_and_one_turned_round_is_found_out():
    tokenizer = word_level([" ".join(NAMES)])
    model = wired({}, tokenizer, {name: i for i, name in enumerate(NAMES)}, layers=3, noise=0.05)
    texts = (("Mary John Tom", " Mary", " Emma"), ("Kate Paul Anna", " Jack", " Laura"))
    samples = [Sample(text, target, meta={"foil": foil}) for text, target, foil in texts]
    estimate = screen(model, samples)
    right = agreement(model, samples, estimate, heads=8)
    assert right.rank_correlation == pytest.approx(1)
    assert (right.low, right.high, right.overlap) == (pytest.approx(1), pytest.approx(1), 1)
    assert right.table["estimate"].tolist() == pytest.approx(right.table["exact"].tolist(), rel=1e-2, abs=1e-4)
    wrong = agreement(model, samples, HeadScores(-estimate.samples, estimate.metric, estimate.meta), heads=8)
    assert wrong.rank_correlation == pytest.approx(-1)


def test_heads_are_drawn_from_every_layer():
    heads = [Head(layer, head) for layer in range(4) for head in range(3)]
    for seed in range(5):
        drawn = spread_over_layers(heads, 8, seed=seed)
        assert len(set(drawn)) == 8
        assert [sum(head.layer == layer for head in drawn) for layer in range(4)] == [2, 2, 2, 2]
    assert spread_over_layers(heads, 99, seed=0) == tuple(heads)
    assert spread_over_layers(heads, 8, seed=0) != spread_over_layers(heads, 8, seed=1)


def test_rank_correlation_by_hand():
    a = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 1, 2, 2], [5, 5, 5, 5]]).numpy()
    b = torch.tensor([[1.0, 2, 3, 9], [9, 3, 2, 1], [0, 0, 7, 7], [1, 2, 3, 4]]).numpy()
    assert spearman(a, b)[:3].tolist() == pytest.approx([1, -1, 1])
    assert spearman(a, b)[3] != spearman(a, b)[3]  # NaN: no ranking


# -- what is refused ----------------------------------------------------------------------------------------------


def test_what_has_no_estimate_is_refused():
    model = words("llama", torch.float32)
    with pytest.raises(UsageError, match="its slope there is 0 for every head"):
        screen(model, SAMPLES, metric="kl")
    with pytest.raises(UsageError, match="'score' has no slope"):
        screen(model, SAMPLES, metric="score")
    with pytest.raises(UsageError, match="0 samples"):
        screen(model, [])
    with pytest.raises(UsageError, match="no target"):
        screen(model, [Sample(sentence(5))], metric="loss")
    with pytest.raises(UsageError, match="have images"):
        screen(model, [Sample("w20", images=("a.png",))])


def test_agreement_refuses_scores_of_another_kind():
    model = words("llama", torch.float32)
    estimate = screen(model, SAMPLES)
    with pytest.raises(UsageError, match="not an estimate"):
        agreement(model, SAMPLES, run_sweep(model, SAMPLES, units(model.heads()), metric="probability").scores())
    with pytest.raises(UsageError, match="made for metric 'logit_difference', and 'loss'"):
        agreement(model, SAMPLES, estimate, metric="loss")
    with pytest.raises(UsageError, match="made for mode 'zero', and 'uniform'"):
        agreement(model, SAMPLES, estimate, ablation=Ablation("uniform"))
    with pytest.raises(UsageError, match="of 3 samples and 2"):
        agreement(model, SAMPLES[:2], estimate)
    with pytest.raises(UsageError, match="at least 3"):
        agreement(model, SAMPLES, estimate, heads=2)
    with pytest.raises(UsageError, match="k is 9, but 4 heads"):
        agreement(model, SAMPLES, estimate, heads=4, k=9)
