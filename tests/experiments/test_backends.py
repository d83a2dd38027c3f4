"""Whole analyses on the shipped models through every backend: the same numbers, from the same lines of code."""

from functools import cache

import jaxtyping
import pytest
import torch
from torch import Tensor

from experiments import activation_patching, path_patching, run_sweep, units
from experiments.cli import run
from head_analysis import measure_vhd, retrieval_scores
from headscope import HookedModel, parse_heads
from headscope.backends import BackendName
from headscope.errors import UnsupportedModelError, UsageError
from headscope.partial import Resumable
from interventions import VAR, VHR
from tasks import Needle, NeedlePairs, scene_captions

OTHERS: tuple[BackendName, ...] = ("transformer_lens", "nnsight")
BAR = 1e-5


@cache
def load(name: str, backend: BackendName = "transformers") -> HookedModel:
    return HookedModel.load(name, backend=backend)


def retrieval(model: HookedModel) -> Tensor:
    return retrieval_scores(model, Needle(lengths=(64,), depths=3, seed=0)).samples


def pairs(model: HookedModel):
    task = NeedlePairs(lengths=(64,), depths=1, repeats=1)
    return task.samples(model.tokenizer), task.counterfactuals(model.tokenizer)


def sweep(model: HookedModel) -> Tensor:
    found = run_sweep(model, pairs(model)[0], units(parse_heads("L2H2, L1H7, L3H0")))
    return torch.from_numpy(found.summary().select_dtypes("number").to_numpy(float).copy()).nan_to_num()


def patching(model: HookedModel) -> Tensor:
    return activation_patching(model, *pairs(model), heads="L2H2, L2H6").values[2, [2, 6]]


def paths(model: HookedModel) -> Tensor:
    return path_patching(model, *pairs(model), senders="L2H2", through="logits").values[2, 2]


def statistics(model: HookedModel) -> Tensor:
    found = model.attention_statistics(pairs(model)[0], distances=True)
    return torch.stack([found.scores(name).values for name in ("first_token", "entropy", "distance", "previous_token")])


def scenes(model: HookedModel):
    return scene_captions(2, seed=3).samples(model.processor)


def vhd(model: HookedModel) -> Tensor:
    return measure_vhd(model, scenes(model), max_new_tokens=6).scores().samples


def written(model: HookedModel) -> Tensor:
    with model.hooks(VAR(), VHR(alpha=2)):
        answers = model.generate(scenes(model), max_new_tokens=10)
    return torch.tensor([token for answer in answers for token in answer.tokens], dtype=torch.float)


ANALYSES = {
    "retrieval": (retrieval, "zoo:needle"),
    "sweep": (sweep, "zoo:needle"),
    "patching": (patching, "zoo:needle"),
    "paths": (paths, "zoo:needle"),
    "statistics": (statistics, "zoo:needle"),
    "VHD": (vhd, "zoo:scenes"),
    "captions under VAR and VHR": (written, "zoo:scenes"),
}


@cache
def reference(name: str) -> Tensor:
    analysis, model = ANALYSES[name]
    return analysis(load(model))


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_gives_the_same_numbers(name, backend):
    analysis, model = ANALYSES[name]
    assert reference(name).abs().max() > 0.1
    torch.testing.assert_close(analysis(load(model, backend)), reference(name), rtol=BAR, atol=BAR, equal_nan=True)


@pytest.mark.parametrize("backend", ["transformers", *OTHERS])
@pytest.mark.parametrize("model", ["zoo:needle", "zoo:scenes"])
def test_doctor_proves_a_backend(model, backend, capsys):
    assert run(["doctor", model, "--backend", backend, "--json"]) == 0
    assert f'"backend": "{backend}"' in capsys.readouterr().out


def test_passes_of_other_libraries_are_not_taken_up():
    with pytest.raises(UnsupportedModelError, match=r"run in nnsight.*ablate with hooks instead"):
        Resumable(load("zoo:needle", "nnsight"))


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="'jax' is not known; use one of transformers, transformer_lens, nnsight"):
        HookedModel.load("zoo:needle", backend="jax")
