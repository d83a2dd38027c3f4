"""A hooked model in lm_eval gives what lm_eval's own model gives, and with interventions what generation would give."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from experiments.harness.model import HarnessModel
from experiments.harness.reading import Reading, read_at_once, read_in_steps
from headscope import HookedModel, UsageError
from headscope.hooks import Context, Where
from interventions import ACT, Ablate, Scale
from tests.head_analysis.planted import COPIER, planted
from tests.headscope.test_hooks import hooked, sentence, traces, word_tokenizer, words_model
from tests.interventions.sinking import misled

PAIRS = [
    ("", "w11 w12 w13"),
    ("", "<s> w12 w13"),
    (sentence(9, seed=3), " w40"),
    (sentence(9, seed=3), " w41"),
    (sentence(9, seed=3), " w41 w42"),
    (sentence(9, seed=3) + " ", "w41 w42 w43"),
    *((sentence(n, seed=n), " " + sentence(k, seed=k)) for n in (3, 21, 40) for k in (1, 5)),
]
ARCHITECTURES = ["llama", "gpt2", "gemma2", "qwen2_sliding"]


def asked(kind: str, *requests: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, arguments, i) for i, arguments in enumerate(requests)]


def likelihoods(lm: HFLM, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[tuple[float, bool]]:
    return lm.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)


def close(found: Sequence[tuple[float, bool]], wanted: Sequence[tuple[float, bool]]) -> bool:
    """1e-5 nats; log-probabilities of -100 and less are not held closer than that in float32."""
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    return [value for value, _ in found] == pytest.approx([value for value, _ in wanted], rel=1e-6, abs=1e-5)


def own(model: HookedModel, **options: Any) -> HFLM:
    """lm_eval's own model, which knows no hooks."""
    return HFLM(model.hf, tokenizer=word_tokenizer(), **options)


# -- equal to lm_eval's own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_likelihoods_are_those_of_lm_eval(name):
    model = words_model(name)
    wanted = likelihoods(own(model))
    assert close(likelihoods(HarnessModel(model)), wanted)
    assert close(likelihoods(HarnessModel(model, batch_size=7)), wanted)
    assert len({value for value, _ in wanted}) == len(wanted)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rolling_likelihoods_are_those_of_lm_eval(name):
    model = words_model(name)
    texts = asked("loglikelihood_rolling", *((sentence(n, seed=n),) for n in (3, 31, 32, 77)))
    wanted = own(model, max_length=32).loglikelihood_rolling(texts, disable_tqdm=True)
    for size in (1, 3):
        lm = HarnessModel(model, batch_size=size, max_length=32)
        assert lm.loglikelihood_rolling(texts, disable_tqdm=True) == pytest.approx(wanted, rel=1e-6, abs=1e-5)
        assert lm.truncated == 0  # windows fit


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("ends", [True, False])
def test_texts_are_those_of_lm_eval(name, ends):
    model = words_model(name)
    if ends:
        model.hf.generation_config.eos_token_id = 2
    options = {"until": ["w20", "w44 w61"], "max_gen_toks": 12}
    contexts = asked("generate_until", *((sentence(n, seed=n), options) for n in (3, 9, 20, 40)))
    wanted = own(model).generate_until(contexts, disable_tqdm=True)
    assert HarnessModel(model).generate_until(contexts, disable_tqdm=True) == wanted
    assert HarnessModel(model, batch_size=4).generate_until(contexts, disable_tqdm=True) == wanted
    assert any(len(text.split()) < 12 for text in wanted) or name == "gemma2"


def test_the_likeliest_continuation_is_greedy():
    model = words_model()
    (written,) = model.generate([sentence(9)], max_new_tokens=3)
    (_, greedy), (_, other) = likelihoods(
        HarnessModel(model), [(sentence(9), " " + written.text), (sentence(9), " w98 w97")]
    )
    assert greedy
    assert not other


def test_long_requests_are_cut_on_the_left_as_lm_eval_does():
    model = words_model()
    pairs = [(sentence(40), " w41 w42"), (sentence(4), " w41"), (sentence(15), " w41"), (sentence(16), " w41")]
    lm = HarnessModel(model, max_length=16, batch_size=2)
    assert close(likelihoods(lm, pairs), likelihoods(own(model, max_length=16), pairs))
    assert lm.truncated == 2
    context = asked("generate_until", (sentence(40), {"until": [], "max_gen_toks": 4}))
    wanted = own(model, max_length=16).generate_until(context, disable_tqdm=True)
    assert lm.generate_until(context, disable_tqdm=True) == wanted
    assert lm.truncated == 3


