"""TransformerLens bridges: what is read and edited in them equals the plain model, or is refused with the reason."""

from functools import cache

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import helpers, source
from transformers import AutoTokenizer

from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.backends.transformer_lens import bridged
from headscope.errors import UnsupportedModelError
from headscope.statistics import StatisticsReader
from headscope.zoo import zoo_folder
from interventions import ACT, Ablate, KnockOut, Scale
from tests.headscope.test_hooks import gap, hooked
from tests.interventions.cases import first, generated, logits, recorded, second, together
from tests.tiny import TINY, UNSUPPORTED, build

COMPUTED = ("llama", "qwen2_sliding", "gpt2", "gemma2", "gpt_oss", "gpt_neox", "llava", "idefics3")
DELEGATED = ("opt", "bert")
SITES = ("resid_pre", "resid_mid", "resid_post", "z", "attn_out", "mlp_out", "pattern")
HEADS = "L0H1, L1H2"
BAR = 2e-5


def bridge_of(name: str) -> TransformerBridge:
    tokenizer = AutoTokenizer.from_pretrained(zoo_folder("zoo:needle"))
    return bridged(build(name), tokenizer, f"tiny/{name}")


@cache
def through_bridge(name: str) -> HookedModel:
    return HookedModel(bridge_of(name), example=TINY[name].inputs(), name=name)


@cache
def plain(name: str) -> HookedModel:
    return hooked(name)


@pytest.mark.parametrize("name", COMPUTED + DELEGATED)
def test_sites_are_those_of_the_plain_model(name):
    bridge, model = through_bridge(name), plain(name)
    assert [(s.stack, s.layer, s.n_heads, s.d_head, s.z_exact, s.parallel) for s in bridge.sites] == [
        (s.stack, s.layer, s.n_heads, s.d_head, s.z_exact, s.parallel) for s in model.sites
    ]
    assert [(s.mid is None, s.mlp is None) for s in bridge.sites] == [
        (s.mid is None, s.mlp is None) for s in model.sites
    ]
    assert {s.hands_over for s in bridge.sites_of()} == {"inputs" if name in DELEGATED else "pattern"}


@pytest.mark.parametrize("name", COMPUTED + DELEGATED)
def test_the_self_check_passes(name):
    check = through_bridge(name).check()
    assert check.passed, str(check)


@pytest.mark.parametrize("name", COMPUTED)
def test_every_site_shows_what_the_plain_model_shows(name):
    inputs = first(name)
    missing = ("resid_mid", "mlp_out") if plain(name).sites_of()[0].parallel else ()
    for site in SITES:
        if site in missing:
            continue
        ours, theirs = recorded(through_bridge(name), inputs, site), recorded(plain(name), inputs, site)
        assert ours.keys() == theirs.keys()
        for layer in ours:
            assert gap(ours[layer], theirs[layer]) < BAR, (site, layer)


@pytest.mark.parametrize("name", COMPUTED + DELEGATED)
@pytest.mark.parametrize(
    "edit", [Ablate(HEADS), Ablate(HEADS, "uniform"), Scale(HEADS, 0.25), KnockOut((-4, -3, -2), (-1,), heads=HEADS)]
)
def test_edits_move_the_logits_as_in_the_plain_model(name, edit):
    if name == "bert" and isinstance(edit, KnockOut):
        edit = KnockOut((2, 3), (5,), heads=HEADS)
    inputs = first(name)
    ours, theirs = logits(through_bridge(name), inputs, edit), logits(plain(name), inputs, edit)
    assert gap(ours, theirs) < BAR
    assert gap(theirs, logits(plain(name), inputs)) > 1e-3


