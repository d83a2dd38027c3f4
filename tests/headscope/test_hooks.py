"""Interventions reach what they name, in order, and leave no trace; the helpers at the top serve other files."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jaxtyping
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import AttentionInterface

from headscope import Context, Head, HookedModel, Record, UnsupportedModelError, UsageError, Where
from headscope.engine.inputs import AttentionInputs
from headscope.hooks import Site
from tests.test_tiny import prediction
from tests.tiny import FIRST_WORD, IMAGE_TOKEN, TINY, VOCAB, build, left_padded, prompt

NEW_TOKENS = 4


@dataclass(frozen=True)
class Edit:
    """An intervention made of a function of the activation and its place."""

    site: Site
    where: Where
    change: Callable[[Tensor, Context], Tensor]

    def __call__(self, act: Tensor, ctx: Context) -> Tensor:
        return self.change(act, ctx)


@dataclass(frozen=True)
class Watch:
    """Notes where it is called."""

    where: ClassVar[Where] = Where()
    seen: list[Context] = field(default_factory=list, compare=False)

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        self.seen.append(ctx)


def scaled(factor: float | Tensor, where: Where | None = None, site: Site = "z") -> Edit:
    """Every activation times a number."""
    return Edit(site, where or Where(), lambda act, ctx: act * factor)


def added(number: float) -> Edit:
    """Every z plus a number."""
    return Edit("z", Where(), lambda act, ctx: act + number)


def by_key(where: Where) -> Edit:
    """Weights on keys at odd places times 1.5, on the others times 0.25: the same in every batch and cache."""
    return Edit("pattern", where, lambda rows, ctx: rows * (0.25 + 1.25 * (ctx.key_positions % 2))[:, None, None])


def hooked(name: str) -> HookedModel:
    """The tiny model of a row of TINY, its attention found on that row's inputs."""
    row = TINY[name]
    return HookedModel(row.build(), example=row.inputs(), name=name)


def under(model: HookedModel, inputs: Mapping[str, Any], *hooks: Any) -> Tensor:
    """The model's prediction with these hooks open."""
    with model.hooks(*hooks):
        return prediction(model.hf, inputs)


def gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference between two tensors of one shape."""
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """`w10 w11 ...` are tokens 10, 11, ...; every prompt begins with `<s>`."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate(special)} | {f"w{i}": i for i in range(FIRST_WORD, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def words_model(name: str = "llama") -> HookedModel:
    """A tiny decoder that reads and writes words."""
    return HookedModel(build(name), word_tokenizer(), name=name)


def sentence(length: int, *, seed: int = 0) -> str:
    """Random words; the prompt has one token more, `<s>`."""
    return " ".join(f"w{i}" for i in prompt(length, seed=seed)["input_ids"][0].tolist())


def traces(*wrapped: HookedModel) -> tuple[dict[str, Callable], list[int]]:
    """All that hooks could leave behind: the attention registry, and the hooks of every module."""
    kept = [m._forward_hooks | m._forward_pre_hooks for model in wrapped for m in model.hf.modules()]
    return dict(AttentionInterface._global_mapping), [len(hooks) for hooks in kept]


@pytest.fixture
def llama() -> HookedModel:
    return hooked("llama")


ALL_SITES = [scaled(0.5, site=site) for site in ("pattern", "z", "attn_out", "resid_pre", "resid_post")]


# -- what is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2"])  # on sdpa, and on eager, which is not in the registry
def test_nothing_is_left_after_the_block(name):
    model = hooked(name)
    before, plain = traces(model), prediction(model.hf, prompt())
    with model.hooks(*ALL_SITES):
        assert "eager" in AttentionInterface._global_mapping
        assert traces(model)[0]["sdpa"] is not before[0]["sdpa"]
        assert gap(prediction(model.hf, prompt()), plain) > 0.01
    assert traces(model) == before
    assert "eager" not in AttentionInterface._global_mapping
    assert torch.equal(prediction(model.hf, prompt()), plain)


def broken(act: Tensor, ctx: Context) -> Tensor:
    raise ZeroDivisionError


