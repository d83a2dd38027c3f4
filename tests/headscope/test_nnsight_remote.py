"""Models whose passes are requests: in a dry run, and on a server in a process of its own that has no headscope."""

import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from headscope import HookedModel
from headscope.backends.findings import Watched, containers, put_back
from headscope.backends.narrow import found_on_copy
from headscope.backends.remote import Place, _as_sent_back, _Envelope, place_of
from headscope.engine.statistics import LayerStatistics
from headscope.errors import UnsupportedModelError, UsageError
from headscope.hooks import Record
from headscope.sites import discover
from interventions import Ablate
from tests.tiny import TINY, build, prompt

ROOT = Path(__file__).parents[2]

DRY = (
    *(f"llama {name}" for name in ("plain", "edited", "recorded", "read", "answered", "stopped")),
    *(f"gpt2 {name}" for name in ("edited", "recorded", "read", "answered")),
    *(f"zoo:needle {name}" for name in ("edited", "retrieved")),
    *(f"zoo:scenes {name}" for name in ("recorded", "tower", "none", "VAR", "ACT", "VHR")),
)
SERVER = (
    *(f"llama {name}" for name in ("plain", "edited", "recorded", "answered", "stopped")),
    *("gpt2 edited", "zoo:needle retrieved"),
    *(f"zoo:scenes {name}" for name in ("recorded", "tower", "VAR", "VHR")),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[str, Any]:
    """What a client in a process of its own found, with a server in another: no annotation is checked in either."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "NNSIGHT_CONFIG": str(tmp_path_factory.mktemp("config") / "none"),
    }
    script = ROOT / "tests" / "headscope" / "remote_server.py"
    server = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        host = server.stdout.readline().strip()
        client = subprocess.run(
            [sys.executable, "-m", "tests.headscope.remote_client", host, str(tmp_path_factory.mktemp("models"))],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    finally:
        server.kill()
        server.communicate()
    assert client.returncode == 0, client.stderr[-3000:]
    return json.loads(client.stdout.split("RESULT ")[-1])


@pytest.mark.slow
@pytest.mark.parametrize("scenario", DRY)
def test_a_dry_run_equals_the_model_that_is_loaded_here(told, scenario):
    assert told["local"][scenario] <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SERVER)
def test_a_server_without_headscope_equals_the_model_that_is_loaded_here(told, scenario):
    assert told["server"][scenario] <= 1e-5


@pytest.mark.slow
def test_the_edits_compared_have_effects(told):
    assert set(told["effects"]) == {"edited", "VAR", "ACT", "VHR"}
    assert min(told["effects"].values()) > 1e-3


@pytest.mark.slow
def test_layers_found_without_weights_are_those_found_with_them(told):
    assert len(told["sites"]) == 8
    assert all(told["sites"].values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "start"),
    [
        ("local usage", "UsageError: layer 1 is not to be read"),
        ("server usage", "UsageError: layer 1 is not to be read"),
        ("local broken", "[False] RuntimeError: Expected size"),  # as it is raised, which a server cannot do
        ("server broken", "UsageError: http://127.0.0.1"),
        ("local keeps", "UsageError: a hook kept a pathlib.PosixPath"),
        ("server keeps", "UsageError: a hook kept a pathlib.PosixPath"),
        ("local holds", "UnsupportedModelError: a hook keeps hold of the hooked model"),
        ("server holds", "UnsupportedModelError: a hook keeps hold of the hooked model"),
        ("weights", "UnsupportedModelError: the weights of "),
        ("closed", "UsageError: http://127.0.0.1:9 does not answer"),
        ("missing", "UsageError: http://127.0.0.1"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_model_stays_clean(told, case, start):
    assert told["errors"][case].startswith(start)


@pytest.mark.slow
def test_the_reason_of_a_server_is_handed_on(told):
    assert "RuntimeError: Expected size" in told["errors"]["server broken"]
    assert "remote='local'" in told["errors"]["server broken"]
    assert "does not serve this model" in told["errors"]["missing"]
    assert "nnsight.status()" in told["errors"]["closed"]


@pytest.fixture
def api() -> Any:
    """nnsight's settings; it is not imported before the packages that are checked, which beartype would not survive."""
    from nnsight import CONFIG

    return CONFIG.API


def test_ndif_without_a_key_is_refused_before_anything_is_looked_up(monkeypatch, api):
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    monkeypatch.setattr(api, "APIKEY", None)
    with pytest.raises(UsageError, match="NDIF_API_KEY"):
        HookedModel.load("no/such-model", backend="nnsight", remote=True)


def test_ndif_takes_names_of_the_hub_only(monkeypatch, api):
    monkeypatch.setattr(api, "APIKEY", "a key")
    with pytest.raises(UsageError, match="zoo:needle is a folder here"):
        HookedModel.load("zoo:needle", backend="nnsight", remote=True)


def test_the_key_goes_to_ndif_alone(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "a key")
    assert place_of(True).key == "a key"
    assert place_of("http://localhost:5001/") == Place("http://localhost:5001")
    backend = Place("http://localhost:5001").backend(HookedModel.load("zoo:needle", backend="nnsight").hf._traced)
    assert backend.api_key == ""


@pytest.mark.parametrize("backend", ["transformers", "transformer_lens"])
def test_other_backends_run_here_only(backend):
    with pytest.raises(UsageError, match="needs backend='nnsight'"):
        HookedModel.load("zoo:needle", backend=backend, remote="local")


@pytest.mark.parametrize("setting", [{"dtype": "float16"}, {"device": "cpu"}, {"allow_pickle": True}], ids=str)
def test_weights_of_a_server_cannot_be_set_from_here(setting):
    with pytest.raises(UsageError, match=f"{next(iter(setting))} of zoo:needle is up to the server"):
        HookedModel.load("zoo:needle", backend="nnsight", remote="http://127.0.0.1:9", **setting)


def test_a_model_that_writes_nothing_is_refused(tmp_path):
    build("bert").save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="takes models that generate text"):
        HookedModel.load(tmp_path, backend="nnsight", remote="local")