@pytest.mark.parametrize("name", ["llama", "qwen2_sliding", "gpt2", "gpt_oss", "llava"])
def test_generation_is_edited_and_read_alike(name):
    inputs, found = first(name), {}
    for key, model in (("ours", through_bridge(name)), ("theirs", plain(name))):
        record = Record("pattern", Where(phase="decode"))
        values = Record("z", Where(phase="decode"))
        _, written = generated(
            model, inputs, 5, Ablate("L1H2"), ACT(layers=(0, 1), alpha=1.5, min_queries=2), record, values
        )
        found[key] = [written, *(rows for seen in (record.seen, values.seen) for layer in seen for rows in seen[layer])]
    assert len(found["ours"]) == len(found["theirs"]) > 10
    for a, b in zip(found["ours"], found["theirs"], strict=True):
        assert gap(a, b) < 5 * BAR


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2_sliding"])
def test_statistics_and_padding(name):
    batch = together(first(name), second(name))
    readers = []
    for model in (through_bridge(name), plain(name)):
        reader = StatisticsReader(Where(), None, [[], []], distances=True)
        logits(model, batch, reader)
        readers.append(reader)
    for index in (0, 1):
        ours, theirs = (reader.of_sample(index) for reader in readers)
        for field in ("column_mass", "entropy", "distance_mass", "mean_distance"):
            assert gap(getattr(ours, field), getattr(theirs, field)) < 5e-5
        assert torch.equal(ours.top_key, theirs.top_key)
    edit = Ablate(HEADS, "uniform")
    real = batch["attention_mask"].bool()
    assert gap(logits(through_bridge(name), batch, edit)[real], logits(plain(name), batch, edit)[real]) < BAR


@pytest.mark.parametrize("name", ["falcon", "bloom"])
def test_attention_code_of_a_models_own_is_reached_in_a_bridge(name):
    model = HookedModel(bridge_of(name), example=UNSUPPORTED[name].inputs(), name=name)
    check = model.check()
    assert check.passed, str(check)
    with pytest.raises(UnsupportedModelError, match="backend='transformer_lens'"):
        HookedModel(build(name), example=UNSUPPORTED[name].inputs())


def test_hooks_leave_nothing_behind():
    bridge, inputs = through_bridge("llama"), first("llama")
    before = logits(bridge, inputs)
    with pytest.raises(ZeroDivisionError), bridge.hooks(_Fails()):
        bridge.hf(**inputs)
    assert torch.equal(logits(bridge, inputs), before)
    assert not any(point.fwd_hooks for point in bridge.doors.bridge.hook_dict.values() if _alive(point))


def _alive(point) -> bool:
    return any(handle.hook.id in point._forward_hooks for handle in point.fwd_hooks)


class _Fails:
    site = "pattern"
    where = Where()

    def __call__(self, act: Tensor, ctx) -> Tensor:
        raise ZeroDivisionError


def test_hooks_of_the_users_own_act_beside_ours():
    bridge = bridge_of("llama")
    model, ids = HookedModel(bridge, name="llama"), first("llama")["input_ids"]

    def halve(z: Tensor, hook) -> Tensor:
        return z * torch.tensor([1.0, 0.5, 1.0, 1.0])[:, None]

    with model.hooks(Ablate("L1H2", "uniform")), torch.no_grad():
        both = bridge.run_with_hooks(ids, fwd_hooks=[("blocks.0.attn.hook_z", halve)])
    assert gap(both, logits(plain("llama"), first("llama"), Scale("L0H1", 0.5), Ablate("L1H2", "uniform"))) < BAR


# -- what is refused -------------------------------------------------------------------------------------------------


def test_inputs_of_attention_cannot_be_edited():
    class Keys(_Fails):
        site = "k"

    with (
        pytest.raises(UnsupportedModelError, match=r"'k'.*hands over the pattern alone; use backend='transformers'"),
        through_bridge("llama").hooks(Keys()),
    ):
        pass


def test_hidden_keys_cannot_be_shown():
    class Show(_Fails):
        site = "mask"

        def __call__(self, act: Tensor, ctx) -> Tensor:
            return torch.ones_like(act)

    with pytest.raises(UnsupportedModelError, match="shows keys"), through_bridge("llama").hooks(Show()):
        through_bridge("llama").hf(**first("llama"))
    plain_effect = gap(logits(plain("llama"), first("llama"), Show()), logits(plain("llama"), first("llama")))
    assert plain_effect > 1e-2


@pytest.mark.parametrize(
    ("name", "says"),
    [("deepseek_v3", "multi-head latent attention"), ("qwen2_vl", "no adapter for this architecture")],
)
def test_models_that_a_bridge_would_get_wrong(name, says):
    with pytest.raises(UnsupportedModelError, match=says):
        HookedModel(bridge_of(name), example=TINY[name].inputs())