@pytest.mark.parametrize("where", ["block", "pattern", "z", "resid_post"])
def test_nothing_is_left_after_an_exception(llama, where):
    before, plain = traces(llama), prediction(llama.hf, prompt())
    hook = scaled(0.5) if where == "block" else Edit(where, Where(), broken)
    with pytest.raises(ZeroDivisionError), llama.hooks(hook):  # noqa: PT012
        prediction(llama.hf, prompt())
        raise ZeroDivisionError
    assert traces(llama) == before
    assert torch.equal(prediction(llama.hf, prompt()), plain)


def test_hooks_that_cannot_be_installed_leave_the_outer_ones_at_work():
    model = hooked("gpt_neox")
    plain = prediction(model.hf, prompt())
    before = traces(model)
    with model.hooks(scaled(0.5)):
        halved = prediction(model.hf, prompt())
        with pytest.raises(UnsupportedModelError, match="no site 'mlp_out'"), model.hooks(scaled(2, site="mlp_out")):
            pass
        assert torch.equal(prediction(model.hf, prompt()), halved)
        with pytest.raises(UsageError, match="L9H2"), model.hooks(scaled(2, Where(heads=(Head(9, 2),)))):
            pass
        assert torch.equal(prediction(model.hf, prompt()), halved)
    assert gap(halved, plain) > 0.01
    assert traces(model) == before


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_models_close_in_any_order(first_out):
    both = [hooked("llama"), hooked("qwen2")]
    before = traces(*both)
    plain = [prediction(model.hf, prompt()) for model in both]
    stacks = [ExitStack(), ExitStack()]
    for stack, model in zip(stacks, both, strict=True):
        stack.enter_context(model.hooks(scaled(0, site="pattern")))
    last = 1 - first_out
    stacks[first_out].close()
    assert torch.equal(prediction(both[first_out].hf, prompt()), plain[first_out])
    assert gap(prediction(both[last].hf, prompt()), plain[last]) > 0.01
    stacks[last].close()
    assert traces(*both) == before
    assert torch.equal(prediction(both[last].hf, prompt()), plain[last])


def test_two_models_hooked_at_once_do_not_see_each_other():
    one, two = hooked("llama"), hooked("llama")
    plain = prediction(one.hf, prompt())
    seen = Record("pattern")
    with one.hooks(seen), two.hooks(scaled(0.5, site="pattern")):
        assert torch.equal(prediction(one.hf, prompt()), plain)
        assert gap(prediction(two.hf, prompt()), plain) > 0.01
    assert {layer: len(calls) for layer, calls in seen.seen.items()} == {0: 1, 1: 1}


def test_one_model_hooked_through_two_wrappers_is_refused_and_the_first_stays(llama):
    before, other = traces(llama), HookedModel(llama.hf)
    with llama.hooks(scaled(0.5, site="pattern")):
        halved = prediction(llama.hf, prompt())
        with pytest.raises(UsageError, match="hooked already"), other.hooks(scaled(0.5, site="pattern")):
            pass
        with pytest.raises(UsageError, match="hooked already"):
            HookedModel(llama.hf)
        assert torch.equal(prediction(llama.hf, prompt()), halved)
    assert traces(llama) == before


# -- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("edits", "expected"), [((0, 1), (3, 2)), ((1, 0), (3, 6))], ids=["scale, add", "add, scale"])
@pytest.mark.parametrize("nested", [False, True])
def test_edits_apply_in_the_order_given_and_inner_after_outer(llama, edits, expected, nested):
    plain, after, calls = Record("z"), Record("z"), []
    counting = Edit("z", Where(), lambda act, ctx: calls.append(ctx.layer) or act)
    hooks = [plain, *[(scaled(3), added(2))[i] for i in edits], counting, after]
    with ExitStack() as stack:
        for group in [[hook] for hook in hooks] if nested else [hooks]:
            stack.enter_context(llama.hooks(*group))
        prediction(llama.hf, prompt())
    factor, shift = expected
    for layer in (0, 1):
        assert gap(after.seen[layer][0], plain.seen[layer][0] * factor + shift) < 1e-5
    assert calls == [0, 1]


