"""What is kept of full attention, and how far predictions move."""

import pytest
import torch

from head_analysis.retained import logit_change, retained_attention
from headscope import HookedModel, UsageError, Where
from interventions.ablate import Ablate
from interventions.recycled import RecycledAttention
from interventions.topk import TopKeys
from interventions.windows import SinkWindow
from tests.headscope.test_hooks import gap, sentence, words_model

TEXTS = (sentence(11, seed=1), sentence(6, seed=2))


@pytest.fixture(scope="module")
def llama() -> HookedModel:
    return words_model()


def test_the_share_is_that_of_the_keys_kept(llama):
    (full,) = llama.record(TEXTS[:1], "pattern", where=Where(layers=(0,)))
    expected = full[0].topk(3, -1).values.sum(-1).mean(-1)
    found = retained_attention(llama, TEXTS[:1], [TopKeys(3)])
    assert gap(found.values[0], expected) < 1e-6
    assert found.samples.shape == (1, 2, 4)
    window = retained_attention(llama, TEXTS[:1], [SinkWindow(1, 2)], where=Where(positions=(-1,)))
    assert gap(window.values[0], full[0, :, -1, [0, 10, 11]].sum(-1)) < 1e-6


def test_nothing_is_lost_without_an_edit_or_where_attention_is_only_moved(llama):
    for edits in ([], [Ablate("L0H1", "uniform")], [SinkWindow(0, 50)]):
        assert gap(retained_attention(llama, TEXTS, edits).values, torch.ones(2, 4)) < 1e-5


def test_the_best_keys_keep_more_than_a_window_of_as_many(llama):
    best, window = (
        retained_attention(llama, TEXTS, [edit], where=Where(layers=(0,))).values[0]
        for edit in (TopKeys(4), SinkWindow(2, 2))
    )
    assert (best > window).all()


def test_a_padded_batch_equals_its_samples_alone(llama):
    together = retained_attention(llama, TEXTS, [TopKeys(3)]).samples
    alone = [retained_attention(llama, [text], [TopKeys(3)]).samples[0] for text in TEXTS]
    assert gap(together, torch.stack(alone)) < 1e-5


def test_answers_are_generated_for_edits_of_decoding(llama):
    decoding = Where(phase="decode")
    few, many = (
        retained_attention(llama, TEXTS, [RecycledAttention(keep, 4)], where=decoding, max_new_tokens=8).values
        for keep in (4, 40)
    )
    assert gap(many, torch.ones(2, 4)) < 1e-5
    assert (few < 0.999).all()
    with pytest.raises(UsageError, match="names no query of sample 0; give max_new_tokens where"):
        retained_attention(llama, TEXTS, [RecycledAttention(4, 4)], where=decoding)


def test_predictions_move_where_keys_are_hidden_and_nowhere_before(llama):
    for change, length in zip(logit_change(llama, TEXTS, [SinkWindow(1, 4)]), (12, 7), strict=True):
        assert change.shape == (length,)
        assert change[:5].abs().max() < 1e-5  # these see everything
        assert change[5:].max() > 1e-3
    assert all(change.abs().max() < 1e-6 for change in logit_change(llama, TEXTS, []))


def test_the_divergence_is_that_of_the_two_distributions(llama):
    plain = llama.forward(TEXTS[:1]).of_sample(0).softmax(-1)
    with llama.hooks(Ablate("L0H1, L1H2")):
        edited = llama.forward(TEXTS[:1]).of_sample(0).softmax(-1)
    (change,) = logit_change(llama, TEXTS[:1], [Ablate("L0H1, L1H2")])
    assert gap(change, (plain * (plain.log() - edited.log())).sum(-1)) < 1e-5


def test_in_decoding_both_write_the_plain_answer(llama):
    (change,) = logit_change(llama, TEXTS[:1], [RecycledAttention(3, 3)], max_new_tokens=7)
    assert change.shape == (7,)
    assert change[0].abs() < 1e-6  # the first full step has seen no edit
    assert (change[1:3] > 1e-4).all()
    assert all((c.abs() < 1e-6).all() for c in logit_change(llama, TEXTS, [RecycledAttention(40, 3)], max_new_tokens=5))
