"""Models spread over devices: here over the CPU and a disk, whose layers hold no weights between their calls."""

from functools import cache

import pytest
import torch

from experiments import run_sweep, units
from head_analysis import retrieval_scores
from headscope import HookedModel, Record, UsageError, parse_heads
from interventions import Ablate
from tasks import Needle

ON_CPU = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0", "model.layers.1")
SPLIT = dict.fromkeys(ON_CPU, "cpu") | {"model.layers.2": "disk", "model.layers.3": "disk"}


@cache
def whole() -> HookedModel:
    return HookedModel.load("zoo:needle")


@pytest.fixture(scope="module")
def split() -> HookedModel:
    return HookedModel.load("zoo:needle", device_map=SPLIT)


def test_it_is_spread(split):
    assert {parameter.device.type for parameter in split.hf.parameters()} == {"cpu", "meta"}
    assert split.hf.get_submodule("model.layers.3.self_attn.q_proj").weight.is_meta


def test_the_self_check_passes(split):
    assert split.check().passed


def test_readings_edits_and_weights_are_those_of_the_whole_model(split):
    inputs = whole().example
    edit = Ablate("L0H1, L2H2, L3H1")
    seen = []
    for model in (split, whole()):
        records = [Record("pattern"), Record("z"), Record("resid_mid")]
        with torch.no_grad(), model.hooks(edit, *records):
            logits = model.hf(**inputs).logits
        seen.append([logits, *(one for record in records for layer in record.seen.values() for one in layer)])
    for ours, theirs in zip(*seen, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(split.output_weights(3), whole().output_weights(3))


def test_analyses_and_sweeps_run_on_it(split):
    task = Needle(lengths=(64,), depths=2, seed=0)
    assert torch.equal(retrieval_scores(split, task).samples, retrieval_scores(whole(), task).samples)
    chosen = units(parse_heads("L1H7, L2H2, L3H0"))
    tables = [run_sweep(model, task.samples(model.tokenizer), chosen).summary() for model in (split, whole())]
    assert tables[0].equals(tables[1])


def test_auto_uses_what_there_is():
    model = HookedModel.load("zoo:needle", device_map="auto")
    inputs = whole().example
    with torch.no_grad():
        assert torch.equal(model.hf(**inputs).logits, whole().hf(**inputs).logits)


def test_a_device_and_a_map_cannot_both_be_given():
    with pytest.raises(UsageError, match="device 'cpu' and device_map 'auto' were both given; give one of them"):
        HookedModel.load("zoo:needle", device="cpu", device_map="auto")


@pytest.mark.parametrize("device_map", [{"": "nowhere"}, {"": "cuda:7"}, "balance"])
def test_a_map_to_nowhere_is_refused(device_map):
    with pytest.raises(UsageError, match="zoo/needle cannot be loaded: "):
        HookedModel.load("zoo:needle", device_map=device_map)