def test_pattern_edits_apply_in_order_also_where_heads_and_places_differ(llama):
    after = Record("pattern", Where(layers=(0,)))
    cut = Edit("pattern", Where(layers=(0,), positions=(-1,)), lambda rows, ctx: rows.clamp(max=0.1))
    double = scaled(2, Where(heads=(Head(0, 1),)), "pattern")
    with llama.hooks(before := Record("pattern", Where(layers=(0,))), double, cut, after):
        prediction(llama.hf, prompt())
    expected = before.seen[0][0].clone()
    expected[:, 1] *= 2
    expected[:, :, -1] = expected[:, :, -1].clamp(max=0.1)
    assert torch.equal(after.seen[0][0], expected)


def test_sites_of_a_layer_fit_together(llama):
    names = ("resid_pre", "pattern", "z", "attn_out", "resid_post")
    seen = {name: Record(name, Where(layers=(0,))) for name in names}
    under(llama, prompt(), *seen.values(), following := Record("resid_pre", Where(layers=(1,))))
    found = {name: record.seen[0][0] for name, record in seen.items()}
    assert {name: tuple(act.shape) for name, act in found.items()} == {
        "resid_pre": (1, 16, 32),
        "pattern": (1, 4, 16, 16),
        "z": (1, 16, 4, 8),
        "attn_out": (1, 16, 32),
        "resid_post": (1, 16, 32),
    }
    assert gap(torch.einsum("bqhd,hdm->bqm", found["z"], llama.output_weights(0)), found["attn_out"]) < 1e-5
    assert torch.equal(found["resid_post"], following.seen[1][0])


def test_record_keeps_one_tensor_a_call(llama):
    record, towers = Record("z"), hooked("qwen2_5_vl")
    with llama.hooks(record):
        prediction(llama.hf, prompt())
        prediction(llama.hf, prompt(12, batch=2))
    assert [tuple(z.shape) for z in record.seen[1]] == [(1, 16, 4, 8), (2, 12, 4, 8)]
    under(towers, towers.example, rows := Record("pattern", Where(stack="vision")))
    assert {layer: len(calls) for layer, calls in rows.seen.items()} == {0: 6, 1: 2}  # windows, images


# -- which queries ---------------------------------------------------------------------------------------------------


def test_generate_calls_the_last_prompt_token_decode():
    model, text = words_model(), sentence(9)  # ten tokens
    records = {phase: Record("z", Where(phase=phase, layers=(1,))) for phase in ("prefill", "decode", None)}
    with model.hooks(*records.values()):
        model.generate(text, max_new_tokens=NEW_TOKENS)
    queries = {phase: [z.shape[1] for z in record.seen[1]] for phase, record in records.items()}
    assert queries == {"prefill": [9], "decode": [1, 1, 1, 1], None: [10, 1, 1, 1]}
    assert torch.equal(records["decode"].seen[1][0][0, 0], records[None].seen[1][0][0, -1])


def test_transformers_own_generate_is_prefill_in_its_first_call(llama):
    records = {phase: Record("pattern", Where(phase=phase, layers=(1,))) for phase in ("prefill", "decode")}
    with llama.hooks(*records.values()):
        llama.hf.generate(**prompt(10), max_new_tokens=NEW_TOKENS, do_sample=False)
    assert [rows.shape[2:] for rows in records["prefill"].seen[1]] == [(10, 10)]
    assert [rows.shape[2:] for rows in records["decode"].seen[1]] == [(1, 11), (1, 12), (1, 13)]


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("texts", [(9,), (5, 9)], ids=["one", "padded"])
def test_decode_edits_equal_edits_of_the_last_prompt_token_and_all_after(name, texts):
    model = words_model(name)
    decode = by_key(Where(phase="decode"))
    samples = [sentence(length, seed=length) for length in texts]
    with model.hooks(decode):
        answers = model.generate(samples, max_new_tokens=NEW_TOKENS)
    assert answers != model.generate(samples, max_new_tokens=NEW_TOKENS)
    for sample, answer in zip(samples, answers, strict=True):
        ids = model.tokens(sample).ids
        whole = {"input_ids": torch.tensor([[*ids, *answer.tokens]])}
        late = by_key(Where(positions=tuple(range(len(ids) - 1, len(ids) + NEW_TOKENS))))
        written = under(model, whole, late)[0, len(ids) - 1 : -1].argmax(-1)
        assert tuple(written.tolist()) == answer.tokens


