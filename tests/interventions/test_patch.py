"""Patching puts in exactly what another run had, where it is asked to, for every sample of a batch."""

import pytest
from torch import Tensor

from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.hooks import Site
from interventions.patch import Activations, Patch, activations
from tests.headscope.test_hooks import gap, sentence, words_model

NAMES = ("llama", "mistral", "gpt2", "gpt_oss")
SITES: tuple[Site, ...] = ("q", "k", "v", "pattern", "z", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")
LENGTHS = (11, 11, 7)  # longest first, as they are run
CLEAN = tuple(sentence(length, seed=seed) for seed, length in enumerate(LENGTHS))
CORRUPT = tuple(sentence(length, seed=10 + seed) for seed, length in enumerate(LENGTHS))


@pytest.fixture(scope="module")
def models() -> dict[str, HookedModel]:
    return {name: words_model(name) for name in NAMES}


@pytest.fixture
def llama(models) -> HookedModel:
    return models["llama"]


def logits(model: HookedModel, texts: tuple[str, ...], *hooks: object) -> list[Tensor]:
    with model.hooks(*hooks):
        output = model.forward(texts)
    return [output.of_sample(i) for i in range(len(texts))]


def far(a: list[Tensor], b: list[Tensor]) -> float:
    return max(map(gap, a, b))


def patched_z(model: HookedModel, texts: tuple[str, ...], layer: int, *hooks: object) -> list[Tensor]:
    with model.hooks(*hooks):
        return [z[0] for z in model.record(texts, "z", where=Where(layers=(layer,)))]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_patched_with_itself_is_itself(models, name, site):
    model = models[name]
    assert far(logits(model, CLEAN, Patch(activations(model, CLEAN, site))), logits(model, CLEAN)) < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_last_stream_of_another_run_brings_its_answer(models, name):
    model = models[name]
    source = activations(model, CLEAN, "resid_post", layers=(1,))
    assert far(logits(model, CORRUPT, Patch(source)), logits(model, CLEAN)) < 2e-5
    assert far(logits(model, CORRUPT), logits(model, CLEAN)) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_queries_keys_and_values_together_bring_the_heads(models, name):
    model = models[name]
    three = [Patch(activations(model, CLEAN, site, layers=(1,))) for site in ("q", "k", "v")]
    theirs = patched_z(model, CLEAN, 1)
    assert far(patched_z(model, CORRUPT, 1, *three), theirs) < 2e-5
    assert far(patched_z(model, CORRUPT, 1, *three[:2]), theirs) > 1e-3
    rows_and_values = [Patch(activations(model, CLEAN, site, layers=(1,))) for site in ("pattern", "v")]
    assert far(patched_z(model, CORRUPT, 1, *rows_and_values), theirs) < 2e-5


def test_only_the_heads_and_places_named_are_patched(llama):
    source = activations(llama, CLEAN, "z")
    patch = Patch(source, "L0H2", positions=(3, -1))
    ours, own, theirs = (
        patched_z(llama, CORRUPT, 0, patch), patched_z(llama, CORRUPT, 0), patched_z(llama, CLEAN, 0)
    )  # fmt: skip
    for z, before, other in zip(ours, own, theirs, strict=True):
        expected = before.clone()
        expected[[3, -1], 2] = other[[3, -1], 2]
        assert gap(z, expected) < 2e-6
        assert gap(z, before) > 1e-3


@pytest.mark.parametrize("site", ["z", "pattern", "resid_pre"])
def test_places_may_differ_between_samples(llama, site):
    source = activations(llama, CLEAN, site, layers=(1,))
    patch = Patch(source, positions=((2, 5), (), (-1,)))
    together = logits(llama, CORRUPT, patch)
    for i, places in enumerate(((2, 5), (), (-1,))):
        alone = Patch(activations(llama, CLEAN[i : i + 1], site, layers=(1,)), positions=places)
        (expected,) = logits(llama, CORRUPT[i : i + 1], alone)
        assert gap(together[i], expected) < 5e-5
    assert gap(together[1], logits(llama, CORRUPT)[1]) < 5e-5
    assert gap(together[2], logits(llama, CORRUPT)[2]) > 1e-3


def test_layers_can_be_chosen(llama):
    source = activations(llama, CLEAN, "z")
    first = logits(llama, CORRUPT, Patch(source, layers=(0,)))
    assert far(first, logits(llama, CORRUPT, Patch(activations(llama, CLEAN, "z", layers=(0,))))) == 0
    assert far(first, logits(llama, CORRUPT, Patch(source))) > 1e-3


def test_activations_are_those_of_the_hooks_in_force(llama):
    whole = activations(llama, CLEAN, "z")
    with llama.hooks(Patch(activations(llama, CORRUPT, "z", layers=(0,)))):
        edited = activations(llama, CLEAN[:3], "z")
    theirs = activations(llama, CORRUPT, "z")
    assert gap(edited.layers[0], theirs.layers[0]) < 2e-6
    assert gap(edited.layers[1], whole.layers[1]) > 1e-3
    assert whole.lengths.tolist() == [12, 12, 8]
    assert not whole.layers[0][2, 8:].any()


def test_generated_tokens_are_left_alone(llama):
    source = activations(llama, CLEAN[:1], "z")
    record = Record("z", Where(layers=(1,)))
    with llama.hooks(Patch(source), record):
        llama.generate(CORRUPT[0], max_new_tokens=3)
    prompt, *steps = record.seen[1]
    assert gap(prompt, source.layers[1]) < 2e-6
    assert [step.shape[1] for step in steps] == [1, 1]
    assert all(gap(step[:, -1], source.layers[1][:, -1]) > 1e-3 for step in steps)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_patched_is_refused(llama):
    with pytest.raises(UsageError, match="site 'mask' cannot be patched; patch 'pattern'"):
        activations(llama, CLEAN, "mask")
    stream = activations(llama, CLEAN, "resid_pre", layers=(0,))
    with pytest.raises(UsageError, match="'resid_pre' is not split by head, so L0H1 cannot be patched"):
        Patch(stream, "L0H1")
    with pytest.raises(UsageError, match=r"holds no activations of layers \[1\]"):
        Patch(stream, layers=(1,))
    with (
        pytest.raises(UsageError, match="L0H9 asked for"),
        llama.hooks(Patch(activations(llama, CLEAN, "z"), [Head(0, 9)])),
    ):
        pass


def test_other_samples_are_refused(llama):
    patch = Patch(activations(llama, CLEAN, "z"))
    with pytest.raises(UsageError, match="the source holds 3 samples and the batch 2"):
        logits(llama, CORRUPT[:2], patch)
    with pytest.raises(UsageError, match=r"sample 0 has 8 tokens and its source 12; .*match token by token"):
        logits(llama, (CORRUPT[2], CORRUPT[0], CORRUPT[1]), patch)


def test_positions_must_fit_the_samples(llama):
    source: Activations = activations(llama, CLEAN, "z")
    with pytest.raises(UsageError, match="positions are given for 2 samples; the source has 3"):
        Patch(source, positions=((1,), (2,)))
    with pytest.raises(UsageError, match="position 8 was given for sample 2, which has 8 tokens"):
        Patch(source, positions=((1,), (1,), (8,)))
