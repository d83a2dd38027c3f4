"""A pass taken up in the middle of a layer gives what a whole pass under a hook gives, on every decoder."""

from functools import cache

import jaxtyping
import pytest
import torch

from headscope import Head, HookedModel, UnsupportedModelError, Where
from headscope.partial import Resumable
from tests.headscope import test_hooks
from tests.headscope.test_hooks import gap, scaled, under
from tests.tiny import TINY, prompt

hooked = cache(test_hooks.hooked)
DECODERS = [name for name, row in TINY.items() if row.kind == "decoder"]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("wanted", [1, 12])
def test_taken_up_at_a_layer_equals_a_hooked_pass(name, wanted):
    model = hooked(name)
    resumable = Resumable(model)
    ids = prompt(12, batch=2, seed=3)["input_ids"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    clean = resumable.clean(inputs, wanted=wanted)
    for layer in model.layers():
        weight = model.output_weights(layer)[1]
        attention = clean.attention[layer] + 0.7 * clean.z[layer][:, :, 1] @ weight
        ours = resumable.resumed(layer, clean.pre[layer], attention, inputs, wanted=wanted)
        theirs = under(model, inputs, scaled(1.7, Where(heads=(Head(layer, 1),))))[:, -wanted:]
        assert gap(ours, theirs) < 2e-5 * max(1.0, theirs.abs().max().item())
        assert gap(ours, clean.logits) > 1e-3


def test_the_model_is_as_before_also_after_an_exception(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    model = hooked("llama")
    resumable = Resumable(model)
    inputs = {**prompt(8), "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    clean = resumable.clean(inputs, wanted=1)
    with pytest.raises(RuntimeError):
        resumable.resumed(0, clean.pre[0][:, :3], clean.attention[0][:, :2], inputs, wanted=1)
    assert all("forward" not in module.__dict__ for module in model.hf.modules())
    assert torch.equal(resumable.clean(inputs, wanted=1).logits, clean.logits)


def test_a_model_whose_passes_differ_is_refused(monkeypatch):
    model = HookedModel(TINY["llama"].build(), example=TINY["llama"].inputs())
    monkeypatch.setattr(HookedModel, "output_weights", lambda *_: torch.zeros(4, 8, 32))
    with pytest.raises(UnsupportedModelError, match="ablate with hooks instead"):
        Resumable(model)


def test_an_encoder_decoder_is_refused():
    with pytest.raises(UnsupportedModelError, match="encoder"):
        Resumable(hooked("bart"))
