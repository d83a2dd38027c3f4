"""Models of nnsight, hooked in traces: the numbers of `backend="transformers"` on the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from headscope import HookedModel, Where
from headscope.backends.nnsight import traced
from headscope.errors import UnsupportedModelError, UsageError
from headscope.hooks import Record
from headscope.statistics import StatisticsReader
from interventions import ACT, VAR, VHR, Ablate, Scale
from tasks.scenes import scene_captions
from tests.headscope.processors import word_tokenizer
from tests.headscope.test_hooks import Edit, gap
from tests.test_tiny import prediction
from tests.tiny import TINY, build, left_padded, prompt

NAMES = ("llama", "qwen2", "mistral", "gemma2", "gpt2", "gpt_neox", "opt", "gpt_oss", "mixtral", "llava", "bert")
WRITERS = ("llama", "mistral", "gemma2", "gpt2", "gpt_oss", "llava")
CLOSE = 1e-5


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[HookedModel, HookedModel]]:
    """Model -> hooked as it is, and in traces; made when first asked for."""
    return {}


@pytest.fixture
def pair(pairs, request) -> tuple[HookedModel, HookedModel]:
    name = request.param
    if name not in pairs:
        example = TINY[name].inputs()
        plain = HookedModel(build(name), example=example, name=name)
        pairs[name] = (plain, HookedModel(traced(build(name), word_tokenizer()), example=example, name=name))
    return pairs[name]


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", names, indirect=True)


def seen_by(model: HookedModel, inputs: dict[str, Tensor], *hooks: Any) -> Tensor:
    with torch.no_grad(), model.hooks(*hooks):
        return prediction(model.hf, inputs)


def both(pair: tuple[HookedModel, HookedModel], *hooks: Any, **inputs: Tensor) -> float:
    """Largest difference of the two predictions under the same hooks."""
    given = inputs or dict(pair[0].example)
    return gap(seen_by(pair[0], given, *hooks), seen_by(pair[1], given, *hooks))


@each(*NAMES)
def test_layers_and_predictions_are_those_of_the_model(pair):
    plain, through = pair
    assert [(s.name, s.stack, s.layer, s.projection, s.mid, s.mlp) for s in through.sites] == [
        (s.name, s.stack, s.layer, s.projection, s.mid, s.mlp) for s in plain.sites
    ]
    assert through.doors.name == "nnsight"
    assert both(pair) == 0


@each(*NAMES)
def test_every_site_is_seen_as_it_is(pair):
    plain = pair[0]
    sites = ["resid_pre", "resid_post", "q", "k", "v", "mask", "scores", "pattern", "z", "attn_out"]
    if not plain.sites_of()[0].parallel and plain.sites_of()[0].mid:
        sites += ["resid_mid", "mlp_out"]
    found = []
    for model in pair:
        records = [Record(site) for site in sites]
        seen_by(model, dict(model.example), *records)
        found.append({record.site: record.seen for record in records})
    assert all(set(found[0][site]) == set(plain.layers()) for site in sites)
    for site in sites:
        for layer in plain.layers():
            for one, other in zip(found[0][site][layer], found[1][site][layer], strict=True):
                assert gap(one.double(), other.double()) <= CLOSE, (site, layer)


@each(*NAMES)
@pytest.mark.parametrize("site", ["q", "pattern", "z", "resid_pre", "resid_post", "attn_out"])
def test_edits_land_as_they_do_in_the_model(pair, site):
    edit = Edit(site, Where(layers=(1,), positions=(2, -1)), lambda act, ctx: act * torch.linspace(0, 1, act.shape[-1]))
    assert both(pair, edit) <= CLOSE
    assert gap(seen_by(pair[1], dict(pair[1].example), edit), seen_by(pair[1], dict(pair[1].example))) > 1e-4


@each("llama", "gemma2", "gpt2")
def test_edits_between_attention_and_mlp_land(pair):
    edits = [Edit(site, Where(layers=(0,)), lambda act, ctx: act * 1.5) for site in ("resid_mid", "mlp_out")]
    assert both(pair, *edits) <= CLOSE


@each(*NAMES)
def test_interventions_in_order(pair):
    assert both(pair, Ablate("L0H1"), Scale("L1H0", 2.0), Ablate("L1H2", "uniform")) <= CLOSE


@each("llama", "mistral", "gpt2", "gpt_neox")
def test_a_padded_batch(pair):
    inputs = left_padded(prompt(14), prompt(9, seed=1))
    positions = pair[0].positions_of(inputs["attention_mask"])
    edit = Edit("pattern", Where(positions=(0, -1)), lambda act, ctx: act * 0.5)
    assert both(pair, edit, **inputs, **positions) <= CLOSE


@each("llama", "gemma2", "gpt_oss")
def test_statistics_of_every_layer(pair):
    found = []
    for model in pair:
        reader = StatisticsReader(Where(), None, [[]], True, True)
        seen_by(model, prompt(12), reader)
        found.append(reader.of_sample(0))
    for name in ("column_mass", "mean_entropy", "mean_distance", "entropy", "distance_mass"):
        assert gap(getattr(found[0], name), getattr(found[1], name)) <= CLOSE


@each(*WRITERS)
@pytest.mark.parametrize("phase", [None, "prefill", "decode"])
def test_answers_under_edits(pair, phase):
    edits = Edit("z", Where(layers=(0, 1), phase=phase), lambda act, ctx: act * -1.0), Ablate("L0H0", "uniform")
    written, records = [], []
    for model in pair:
        record = Record("z", Where(layers=(1,), phase="decode"))
        with torch.no_grad(), model.hooks(*edits, record):
            written.append(model.hf.generate(**TINY[model.name].inputs(), max_new_tokens=5, do_sample=False))
        records.append(record.seen[1])
    assert torch.equal(*written)
    assert len(records[0]) == len(records[1]) == 4  # the first token is chosen in a prefill for who calls `generate`
    assert max(gap(one, other) for one, other in zip(*records, strict=True)) <= CLOSE


@each("llama", "gpt2")
def test_an_answer_that_ends_early(pair):
    """Before its limit, at a token that the model would write anyway."""
    inputs, answers = TINY[pair[0].name].inputs(), []
    written = pair[0].hf.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    for model in pair:
        record = Record("resid_post", Where(layers=(0,)))
        with torch.no_grad(), model.hooks(record):
            answers.append(model.hf.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=int(written[2])))
        answers.append(record.seen[0])
    assert torch.equal(answers[0], answers[2])
    assert answers[0].shape[1] < inputs["input_ids"].shape[1] + 6
    assert [tuple(act.shape) for act in answers[1]] == [tuple(act.shape) for act in answers[3]]
    assert both(pair) == 0


@pytest.fixture(scope="module")
def scenes() -> tuple[HookedModel, HookedModel]:
    return HookedModel.load("zoo:scenes"), HookedModel.load("zoo:scenes", backend="nnsight")


@pytest.mark.parametrize(
    "operator", [VAR(layers=(1, 2), tau=2.0), ACT(layers=(1, 2), alpha=2.0), VHR(alpha=3.0)], ids=["VAR", "ACT", "VHR"]
)
def test_operators_choose_and_edit_alike(scenes, operator):
    samples = scene_captions(2, seed=1).samples(scenes[0].processor)[:2]
    tokens, logits = [], []
    for model in scenes:
        with model.hooks(operator):
            tokens.append([one.tokens for one in model.generate(samples, max_new_tokens=5)])
            logits.append(model.forward(samples[:1], last=1).logits)
    assert tokens[0] == tokens[1]
    assert gap(*logits) <= CLOSE
    assert gap(logits[0], scenes[0].forward(samples[:1], last=1).logits) > 1e-3


def test_operators_without_a_cache_are_refused(scenes):
    samples = scene_captions(1, seed=1).samples(scenes[1].processor)[:1]
    with pytest.raises(UnsupportedModelError, match="choose anew in every pass"), scenes[1].hooks(VHR(alpha=3.0)):
        scenes[1].generate(samples, max_new_tokens=2, use_cache=False)


@each("llama")
def test_an_answer_of_a_length_in_all(pair):
    inputs, written = prompt(12), []
    for model in pair:
        with torch.no_grad(), model.hooks(Ablate("L0H0")):
            written.append(model.hf.generate(**inputs, max_length=16, do_sample=False))
    assert torch.equal(*written)
    assert written[1].shape[1] == 16


def breaks(act: Tensor, ctx: Any) -> Tensor:
    raise ZeroDivisionError("broken on purpose")


@each("llama", "llava")
@pytest.mark.parametrize("site", ["pattern", "z", "resid_post", "q"])
def test_an_exception_keeps_its_kind_and_leaves_the_model_clean(pair, site):
    model = pair[1]
    before = seen_by(model, dict(model.example))
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        seen_by(model, dict(model.example), Edit(site, Where(), breaks))
    with (
        pytest.raises(ZeroDivisionError, match="on purpose"),
        torch.no_grad(),
        model.hooks(Edit(site, Where(), breaks)),
    ):
        model.hf.generate(**model.example, max_new_tokens=2)
    assert gap(seen_by(model, dict(model.example)), before) == 0
    assert not any(model.hf._edits.values())
    assert not model.hf._carried


@each("llama")
def test_what_is_wrong_with_an_edit_is_said_in_our_words(pair):
    wrong = Edit("z", Where(), lambda act, ctx: act[:, :1])
    with pytest.raises(UsageError, match="an intervention returns a tensor of the same shape"):
        seen_by(pair[1], dict(pair[1].example), wrong)


@each("qwen2_vl")
def test_a_module_that_is_called_several_times_in_a_pass_is_refused(pair):
    plain, through = pair
    assert {site.stack for site in plain.sites if site.calls > 1} == {"vision"}
    assert through.stacks == ("text",)
    with pytest.raises(UsageError, match=r"has no stack 'vision'; .* call attention several times in a pass"):
        seen_by(through, dict(through.example), Record("z", Where(stack="vision")))
    assert both(pair, Ablate("L0H1")) <= CLOSE


def test_a_model_without_weights_is_refused(tmp_path):
    from nnsight import TransformersModel

    build("llama").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    model = TransformersModel(str(tmp_path), task="text-generation", tokenizer=word_tokenizer())
    with pytest.raises(UnsupportedModelError, match="not dispatched"):
        HookedModel(model)
    model.dispatch()
    hooked = HookedModel(model)
    assert gap(hooked.forward(["w10 w11"]).logits, HookedModel.load(tmp_path).forward(["w10 w11"]).logits) == 0


@each("t5")
def test_answers_of_encoder_decoders_are_refused(pair):
    with pytest.raises(UnsupportedModelError, match="generate with backend='transformers'"):
        pair[1].hf.generate(**pair[1].example, max_new_tokens=2)
    assert both(pair, Ablate("L0H0")) <= CLOSE