def test_long_requests_can_be_refused():
    lm = HarnessModel(words_model(), max_length=16, too_long="refuse")
    assert len(likelihoods(lm, [(sentence(15), " w41")])) == 1
    with pytest.raises(UsageError, match=r"a request has 17 tokens, .* llama has room for 16; .*too_long='truncate'"):
        likelihoods(lm, [(sentence(16), " w41")])
    with pytest.raises(UsageError, match=r"a request has 14 tokens, .* room for 12"):
        lm.generate_until(asked("generate_until", (sentence(13), {"max_gen_toks": 4})), disable_tqdm=True)


def test_chats_are_written_by_the_tokenizers_template():
    model = words_model()
    model.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}w90{% endif %}"
    )
    lm = HarnessModel(model)
    turns = [{"role": "user", "content": "w10"}]
    assert lm.apply_chat_template(turns) == "user w10 w90"
    assert lm.apply_chat_template(turns) == HFLM(model.hf, tokenizer=model.tokenizer).apply_chat_template(turns)


# -- under interventions -----------------------------------------------------------------------------------------------


def test_only_the_planted_head_matters():
    model = planted()
    pair = [("key3 n1 n2 f4 f5 f6 f7 key3", " n1 n2")]
    others = [head for head in model.heads() if head.layer == COPIER.layer and head != COPIER]
    ((plain, greedy),) = likelihoods(HarnessModel(model), pair)
    ((without, still),) = likelihoods(HarnessModel(model, [Ablate([COPIER])]), pair)
    ((control, same),) = likelihoods(HarnessModel(model, [Ablate(others[:1])]), pair)
    assert (greedy, still, same) == (True, False, True)
    assert without < plain - 1
    assert abs(control - plain) < 0.2


def test_interventions_are_in_force_for_every_kind_of_request_and_go_after_it():
    model = words_model()
    before = traces(model)
    text = asked("loglikelihood_rolling", (sentence(20),))
    context = asked("generate_until", (sentence(9), {"until": [], "max_gen_toks": 8}))

    def answers(lm: HarnessModel) -> tuple:
        rolling = lm.loglikelihood_rolling(text, disable_tqdm=True)
        return *likelihoods(lm, PAIRS[2:3]), *rolling, *lm.generate_until(context, disable_tqdm=True)

    plain, edited = answers(HarnessModel(model)), answers(HarnessModel(model, [Scale("L0H0, L0H1, L1H2", 5.0)]))
    assert all(a != b for a, b in zip(plain, edited, strict=True))
    assert traces(model) == before
    with model.hooks(Scale("L0H0, L0H1, L1H2", 5.0)):
        assert answers(HarnessModel(model)) == edited
    assert answers(HarnessModel(model, [Scale("L0H0", 1.0)])) == plain


class Noted:
    """Notes the places of the queries that it is shown, and changes nothing."""

    def __init__(self, phase: Any) -> None:
        self.site, self.where, self.seen = "resid_pre", Where(layers=(0,), phase=phase), []

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        assert ctx.active is not None
        self.seen += [row[active].tolist() for row, active in zip(ctx.positions, ctx.active, strict=True)]
        return act


@pytest.mark.parametrize("read", [read_at_once, read_in_steps])
def test_queries_that_choose_a_token_are_decode(read):
    model = words_model()
    readings = [Reading((1, 20, 21, 22, 23), (30, 31)), Reading((1, 20), ())]
    decode, prefill = Noted("decode"), Noted("prefill")
    with model.hooks(decode, prefill):
        read(model, readings[:1])
    assert [place for row in decode.seen for place in row] == [4, 5, 6]
    assert [place for row in prefill.seen for place in row] == [0, 1, 2, 3]
    if read is read_at_once:
        both = Noted("decode")
        with model.hooks(both):
            read(model, readings)
        assert both.seen == [[4, 5, 6], [1]]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_phases_act_as_in_generation(phase):
    model = words_model()
    hook, prompt = Ablate("L0H0, L0H2, L1H1", phase=phase), sentence(9, seed=1)
    expected, written = generated(model, prompt, 5, hook)
    lm = HarnessModel(model, [hook], batch_size=2)
    found = likelihoods(lm, [(prompt, " " + written), (sentence(20), " w30")])
    assert found[0] == (pytest.approx(expected, abs=1e-4), True)
    for other in ([], [Ablate(hook.heads)]):
        ((value, _),) = likelihoods(HarnessModel(model, other), [(prompt, " " + written)])
        assert abs(value - expected) > 0.1