def test_result_hooks_are_refused():
    bridge = bridge_of("llama")
    model = HookedModel(bridge, name="llama")
    bridge.set_use_attn_result(True)
    with pytest.raises(UsageError, match=r"set_use_attn_result\(False\)"), model.hooks(Ablate(HEADS, "uniform")):
        pass


def test_booting_never_installs_anything(monkeypatch):
    monkeypatch.setattr(helpers, "_ensure_torchvision", lambda: pytest.fail("tried to install torchvision"))
    before = source.load_modality_processor
    assert bridge_of("llava").processor is not None
    assert source.load_modality_processor is before


def test_a_tokenizer_from_nowhere_is_refused():
    with pytest.raises(UsageError, match="comes from no folder or hub id"):
        bridged(build("llama"), None, "tiny/llama")


def test_unknown_things_cannot_be_hooked():
    with pytest.raises(UsageError, match="cannot be hooked; give a model of transformers"):
        HookedModel(torch.nn.Linear(2, 2))


# -- pairs for run_with_hooks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss"])
@pytest.mark.parametrize(
    "edit", [Ablate(HEADS), Ablate(HEADS, "uniform"), Scale(HEADS, 3.0), KnockOut((-4, -3, -2), (-1,), heads=HEADS)]
)
def test_pairs_do_what_hooks_do(name, edit):
    bridge, inputs = bridge_of(name), first(name)
    if isinstance(edit, KnockOut):
        with pytest.raises(UsageError, match=r"chooses its edits anew.*HookedModel\(bridge\)\.hooks"):
            edit.fwd_hooks(bridge)
        return
    with torch.no_grad():
        ours = bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=edit.fwd_hooks(bridge))
    assert gap(ours, logits(plain(name), inputs, edit)) < BAR


def test_pairs_know_places_and_phases():
    bridge, inputs = bridge_of("llama"), first("llama")
    decode = Ablate(HEADS, phase="decode")
    with torch.no_grad():
        unedited = bridge(inputs["input_ids"])
        assert gap(bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=decode.fwd_hooks(bridge)), unedited) < 1e-6


def test_pairs_refuse_what_would_not_land():
    with pytest.raises(UnsupportedModelError, match=r"discards such edits"):
        Ablate(HEADS, "uniform").fwd_hooks(bridge_of("opt"))
    with pytest.raises(UsageError, match="takes a TransformerBridge, not a LlamaForCausalLM"):
        Ablate(HEADS).fwd_hooks(build("llama"))
    with pytest.raises(UsageError, match="ACT chooses its edits anew"):
        ACT().fwd_hooks(bridge_of("llama"))
    with pytest.raises(UsageError, match="L9H0 asked for"):
        Ablate("L9H0").fwd_hooks(bridge_of("llama"))


def test_z_edits_land_where_attention_is_left_to_transformers():
    bridge, inputs = bridge_of("opt"), first("opt")
    with torch.no_grad():
        ours = bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=Ablate(HEADS).fwd_hooks(bridge))
    assert gap(ours, logits(plain("opt"), inputs, Ablate(HEADS))) < BAR


def test_pairs_refuse_padded_batches():
    bridge = bridge_of("llama")
    batch = together(first("llama"), second("llama"))
    pairs = Ablate(HEADS).fwd_hooks(bridge)
    with pytest.raises(UsageError, match="the batch is padded"):
        bridge.run_with_hooks(batch["input_ids"], attention_mask=batch["attention_mask"], fwd_hooks=pairs)
    bridge.run_with_hooks(batch["input_ids"], fwd_hooks=pairs)  # without its mask nothing of it is padding


def test_scores_are_indexed_as_patterns_are():
    from headscope.scores import HeadScores

    scores = HeadScores(torch.arange(24.0).reshape(2, 3, 4), "score", {})
    assert scores[1, 2] == scores.values[1, 2] == scores["L1H2"] == scores[Head(1, 2)]
    assert torch.equal(scores[2], scores.values[2])
