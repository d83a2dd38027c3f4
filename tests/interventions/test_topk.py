"""Each query keeps the keys of largest attention."""

import pytest
import torch

from headscope import HookedModel, Record, UsageError, Where
from interventions.topk import TopKeys
from tests.headscope.test_hooks import gap, sentence, words_model

TEXTS = (sentence(11, seed=1), sentence(6, seed=2))


@pytest.fixture(scope="module")
def models() -> dict[str, HookedModel]:
    return {name: words_model(name) for name in ("llama", "mistral", "gpt_oss")}


def patterns(model: HookedModel, texts: tuple[str, ...], layer: int, *hooks: object) -> list[torch.Tensor]:
    seen = Record("pattern", Where(layers=(layer,)))
    with model.hooks(*hooks, seen):
        model.generate(texts, max_new_tokens=3)
    return seen.seen[layer]


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_rows_are_the_largest_entries_shared_out_anew(models, name):
    full, cut = (patterns(models[name], TEXTS, 0, *hooks)[0] for hooks in ((), (TopKeys(3),)))
    largest = full * (full >= full.topk(3, -1).values[..., -1:])
    expected = largest / largest.sum(-1, keepdim=True)
    assert gap(cut[0], expected[0]) < 1e-5
    assert gap(cut[1, :, 5:], expected[1, :, 5:]) < 1e-5  # behind the padding
    assert cut[0].gt(0).sum(-1).tolist() == [[min(3, row + 1) for row in range(12)]] * 4
    assert cut[1, :, :5].eq(0).all()


def test_a_learned_sink_beside_the_keys_keeps_its_part(models):
    full, cut = (patterns(models["gpt_oss"], TEXTS[:1], 0, *hooks)[0] for hooks in ((), (TopKeys(2),)))
    assert full.sum(-1).min() < 0.9
    assert (cut.sum(-1) <= full.sum(-1) + 1e-6).all()


def test_decoding_keeps_as_many(models):
    for call in patterns(models["llama"], TEXTS[:1], 1, TopKeys(2, phase="decode"))[1:]:
        assert call.gt(0).sum(-1).eq(2).all()
        assert gap(call.sum(-1), torch.ones(1, 4, 1)) < 1e-6


def test_a_padded_batch_equals_its_samples_alone(models):
    together = patterns(models["llama"], TEXTS, 1, TopKeys(3))
    for i, text in enumerate(TEXTS):
        for batch, alone in zip(together, patterns(models["llama"], (text,), 1, TopKeys(3)), strict=True):
            assert gap(batch[i, :, -alone.shape[2] :, -alone.shape[3] :], alone[0]) < 1e-5


def test_heads_and_layers_are_those_asked_for(models):
    model = models["llama"]
    plain = patterns(model, TEXTS[:1], 0)[0]
    one = patterns(model, TEXTS[:1], 0, TopKeys(1, heads="L0H2"))[0]
    assert torch.equal(one[:, [0, 1, 3]], plain[:, [0, 1, 3]])
    assert one[:, 2].gt(0).sum(-1).eq(1).all()
    assert torch.equal(patterns(model, TEXTS[:1], 0, TopKeys(1, layers=[1]))[0], plain)


def test_more_keys_than_there_are_change_nothing(models):
    plain = models["llama"].forward(TEXTS).logits
    with models["llama"].hooks(TopKeys(12)):
        assert torch.equal(models["llama"].forward(TEXTS).logits, plain)


def test_no_keys_are_refused():
    with pytest.raises(UsageError, match="the top 0 keys were asked for"):
        TopKeys(0)