def generated(model: HookedModel, prompt: str, tokens: int, *hooks: Any) -> tuple[float, str]:
    """Log-probability of the greedy answer, from the logits that `generate` works with, and the answer."""
    batch = model.encode([prompt])
    with model.hooks(*hooks), model.emitting(batch.columns - 1):
        out = model.hf.generate(
            **batch.inputs, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    new = out.sequences[0, batch.columns :]
    likely = torch.stack(out.logits, 1)[0].log_softmax(-1)
    text = model.tokenizer.decode(new)
    assert model.tokenizer(text, add_special_tokens=False).input_ids == new.tolist()
    return float(likely.gather(1, new[:, None]).sum()), text


def test_what_depends_on_the_prompt_sees_the_context_as_the_prompt():
    model, act = misled(), ACT("L2H0", beta=0.1, min_queries=1)
    prompt = "f1 f2 key0 f3 f4 f5 f6 f7 f8 f9"
    expected, written = generated(model, prompt, 6, act)
    pairs = [(prompt, f" {written}"), ("f4 key0 f5 f6", " n1 n0"), (prompt, " n0")]
    together = likelihoods(HarnessModel(model, [act], batch_size=3), pairs)
    assert together[0] == (pytest.approx(expected, abs=1e-5), True)
    assert close(likelihoods(HarnessModel(model, [act]), pairs), together)
    assert together[0][0] != pytest.approx(likelihoods(HarnessModel(model), pairs[:1])[0][0], abs=1e-3)


def test_a_text_in_one_pass_would_let_a_continuation_change_its_own_prompt():
    model, act = misled(), ACT("L2H0", beta=0.1, min_queries=1)
    reading = Reading(model.tokens("f1 f2 f3 f4 f5 key0").ids, model.tokens("key0 key0 f1 f2").ids[1:])
    with model.hooks(act):
        (whole,), (steps,) = read_at_once(model, [reading]), read_in_steps(model, [reading])
    assert (whole - steps).abs().max() > 1e-3
    assert torch.allclose(read_at_once(model, [reading])[0], read_in_steps(model, [reading])[0], atol=1e-5)


# -- how it is made ----------------------------------------------------------------------------------------------------


def test_it_is_known_to_lm_eval_by_name():
    assert get_model("headscope") is HarnessModel
    assert get_model("hf") is HFLM
    lm = HarnessModel.create_from_arg_string(
        "pretrained=zoo:needle,with=Ablate('L1H1, L2H3'),dtype=float32", {"batch_size": 4, "max_batch_size": None}
    )
    assert lm.hooks == (Ablate("L1H1, L2H3"),)
    assert lm.batch_size == 4
    assert lm.get_model_info()["interventions"] == [repr(Ablate("L1H1, L2H3"))]
    two = {"pretrained": "zoo:needle", "with": "ACT(), Scale('L1H1', 2.0)", "max_batch_size": 64}
    assert len(HarnessModel.create_from_arg_obj(two, {"device": "cpu"}).hooks) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("pretrained=zoo:needle,head=L1H1", "has no 'head' among its arguments; it takes: pretrained, with, dtype"),
        ("with=ACT()", "needs pretrained=NAME"),
        ("pretrained=zoo:nothing", "zoo:nothing is not in the zoo"),
        ("pretrained=zoo:needle,with=Akt()", "'Akt' is not known"),
        ("pretrained=zoo:needle,with=Ablate('L9H0')", "L9H0 asked for, but zoo:needle has layers 0-3"),
        ("pretrained=zoo:needle,batch_size=auto", "batch_size is 'auto'; give how many requests"),
        ("pretrained=zoo:needle,too_long=stop", "too_long is 'stop'; use one of truncate, refuse"),
    ],
)
def test_wrong_arguments_are_refused(arguments, says, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        HarnessModel.create_from_arg_string(arguments)


def test_models_that_cannot_be_asked_are_refused():
    for name in ("t5", "bert"):
        with pytest.raises(UsageError, match="is no decoder that writes text behind a prompt"):
            HarnessModel(HookedModel(hooked(name).hf, word_tokenizer(), name=name))
    with pytest.raises(UsageError, match="llama came without a tokenizer"):
        HarnessModel(hooked("llama"))


def test_requests_without_room_are_refused():
    lm = HarnessModel(words_model(), max_length=8)
    with pytest.raises(UsageError, match="a continuation has 9 tokens, and between 1 and 8"):
        likelihoods(lm, [("w20", " " + sentence(9))])
    with pytest.raises(UsageError, match="up to 256 tokens are to be written, and the context holds 8"):
        lm.generate_until(asked("generate_until", ("w20", {"until": []})), disable_tqdm=True)


def test_the_models_tokenizer_is_left_alone():
    model = words_model()
    model.tokenizer.pad_token = None
    assert HarnessModel(model).tokenizer.pad_token is not None
    assert model.tokenizer.pad_token is None