def test_a_dry_run_works_where_annotations_are_checked_too():
    results = []
    for remote in (False, "local"):
        model = HookedModel.load("zoo:needle", backend="nnsight", remote=remote)
        record = Record("pattern")
        with model.hooks(Ablate("L1H7"), record):
            logits = model.forward(["the box is red ."]).logits
            answer = model.generate("the box is red .", max_new_tokens=3).tokens
        results.append((logits, answer, record.seen))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert all(map(torch.equal, results[0][2][3], results[1][2][3]))
    assert len(results[1][2][3]) == 4  # a pass of its own, and three of the answer


@pytest.mark.parametrize("remote", ["ndif", "ftp://host", "127.0.0.1"])
def test_a_place_that_is_none_is_refused(remote):
    with pytest.raises(UsageError, match="names no place to run"):
        place_of(remote)


# -- layers without weights --------------------------------------------------------------------------------------------

WIDE = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192, "vocab_size": 999,
    "pad_token_id": 998,
}  # fmt: skip
GROUPED = WIDE | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 999}
VISION = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 24,
    "patch_size": 4,
}  # fmt: skip
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**GROUPED)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**GROUPED)),
    "mistral": (MistralForCausalLM, MistralConfig(**GROUPED, sliding_window=8)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**GPT2, bos_token_id=1, eos_token_id=998)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(**GROUPED, head_dim=16)),
    "llava": (
        LlavaForConditionalGeneration,
        LlavaConfig(
            text_config={"model_type": "llama", **WIDE},
            vision_config={"model_type": "clip_vision_model", **VISION},
            image_token_id=5,
            vision_feature_layer=-2,
        ),
    ),
}


def inputs_of(name: str) -> dict[str, Tensor]:
    return TINY["llava"].inputs() if name == "llava" else prompt(12)


def without_weights(name: str) -> Any:
    kind, config = MODELS[name]
    with torch.device("meta"):
        return kind._from_config(config)


@pytest.mark.parametrize("name", MODELS)
def test_a_narrow_copy_shows_the_layers_of_the_model(name):
    kind, config = MODELS[name]
    torch.manual_seed(1)
    real = kind._from_config(config).eval()
    for weight in real.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, weight[0].numel() ** -0.5)
    made, _, sites = found_on_copy(without_weights(name), lambda _: inputs_of(name))
    expected = discover(real, inputs_of(name))
    assert [replace(site, rows_error=0.0) for site in sites] == [replace(site, rows_error=0.0) for site in expected]
    share = sum(w.numel() for w in made.parameters()) / sum(w.numel() for w in real.parameters())
    assert share < (0.7 if name == "gpt2" else 0.35)


