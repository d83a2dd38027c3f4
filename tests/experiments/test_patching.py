"""Activation patching finds what the planted circuit was built with, and agrees with plain torch hooks elsewhere."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
from torch import Tensor

from experiments.patching.activations import activation_patching, position_patching
from headscope import Head, HookedModel, Sample, UsageError
from tasks.ioi import IOI
from tests.headscope.test_hooks import sentence, words_model
from tests.planted.naming import DUPLICATE as DUPLICATES
from tests.planted.naming import GAIN, INHIBITION, MOVER, NAMES, NEGATIVE, naming_model

N = 6


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


def pairs(model: HookedModel, counterfactual: str, n: int = N) -> tuple[list[Sample], list[Sample]]:
    task = IOI(n=n, names=NAMES, counterfactual=counterfactual)
    return task.samples(model.tokenizer), task.counterfactuals(model.tokenizer)


def expect(values: Tensor, known: dict[Head, float]) -> None:
    """These values, and 0 for every other head."""
    expected = torch.zeros(values.shape)
    for head, value in known.items():
        expected[head] = value
    torch.testing.assert_close(values, expected, atol=5e-3, rtol=0)


# A mover sees one name and brings the whole difference of 2 D of its own, where the model has 1.5 D: 4/3 of the gap. The
# negative mover takes 1/3. With `abc`, losing the flag leaves a third on each name: -1/3 of the gain, 4/3 of the gap.
EFFECTS = {
    ("swap", "denoise"): {INHIBITION: 1, MOVER: 4 / 3, NEGATIVE: -1 / 3},
    ("swap", "noise"): {INHIBITION: 1, MOVER: 4 / 3, NEGATIVE: -1 / 3},
    ("abc", "denoise"): {MOVER: 4 / 3, NEGATIVE: -1 / 3},
    ("abc", "noise"): {DUPLICATES: 4 / 3, INHIBITION: 4 / 3, MOVER: 4 / 3, NEGATIVE: -1 / 3},
}


@pytest.mark.parametrize(("counterfactual", "direction"), EFFECTS)
def test_every_head_of_the_planted_circuit_is_worth_what_it_was_built_for(naming, counterfactual, direction):
    scores = activation_patching(naming, *pairs(naming, counterfactual), direction=direction)
    expect(scores.values, EFFECTS[counterfactual, direction])
    assert scores.n == N
    assert scores.metric == f"{direction} effect of z on logit_difference"
    assert scores.meta["samples_dropped"] == 0


@pytest.mark.parametrize(
    ("site", "known"),
    [
        ("q", {MOVER: 4 / 3, NEGATIVE: -1 / 3}),  # whom not to look at arrives in the query
        ("k", {MOVER: 2 / 3, NEGATIVE: -1 / 6}),  # half on S1, half on S2, who is the other one: no preference left
        ("v", {INHIBITION: 1}),  # who is flagged
        ("pattern", {MOVER: 4 / 3, NEGATIVE: -1 / 3}),
    ],
)
def test_what_carries_the_swap_is_known_at_every_site(naming, site, known):
    expect(activation_patching(naming, *pairs(naming, "swap"), site=site).values, known)


def test_without_normalising_effects_are_logits(naming):
    clean, corrupt = pairs(naming, "swap")
    raw = activation_patching(naming, clean, corrupt, heads=[INHIBITION, MOVER], normalise=None)
    assert raw.values[INHIBITION] == pytest.approx(2 * GAIN, abs=0.05)
    assert raw.heads == (INHIBITION, MOVER)  # the others were not asked for
    noise = activation_patching(naming, clean, corrupt, heads=[INHIBITION], normalise=None, direction="noise")
    assert noise.values[INHIBITION] == pytest.approx(-2 * GAIN, abs=0.05)


@pytest.mark.parametrize("metric", ["probability", "kl"])
def test_other_metrics_agree_on_what_restores_everything(naming, metric):
    values = activation_patching(naming, *pairs(naming, "swap"), metric=metric).values
    assert values[INHIBITION] == pytest.approx(1, abs=1e-2)
    assert values[0].abs().max() < 1e-3


def test_positions_tell_where_the_answer_travels(naming):
    scores = position_patching(naming, *pairs(naming, "swap"), positions=("IO", "S1", "S2", "END", -2))
    expected = torch.zeros(3, 5)
    expected[0, 2] = expected[1, 2] = expected[2, 3] = 1  # S2 until S-inhibition has read it, then the end
    torch.testing.assert_close(scores.values, expected, atol=5e-3, rtol=0)
    table = scores.to_dataframe()
    assert table[(table.layer == 2) & (table.position == "END")]["value"].item() == pytest.approx(1, abs=5e-3)
    assert list(table["n"]) == [N] * 15


def test_a_head_matters_only_at_its_place(naming):
    clean, corrupt = pairs(naming, "swap")
    at_end = activation_patching(naming, clean, corrupt, heads=[INHIBITION], positions="END")
    before = activation_patching(naming, clean, corrupt, heads=[INHIBITION], positions=(-2, -3))
    assert at_end.values[INHIBITION] == pytest.approx(1, abs=5e-3)
    assert before.values[INHIBITION] == pytest.approx(0, abs=5e-3)


def test_batches_of_any_size_give_the_same(naming):
    clean, corrupt = pairs(naming, "swap")
    whole = activation_patching(naming, clean, corrupt, heads=[INHIBITION, MOVER])
    few = activation_patching(naming, clean, corrupt, heads=[INHIBITION, MOVER], batch_tokens=40)
    torch.testing.assert_close(whole.samples, few.samples, atol=1e-4, rtol=0, equal_nan=True)


# -- random models ---------------------------------------------------------------------------------------------------


def random_pairs(n: int = 3) -> tuple[list[Sample], list[Sample]]:
    clean = [Sample(sentence(9, seed=i), " w20", meta={"foil": " w30"}) for i in range(n)]
    return clean, [Sample(sentence(9, seed=50 + i)) for i in range(n)]


def last_logits(hf, tokenizer, sample: Sample) -> Tensor:
    with torch.no_grad():
        return hf(**tokenizer(sample.prompt, return_tensors="pt")).logits[0, -1]


def difference(logits: Tensor) -> float:
    return float(logits[20] - logits[30])  # tokens of w20 and w30


@pytest.mark.parametrize("head", [Head(0, 1), Head(1, 3)])
def test_z_patches_are_those_of_plain_hooks_on_the_output_projection(head):
    model = words_model("llama")
    clean, corrupt = random_pairs()
    scores = activation_patching(model, clean, corrupt)
    projection = model.hf.model.layers[head.layer].self_attn.o_proj
    part = slice(head.head * 8, (head.head + 1) * 8)
    for i, (ours, theirs) in enumerate(zip(clean, corrupt, strict=True)):
        kept: list[Tensor] = []
        handle = projection.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0].clone()))
        good = difference(last_logits(model.hf, model.tokenizer, ours))
        handle.remove()
        bad = difference(last_logits(model.hf, model.tokenizer, theirs))

        def put(_, args, kept=kept):
            new = args[0].clone()
            new[..., part] = kept[0][..., part]
            return (new,)

        handle = projection.register_forward_pre_hook(put)
        patched = difference(last_logits(model.hf, model.tokenizer, theirs))
        handle.remove()
        assert scores.samples[i][head] == pytest.approx((patched - bad) / (good - bad), abs=1e-3)


@pytest.mark.parametrize("site", ["k", "v"])
def test_heads_that_share_keys_get_one_value(site):
    scores = activation_patching(words_model("llama"), *random_pairs(), site=site)  # 4 heads, 2 key heads
    assert torch.equal(scores.values[:, 0], scores.values[:, 1])
    assert torch.equal(scores.values[:, 2], scores.values[:, 3])
    assert (scores.values[:, 0] - scores.values[:, 2]).abs().min() > 1e-4


def test_pairs_without_a_gap_are_left_out_and_counted():
    model = words_model("llama")
    clean, corrupt = random_pairs()
    same = [*corrupt[:2], clean[2]]
    scores = activation_patching(model, clean, same)
    assert (scores.n, scores.meta["samples_dropped"]) == (2, 1)
    mean = activation_patching(model, clean, same, normalise="mean")
    assert mean.n == 3
    assert mean.samples[2].abs().max() < 1e-4


def test_the_mean_gap_divides_the_mean_change():
    model = words_model("llama")
    clean, corrupt = random_pairs()
    raw = activation_patching(model, clean, corrupt, normalise=None)
    mean = activation_patching(model, clean, corrupt, normalise="mean")
    gaps = [difference(last_logits(model.hf, model.tokenizer, a)) for a in clean]
    gaps = [a - difference(last_logits(model.hf, model.tokenizer, b)) for a, b in zip(gaps, corrupt, strict=True)]
    torch.testing.assert_close(mean.values, raw.values / (sum(gaps) / 3), atol=1e-4, rtol=1e-4)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first


def test_pairs_must_match():
    model, (clean, corrupt) = words_model("llama"), random_pairs()
    with pytest.raises(UsageError, match="3 clean and 2 corrupted samples were given"):
        activation_patching(model, clean, corrupt[:2])
    longer = [*corrupt[:2], Sample(sentence(10))]
    with pytest.raises(UsageError, match="pair 2: the clean prompt has 10 tokens and the corrupted one 11"):
        activation_patching(model, clean, longer)
    with pytest.raises(UsageError, match="no gap to measure effects by"):
        activation_patching(model, clean, clean, heads="L0H0")
    with pytest.raises(UsageError, match="no gap to measure effects by"):
        activation_patching(model, clean, clean, heads="L0H0", normalise="mean")


def test_answers_must_be_there_and_differ():
    model, (clean, corrupt) = words_model("llama"), random_pairs()
    mute = [replace(sample, target="") for sample in clean]
    with pytest.raises(UsageError, match="names no answer to measure"):
        activation_patching(model, mute, corrupt)
    alike = [replace(sample, meta={"foil": " w20 w21"}) for sample in clean]
    with pytest.raises(UsageError, match="' w20' and the wrong one ' w20 w21' begin with the same token"):
        activation_patching(model, alike, corrupt)
    assert activation_patching(model, mute, corrupt, heads="L0H0", metric="kl").n == 3


def test_unknown_options_are_named(unchecked):
    model, both = words_model("llama"), random_pairs()
    for options, message in [
        ({"metric": "accuracy"}, "metric 'accuracy' is not known; use one of 'logit_difference', 'probability', 'kl'"),
        ({"direction": "sideways"}, "direction 'sideways' is not known; use one of 'denoise', 'noise'"),
        ({"normalise": "max"}, "normalise 'max' is not known"),
        ({"heads": "L0H7"}, "L0H7 asked for, but llama has no such head; its heads are L0H0 to L1H3"),
        ({"positions": "S2"}, "position 'S2' is no mark of a sample, which has none"),
    ]:
        with pytest.raises(UsageError, match=message):
            activation_patching(model, *both, **options)
