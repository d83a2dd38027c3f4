"""Models are loaded from folders, and whatever is wrong with one is said in a sentence that names it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from headscope import HookedModel, UsageError
from headscope.loading import load_pretrained
from headscope.zoo import zoo_folder, zoo_names
from tests.headscope.test_hooks import gap, sentence, word_tokenizer
from tests.test_tiny import prediction
from tests.tiny import TINY, build, prompt


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder that is only read."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build("llama").save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


def refused(name: str | Path, **options) -> str:
    """The message with which loading is refused: one sentence or two clauses, on one line."""
    with pytest.raises(UsageError) as raised:
        HookedModel.load(name, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 400
    assert message.count("cannot be loaded") <= 1
    return message


# -- what is loaded --------------------------------------------------------------------------------------------------


def test_a_folder_gives_the_model_that_was_saved(saved):
    model = HookedModel.load(saved, device="cpu")
    assert (model.name, model.device.type, model.hf.dtype) == (str(saved), "cpu", torch.float32)
    assert not model.hf.training
    assert torch.equal(prediction(model.hf, prompt()), prediction(build("llama"), prompt()))
    assert model.tokens(sentence(3)).ids == (1, *prompt(3)["input_ids"][0].tolist())
    assert len(model.generate(sentence(5), max_new_tokens=3).tokens) == 3
    assert model.check().passed


def test_dtype_is_that_of_the_file_unless_given(folder):
    assert HookedModel.load(folder, dtype="bfloat16").hf.dtype == torch.bfloat16
    half = HookedModel.load(folder, dtype=torch.bfloat16, device=torch.device("cpu")).hf
    half.save_pretrained(folder)
    assert HookedModel.load(folder).hf.dtype == torch.bfloat16
    assert HookedModel.load(folder, dtype="float32").hf.dtype == torch.float32


@pytest.mark.parametrize("name", ["gpt2", "bert", "llava", "vit", "t5"])
def test_every_kind_of_model_loads_as_what_it_was_saved_as(name, tmp_path):
    hf = build(name)
    hf.save_pretrained(tmp_path)
    loaded, processor = load_pretrained(tmp_path, device="cpu")
    assert type(loaded) is type(hf)
    assert processor is None
    assert gap(prediction(loaded, TINY[name].inputs()), prediction(hf, TINY[name].inputs())) < 1e-6


def test_a_folder_without_a_tokenizer_gives_a_model_without_a_processor(tmp_path):
    build("llama").save_pretrained(tmp_path)
    model = HookedModel.load(tmp_path)
    assert model.processor is None
    with pytest.raises(UsageError, match="without a processor"):
        model.forward(["w10"])


def test_paths_relative_to_the_present_folder_and_to_home(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    monkeypatch.setenv("HOME", str(saved.parent))
    for name in ("tiny-llama", "./tiny-llama", "~/tiny-llama", f"../{saved.parent.name}/tiny-llama"):
        assert HookedModel.load(name).name == name


# -- what is refused -------------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused_unless_allowed(folder):
    weights = build("llama").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    message = refused(folder)
    assert str(folder) in message
    assert "no safetensors weights" in message
    assert "allow_pickle=True" in message
    model = HookedModel.load(folder, allow_pickle=True)
    assert torch.equal(prediction(model.hf, prompt()), prediction(build("llama"), prompt()))


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    message = refused(folder)
    assert str(folder) in message
    assert "no safetensors weights" in message
    assert str(folder) in refused(folder, allow_pickle=True)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_is_refused(name):
    message = refused(name)
    assert message.startswith(f"there is no model folder {name};")
    assert "zoo:needle" in message


def test_a_folder_without_a_config_is_refused(tmp_path):
    assert refused(tmp_path) == f"folder {tmp_path} holds no config.json; give the folder that save_pretrained wrote"


def test_a_file_is_refused(saved):
    assert str(saved / "model.safetensors") in refused(saved / "model.safetensors")


@pytest.mark.parametrize("size", [0, 4, 100, -200], ids=["empty", "in the length", "in the header", "in the data"])
def test_truncated_weights_are_refused(folder, size):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert refused(folder).startswith(f"{folder} cannot be loaded: its safetensors file is damaged or cut short")


def test_corrupt_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00" + b"not json" * 100)
    assert "damaged" in refused(folder)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    assert refused(folder).startswith(f"{folder} cannot be loaded: its weights do not have the shapes")


@pytest.mark.parametrize("text", ["", "{", '{"hidden_size": 32}', '{"model_type": "no-such-model"}', "[]"])
def test_a_corrupt_config_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refused(folder)


def test_an_unknown_zoo_model_is_refused_with_those_there_are():
    message = refused("zoo:nothing")
    assert message.startswith("zoo:nothing is not in the zoo; it holds ")
    assert all(name in message for name in zoo_names())


@pytest.mark.parametrize("dtype", ["float31", "int8", "nn", "cuda"])
def test_an_unknown_dtype_is_refused(saved, dtype):
    assert refused(saved, dtype=dtype) == f"dtype {dtype!r} is not known; use auto, float32, bfloat16 or float16"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99", "meta:-3"])
def test_a_device_that_is_not_there_is_refused(saved, device):
    message = refused(saved, device=device)
    assert message.startswith(f"device {device!r} ")
    assert str(saved) not in message


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_a_hub_id_that_is_not_cached_is_refused_offline(monkeypatch, tmp_path, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    assert refused(name).startswith(f"{name} cannot be loaded: ")


def test_weights_that_memory_will_not_hold_are_refused_before_they_are_read(monkeypatch):
    folder = zoo_folder("zoo:needle")
    size = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr("headscope.costs.available_memory", lambda device: size - 1)
    monkeypatch.setattr("headscope.loading._auto_class", lambda config: pytest.fail("it was read"))
    with pytest.raises(UsageError, match=r"needs \d+ MB of memory and cpu has \d+ MB free.*too large.*smaller dtype"):
        load_pretrained(folder, device="cpu")
    with pytest.raises(UsageError, match="too large"):
        load_pretrained(folder, device="cpu", dtype="float32")
    monkeypatch.undo()
    monkeypatch.setattr("headscope.costs.available_memory", lambda device: size - 1)
    hf, _ = load_pretrained(folder, device="cpu", dtype="bfloat16")  # half of it fits
    assert hf.dtype == torch.bfloat16
