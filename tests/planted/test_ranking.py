"""Rankings of planted heads come out again and those of noise do not; false discoveries keep to their rate."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from experiments import run_sweep, units
from head_analysis import retrieval_scores
from headscope import HookedModel, Sample
from headscope.enough import expected_overlap, samples_for_width
from headscope.evidence import false_discovery
from headscope.scores import HeadScores
from headscope.stability import bootstrap_agreement, samples_needed, significant_heads, split_half_agreement
from tasks.ioi import IOI
from tests.head_analysis.test_sinks import llama
from tests.planted.naming import NAMES
from tests.planted.whole import DUPLICATE, INHIBITION, MOVER, NEGATIVE, RETRIEVER, Finding, whole_model

RATE, TABLES, HEADS = 0.05, 1000, 100


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return whole_model()


@pytest.fixture(scope="module")
def planted(model) -> HeadScores:
    """How much every head moves the answer to prompts of people, either way."""
    samples = IOI(n=12, names=NAMES).samples(model.tokenizer)
    effects = run_sweep(model, samples, units(model.heads()), metric="logit_difference").scores()
    return HeadScores(effects.samples.abs(), "size of effect")


@pytest.fixture(scope="module")
def noise() -> HeadScores:
    """What heads of a random model do to random words: nothing that another prompt would confirm."""
    model, samples = llama(64), []
    for seed in range(40):
        words = random.Random(seed).sample(range(10, 60), 9)
        prompt, right, wrong = " ".join(f"w{word}" for word in words[:7]), f" w{words[7]}", f" w{words[8]}"
        samples.append(Sample(prompt, right, meta={"foil": wrong}))
    return run_sweep(model, samples, units(model.heads()), metric="logit_difference").scores()


def test_planted_heads_are_on_top_whatever_the_samples(planted):
    assert set(planted.top(4)) == {DUPLICATE, INHIBITION, MOVER, NEGATIVE}
    for measure in (bootstrap_agreement, split_half_agreement):
        found = measure(planted, 4, draws=50)
        assert (found.overlap, found.overlap_interval) == (1, (1, 1))
    assert planted.stability(4) == 1
    assert samples_needed(planted, 4, level=1.0, draws=20).enough == 2
    assert expected_overlap(planted, 4, level=1.0, draws=50).enough == 2
    few = samples_for_width(planted, 0.1).set_index("name")["n"]
    assert few[str(MOVER)] == 1  # every prompt says the same


def test_the_one_retrieval_head_is_certain_and_significant(model):
    scores = retrieval_scores(model, Finding(n=12), max_new_tokens=4)
    assert split_half_agreement(scores, 1, draws=50).overlap == 1
    table = significant_heads(scores)
    assert table[table["found"]]["name"].tolist() == [str(RETRIEVER)]


def test_a_ranking_of_noise_is_reported_as_unstable(noise):
    k, chance = 4, 4 / len(noise.heads)
    found = split_half_agreement(noise, k, draws=100)
    assert found.overlap < chance + 0.25
    assert found.overlap_interval[0] <= chance
    assert noise.stability(k) < 0.7
    assert samples_needed(noise, k, draws=50).enough is None
    assert expected_overlap(noise, k, draws=100, level=0.9).enough is None
    assert not significant_heads(noise, against="two-sided")["found"].any()


def test_planted_effects_stand_out_of_noise_heads_and_noise_alone_does_not(planted, noise):
    """Real effects of the planted model beside real noise of the random one, as heads of one table."""
    both = torch.cat([noise.samples[:12], planted.samples[:, :, :4]], 1)
    scores = HeadScores(both, "size of effect")
    top = {(head.layer - noise.samples.shape[1], head.head) for head in scores.top(4)}
    assert top == {DUPLICATE, INHIBITION, MOVER, NEGATIVE}
    assert split_half_agreement(scores, 4, draws=50).overlap == 1
    assert split_half_agreement(scores, 10, draws=50).overlap < 1


# -- the false-discovery rate ----------------------------------------------------------------------------------------


def p_values(strength: np.ndarray, *, seed: int, shared: float = 0.0) -> np.ndarray:
    """[table head] of t tests over 20 samples; `shared` is the part of the noise that all heads of a sample have."""
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(TABLES // 200):
        noise = rng.standard_normal((200, 20, HEADS)) + shared * rng.standard_normal((200, 20, 1))
        tables.append(ttest_1samp(strength + noise, 0, axis=1).pvalue)
    return np.concatenate(tables)


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_where_no_head_differs_few_tables_name_one(shared):
    p = p_values(np.zeros(HEADS), seed=0, shared=shared)
    named = np.array([(false_discovery(table) <= RATE).any() for table in p])
    assert named.mean() <= RATE + 3 * (RATE * (1 - RATE) / TABLES) ** 0.5
    assert (p <= RATE).any(1).mean() > 0.5  # the control: without correction most tables name one


def test_among_those_named_the_false_ones_keep_to_the_rate():
    strength = np.where(np.arange(HEADS) < 20, 1.2, 0.0)
    named = np.array([false_discovery(table) <= RATE for table in p_values(strength, seed=1)])
    false = named[:, 20:].sum(1) / np.maximum(named.sum(1), 1)
    assert false.mean() == pytest.approx(RATE * 0.8, abs=0.01)  # the rate times the share of heads without effect
    assert named[:, :20].mean() > 0.9
