"""A window with sinks hides what stands between, and nothing else."""

import jaxtyping
import pytest
import torch

from headscope import HookedModel, Record, UsageError, Where
from interventions.windows import SinkWindow
from tests.headscope.test_hooks import gap, sentence, words_model

TEXTS = (sentence(11, seed=1), sentence(6, seed=2))  # 12 and 7 tokens


@pytest.fixture(scope="module")
def llama() -> HookedModel:
    return words_model()


def patterns(model: HookedModel, texts: tuple[str, ...], *hooks: object, steps: int = 3) -> list[torch.Tensor]:
    seen = Record("pattern", Where(layers=(1,)))
    with model.hooks(*hooks, seen):
        model.generate(texts, max_new_tokens=steps)
    return seen.seen[1]


@pytest.mark.parametrize(("sinks", "recent"), [(2, 3), (0, 4), (4, 1)])
def test_a_query_sees_the_first_and_the_most_recent_tokens(llama, sinks, recent):
    calls = patterns(llama, TEXTS, SinkWindow(sinks, recent))
    for i, padding in ((0, 0), (1, 5)):
        place = 0
        for call in calls:
            for row in call[i, :, -max(1, call.shape[2] - padding) :].unbind(1):
                seen = [key for key in range(place + 1) if key < sinks or key > place - recent]
                assert row[:, padding:].gt(0).any(0).nonzero().flatten().tolist() == seen
                assert gap(row.sum(-1), torch.ones(4)) < 1e-6
                place += 1


def test_rows_are_those_of_full_attention_shared_out_anew(llama):
    full = Record("pattern", Where(layers=(0,)))
    with llama.hooks(full):
        llama.forward(TEXTS[:1])
    cut = Record("pattern", Where(layers=(0,)))
    with llama.hooks(SinkWindow(1, 4), cut):
        llama.forward(TEXTS[:1])
    kept = cut.seen[0][0] > 0
    expected = full.seen[0][0] * kept
    assert gap(cut.seen[0][0], expected / expected.sum(-1, keepdim=True)) < 1e-6


def test_a_window_as_long_as_the_text_changes_nothing(llama):
    plain = llama.forward(TEXTS).logits
    with llama.hooks(SinkWindow(0, 12)):
        assert torch.equal(llama.forward(TEXTS).logits, plain)
    with llama.hooks(SinkWindow(0, 8)):
        assert gap(llama.forward(TEXTS).logits, plain) > 1e-2


def test_a_padded_batch_equals_its_samples_alone(llama):
    together = patterns(llama, TEXTS, SinkWindow(1, 3))
    for i, text in enumerate(TEXTS):
        for batch, alone in zip(together, patterns(llama, (text,), SinkWindow(1, 3)), strict=True):
            assert gap(batch[i, :, -alone.shape[2] :, -alone.shape[3] :], alone[0]) < 1e-5


def test_the_phase_and_the_heads_are_those_asked_for(llama):
    plain, edited = patterns(llama, TEXTS[:1]), patterns(llama, TEXTS[:1], SinkWindow(1, 2, phase="decode"))
    assert torch.equal(plain[0][:, :, :-1], edited[0][:, :, :-1])
    assert edited[1][0, 0, 0].gt(0).sum() == 3
    one = patterns(llama, TEXTS[:1], SinkWindow(1, 2, heads="L1H3"))[0]
    assert torch.equal(one[:, :3], plain[0][:, :3])
    assert one[0, 3, -1].gt(0).sum() == 3
    assert torch.equal(patterns(llama, TEXTS[:1], SinkWindow(1, 2, layers=[0]))[0].gt(0), plain[0].gt(0))


def test_an_empty_window_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="a window of 4 first and 0 recent tokens was asked for"):
        SinkWindow(recent=0)
    with pytest.raises(UsageError, match="a window of -1 first"):
        SinkWindow(-1)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="phase 'answer' is not known"):
        SinkWindow(phase="answer")
