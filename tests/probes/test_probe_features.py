"""Features are the activations that `record` gives, at the tokens asked for, whatever stands beside them in a batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from headscope import Head, HookedModel, Sample, UsageError
from interventions import Ablate
from probes import features, untrained
from probes.features import embeddings
from tests.headscope.processors import PROCESSORS
from tests.headscope.test_hooks import gap, sentence, words_model
from tests.tiny import IMAGE, build

SAMPLES = [
    Sample(text, marks={"middle": (text.index(" ") + 1, text.index(" ") + 8)})  # the second and third word
    for text in (sentence(length, seed=length) for length in (6, 11, 4, 9))
]
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


@pytest.fixture(scope="module")
def llama() -> HookedModel:
    return words_model("llama")


@pytest.mark.parametrize("site", SITES)
def test_they_are_what_is_recorded(llama, site):
    read = features(llama, SAMPLES, site=site)
    for i, recorded in enumerate(llama.record(SAMPLES, site)):
        for layer in (0, 1):
            assert gap(read.values[layer][i], recorded[layer, -1]) < 1e-6
    assert read.shape == (2, 4)
    assert [len(ids) for ids in read.tokens] == [1] * 4


def test_positions_marks_and_means(llama):
    recorded = llama.record(SAMPLES, "resid_post")
    cases = {
        ("last", None): lambda act: act[:, -1],
        (2, None): lambda act: act[:, 2],
        (-3, None): lambda act: act[:, -3],
        ("mean", None): lambda act: act.mean(1),
        ("last", "middle"): lambda act: act[:, 3],  # behind <s> and one word
        (0, "middle"): lambda act: act[:, 2],
        ("mean", "middle"): lambda act: act[:, 2:4].mean(1),
    }
    for (position, mark), expected in cases.items():
        read = features(llama, SAMPLES, position=position, mark=mark)
        for i, act in enumerate(recorded):
            assert gap(read.values[1][i], expected(act)[1]) < 1e-5
    every = features(llama, SAMPLES, position="all").values[1]
    assert every.shape == (4, 12, 32)
    for row, act in zip(every, recorded, strict=True):
        assert gap(row[: act.shape[1]], act[1]) < 1e-6
        assert row[act.shape[1] :].isnan().all()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bert"])
@pytest.mark.parametrize("position", ["last", "mean"])
def test_a_batch_gives_what_its_samples_give_alone(name, position):
    model = words_model(name)
    together, split = (features(model, SAMPLES, site="z", position=position, batch_tokens=n) for n in (8192, 1))
    assert together.tokens == split.tokens
    for layer, values in together.values.items():
        assert gap(values, split.values[layer]) < 2e-5


def test_heads_and_layers_are_views_of_the_same(llama):
    read = features(llama, SAMPLES, site="z", layers=(1,))
    assert list(read.by_layer()) == [1]
    assert list(read.by_head()) == [Head(1, head) for head in range(4)]
    assert np.array_equal(read.by_layer()[1], np.concatenate(list(read.by_head().values()), 1))
    assert features(llama, SAMPLES, site="z", position="all").by_layer()[0].shape == (4, 12, 32)


def test_hooks_in_force_are_felt_and_memory_is_what_is_kept(llama):
    plain = features(llama, SAMPLES)
    with llama.hooks(Ablate("L0H1")):
        assert gap(features(llama, SAMPLES).values[1], plain.values[1]) > 1e-3
    assert plain.values[0].untyped_storage().nbytes() == 4 * 32 * 4


def test_image_and_text_tokens_are_told_apart():
    processor = PROCESSORS["llava"]()
    model = HookedModel(build("llava"), processor, name="llava")
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (IMAGE, IMAGE, 3), np.uint8)) for i in (0, 1)]
    samples = [Sample(f"{sentence(3 + i)} <image> w20 w21", images=(pictures[i],)) for i in (0, 1)]
    recorded = model.record(samples, "resid_post")
    image = features(model, samples, region="image", position="mean")
    text = features(model, samples, region="text", position="mean")
    for i, act in enumerate(recorded):
        inside = torch.zeros(act.shape[1], dtype=torch.bool)
        inside[4 + i : 4 + i + 36] = True  # behind <s> and the first words
        assert gap(image.values[1][i], act[1, inside].mean(0)) < 1e-5
        assert gap(text.values[1][i], act[1, ~inside].mean(0)) < 1e-5
    assert [len(ids) for ids in image.tokens] == [36, 36]
    with pytest.raises(UsageError, match="no token of these samples"):
        features(model, [Sample("w20 w21")], region="image")
    with pytest.raises(UsageError, match="a sample has no tokens in region 'image'"):
        features(model, [samples[0], Sample("w20 w21")], region="image")


def test_embeddings_are_projections_of_the_tokens_read(llama):
    read = features(llama, SAMPLES, position="mean", mark="middle")
    drawn = embeddings(llama, read, 7, seed=0)
    table = llama.hf.get_input_embeddings().weight.detach()
    means = torch.stack([table[list(ids)].mean(0) for ids in read.tokens])
    assert drawn.shape == (4, 7)
    projection = torch.linalg.lstsq(means, torch.from_numpy(drawn)).solution
    assert gap(means @ projection, torch.from_numpy(drawn)) < 1e-4
    assert not np.allclose(drawn, embeddings(llama, read, 7, seed=1))


def test_an_untrained_model_has_the_shape_and_nothing_else(llama):
    before = {name: weight.clone() for name, weight in llama.hf.state_dict().items()}
    state = torch.get_rng_state()
    fresh, again, other = untrained(llama), untrained(llama), untrained(llama, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert fresh.name == "llama, untrained"
    name = "model.layers.0.self_attn.q_proj.weight"
    a, b, c = (model.hf.state_dict()[name] for model in (fresh, again, other))
    assert a.shape == before[name].shape
    assert torch.equal(a, b)
    assert gap(a, before[name]) > 0.1
    assert gap(a, c) > 0.01
    assert all(torch.equal(weight, llama.hf.state_dict()[key]) for key, weight in before.items())


def test_what_cannot_be_read_is_refused(llama):
    with pytest.raises(UsageError, match="position 9 was asked for, but a sample has 7 tokens in its prompt"):
        features(llama, [SAMPLES[0]], position=9)
    with pytest.raises(UsageError, match="position asks for mark 'end'; the sample has middle"):
        features(llama, SAMPLES, mark="end")
    with pytest.raises(UsageError, match="features were asked of no samples"):
        features(llama, [])
    with pytest.raises(UsageError, match="features at 'resid_post' are not split by head"):
        features(llama, SAMPLES).by_head()
    with pytest.raises(UsageError, match=r"layers \[7\] asked for"):
        features(llama, SAMPLES, layers=(7,))
    with pytest.raises(UsageError, match="names no layer, or no token"):
        features(llama, SAMPLES, layers=())