@pytest.mark.parametrize("site", ["pattern", "z"])
def test_places_count_on_from_the_prompt_while_generating(site):
    model, texts = words_model(), [sentence(9), sentence(5)]
    seen: dict[tuple[int, ...], list] = {(-1,): [], (-2, 0): [], (9, 10): []}
    for positions, found in seen.items():
        keep = Edit(
            site, Where(positions=positions, layers=(0,)), lambda act, ctx, found=found: found.append(ctx) or act
        )
        with model.hooks(keep):
            model.generate(texts, max_new_tokens=NEW_TOKENS)
    asked = {
        positions: [ctx.positions.where(ctx.active, -1).tolist() for ctx in contexts]
        for positions, contexts in seen.items()
    }
    assert asked == {  # the prompts have 10 and 6 tokens
        (-1,): [[[9], [5]]],
        (-2, 0): [[[0, -1, 8], [-1, 0, 4]]],
        (9, 10): [[[9], [-1]], [[10], [-1]]],
    }


@pytest.mark.parametrize("site", ["pattern", "z", "resid_pre", "attn_out"])
@pytest.mark.parametrize("positions", [(0,), (3,), (-1,), (-4, 1)])
def test_positions_count_without_padding(llama, site, positions):
    texts = prompt(11, seed=3), prompt(16, seed=4)
    batch = left_padded(*texts)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    seen = Record(site, where := Where(positions=positions, layers=(0,)))
    together = under(llama, batch, scaled(0.3, where, site), seen)
    plain = prediction(llama.hf, batch)
    for i, inputs in enumerate(texts):
        length = inputs["input_ids"].shape[1]
        alone = under(llama, inputs, scaled(0.3, where, site))
        assert gap(together[i, 16 - length :], alone[0]) < 2e-5
        first = min(p % length for p in positions)
        untouched = slice(16 - length, 16 - length + first)
        assert torch.equal(together[i, untouched], plain[i, untouched])
        assert gap(together[i, 16 - length + first], plain[i, 16 - length + first]) > 1e-3


def test_padding_is_never_touched(llama):
    batch = left_padded(prompt(11, seed=3), prompt(16, seed=4))
    contexts = []
    keep = Edit("z", Where(layers=(0,)), lambda act, ctx: contexts.append(ctx) or act * 2)
    under(llama, batch, before := Record("z"), keep, after := Record("z"))
    assert torch.equal(after.seen[0][0][0, :5], before.seen[0][0][0, :5])
    assert torch.equal(after.seen[0][0][0, 5:], before.seen[0][0][0, 5:] * 2)
    assert contexts[0].positions.tolist() == [[-1] * 5 + list(range(11)), list(range(16))]
    assert contexts[0].length.tolist() == [11, 16]
    assert torch.equal(contexts[0].active, batch["attention_mask"].bool())


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("padded", [True, False])
def test_places_are_the_same_in_a_static_cache(name, padded):
    model = hooked(name)
    inputs = left_padded(prompt(16), prompt(9, seed=1)) if padded else prompt(16)
    seen: dict[str, list] = {}
    for cache in ("dynamic", "static"):
        watch = Watch()
        with torch.no_grad(), model.hooks(watch):
            options = {} if cache == "dynamic" else {"cache_implementation": "static"}
            model.hf.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0, **options)
        seen[cache] = [(ctx.layer, ctx.positions.tolist(), ctx.length.tolist()) for ctx in watch.seen]
    assert seen["static"] == seen["dynamic"]
    assert seen["static"][0][1][-1][0] == (-1 if padded else 0)