def test_a_model_that_its_copy_is_not_like_is_refused():
    hf = without_weights("llama")
    hf.model.layers[1].self_attn.o_proj = torch.nn.Linear(96, 128, device="meta")
    with pytest.raises(UnsupportedModelError, match=r"takes 96 numbers a token in the model and 128 in the copy"):
        found_on_copy(hf, lambda _: prompt(12))


def test_a_model_with_other_modules_than_its_copy_is_refused():
    hf = without_weights("llama")
    hf.model.layers[1].self_attn.out = hf.model.layers[1].self_attn.o_proj
    del hf.model.layers[1].self_attn.o_proj
    with pytest.raises(UnsupportedModelError, match=r"the model has no model.layers.1.self_attn.o_proj"):
        found_on_copy(hf, lambda _: prompt(12))


# -- findings ----------------------------------------------------------------------------------------------------------


@dataclass
class Holder:
    """Hooks as far as what they keep is concerned."""

    kept: Any = field(default_factory=list)
    more: Any = None


def sent(held: list, fill: Any) -> Any:
    """What would come back after `fill` has run."""
    watched = Watched(held)
    fill()
    return _as_sent_back(watched.changes())


def test_what_hooks_keep_is_put_back_into_their_own_containers():
    shared: dict[int, Any] = {}
    there, here = Holder({}, shared), Holder({}, {})
    mass = torch.rand(1, 2, 3)
    entry = LayerStatistics(mass, mass, mass[..., 0], top_key=torch.ones(1, 2, 3, dtype=torch.long))  # others are None

    def fill() -> None:
        there.kept[0] = [(torch.ones(2), entry)]
        shared["a"] = {"deep": (1, None, 2.5, "text", True)}

    changes = sent(containers([there]), fill)
    kept, more = here.kept, here.more
    put_back(containers([here]), changes)
    assert here.kept is kept
    assert here.more is more
    assert more == {"a": {"deep": (1, None, 2.5, "text", True)}}
    ((first, again),) = kept[0]
    assert torch.equal(first, torch.ones(2))
    assert type(again) is LayerStatistics
    assert torch.equal(again.column_mass, mass)
    assert again.entropy is None


def test_a_container_held_twice_stays_one():
    inner: list[int] = []
    held = containers([Holder({"x": inner}), Holder(inner)])
    assert len(held) == 2
    changes = sent(held, lambda: inner.append(7))
    assert [place for place, _ in changes] == [held.index(inner)]
    inner.clear()
    put_back(held, changes)
    assert inner == [7]


def test_only_what_changed_is_sent_and_writing_into_a_tensor_is_a_change():
    quiet, written, closed = {"a": torch.ones(3)}, {"b": torch.ones(3)}, []
    hook = Holder(quiet, (written, lambda: closed.append(1)))
    held = containers([hook])
    assert len(held) == 3  # that which the function closes over too

    def fill() -> None:
        written["b"] += 1
        closed.append(2)

    changes = sent(held, fill)
    assert sorted(place for place, _ in changes) == sorted([held.index(written), held.index(closed)])


def test_a_part_of_a_large_tensor_is_sent_alone():
    hook, large = Holder([]), torch.zeros(100_000)
    changes = Watched([hook.kept])
    hook.kept.append(large[:3])
    with io.BytesIO() as file:
        torch.save(changes.changes(), file)
        assert len(file.getvalue()) < 10_000


@pytest.mark.parametrize("name", ["builtins:list", "os:system", "headscope.model:HookedModel", "headscope.nothing:No"])
def test_an_answer_cannot_name_other_code(name):
    with pytest.raises(UsageError, match="no record of headscope's here"):
        put_back([[]], [(0, [("own", name, [])])])


def test_fields_that_a_record_does_not_have_are_refused():
    with pytest.raises(UsageError, match="no record of headscope's here"):
        put_back([[]], [(0, [("own", "headscope.hooks:Record", [("__class__", 1)])])])


def test_the_envelope_of_an_answer_is_read_as_data():
    with pytest.raises(UsageError, match=r"names .*system, which is no data"):
        _Envelope(io.BytesIO(pickle.dumps(os.system))).load()


def test_records_of_one_hook_do_not_meet_those_of_another():
    first, second = Record("z"), Record("z")
    changes = sent(containers([first, second]), lambda: second.seen.setdefault(0, []).append(torch.ones(1)))
    second.seen.clear()
    put_back(containers([first, second]), changes)
    assert first.seen == {}
    assert list(second.seen) == [0]