def test_padding_of_the_text_is_not_taken_for_padding_of_the_image():
    model, contexts = hooked("llava"), []
    tokens = 37  # of the text, and of each image: 36 patches and the class token
    inputs = {name: value.repeat_interleave(2, 0) for name, value in TINY["llava"].inputs().items()}
    inputs["input_ids"] = torch.tensor([[IMAGE_TOKEN] * 36 + [FIRST_WORD]] * 2)
    inputs["attention_mask"] = (torch.arange(tokens) >= torch.tensor([[7], [0]])).long()
    watch = Edit("z", Where(stack="vision"), lambda act, ctx: contexts.append(ctx) or act)
    under(model, inputs, watch)
    assert contexts[0].positions.tolist() == [list(range(tokens))] * 2


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_encoder_of_a_generation_knows_its_padding(name):
    model = hooked(name)
    batch = left_padded(prompt(11, seed=3), prompt(16, seed=4))
    contexts = []
    watch = Edit("z", Where(stack="encoder", layers=(0,)), lambda act, ctx: contexts.append(ctx) or act)
    with model.hooks(watch):
        prediction(model.hf, prompt(16, batch=2) | {"decoder_input_ids": prompt(3, batch=2)["input_ids"]})
        model.hf.generate(**batch, max_new_tokens=2, do_sample=False)
        prediction(model.hf.get_encoder(), prompt(16, batch=2))
    unpadded = [list(range(16))] * 2
    padded = [[-1] * 5 + list(range(11)), list(range(16))]
    assert [ctx.positions.tolist() for ctx in contexts] == [unpadded, padded, unpadded]


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Where(heads=(Head(9, 2),)), r"L9H2 asked for, but llama has layers 0-1 with 4 heads"),
        (Where(heads=(Head(0, 1), Head(1, 4))), r"^L1H4 asked for"),
        (Where(layers=(0, 7)), r"layers \[7\] asked for, but llama has attention in layers \[0, 1\]"),
        (Where(stack="vision"), r"no stack 'vision'; it has text"),
    ],
)
@pytest.mark.parametrize("site", ["pattern", "z"])
def test_places_outside_the_model_are_refused(llama, where, message, site):
    before = traces(llama)
    with pytest.raises(UsageError, match=message), llama.hooks(scaled(1, where, site)):
        pass
    assert traces(llama) == before


def test_where_refuses_what_is_not_a_head():
    with pytest.raises(UsageError, match=r"Head\(layer=0, head=-1\) is not a head"):
        Where(heads=(Head(0, -1),))


def test_an_unknown_phase_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    with pytest.raises(UsageError, match="phase 'answer' is not known; use 'prefill', 'decode'"):
        Where(phase="answer")  # type: ignore[arg-type]


@pytest.mark.parametrize("site", ["pattern", "z", "resid_post"])
@pytest.mark.parametrize("wrong", [lambda act, ctx: act[:, :1], lambda act, ctx: None], ids=["shape", "none"])
def test_a_wrong_return_value_is_refused(llama, site, wrong):
    with pytest.raises(UsageError, match=r"Edit returned .* at text layer 0; an intervention returns a tensor"):
        under(llama, prompt(), Edit(site, Where(), wrong))


def test_training_mode_is_refused():
    with pytest.raises(UsageError, match=r"training mode.*call \.eval\(\) first"):
        HookedModel(build("llama").train())


# -- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("site", ["pattern", "z"])
def test_gradients_flow_through_hooks(name, site):
    model, factor = hooked(name), torch.tensor(0.7, requires_grad=True)
    with model.hooks(scaled(factor, Where(heads=(Head(0, 2),)), site)):
        loss(model).backward()

    # the same head scaled by the columns of W_O that read it
    scaled_weights = hooked(name)
    weight = scaled_weights.hf.get_submodule("model.layers.0.self_attn.o_proj").weight
    columns = slice(2 * 8, 3 * 8)
    weight.data[:, columns] *= 0.7
    loss(scaled_weights).backward()
    expected = (weight.grad * weight)[:, columns].sum() / 0.7
    assert expected.abs() > 1e-3
    torch.testing.assert_close(factor.grad, expected, rtol=1e-4, atol=1e-6)


def loss(model: HookedModel) -> Tensor:
    return model.hf(**prompt()).logits.square().mean()
