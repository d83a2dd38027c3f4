"""Ablation in every sense and phase, on four kinds of attention: what it changes, what it leaves, what it equals."""

from itertools import pairwise, product

import jaxtyping
import pytest
import torch
from torch import Tensor

from headscope import Head, HookedModel, Record, UsageError, Where
from headscope.hooks import Phase
from interventions import Ablate, HeadOutputs, head_outputs
from interventions.ablate import Mode
from tests.headscope.test_hooks import gap, hooked, sentence, under, words_model
from tests.tiny import WINDOW

NAMES = ("llama", "gpt2", "gpt_oss", "deepseek_v3")
MIXTURES = ("gpt_oss", "deepseek_v3")
MODES: tuple[Mode, ...] = ("zero", "mean", "resample", "uniform")
PHASES: tuple[Phase | None, ...] = (None, "prefill", "decode")
HEADS = "L0H1, L1H2, L1H3"
NEW_TOKENS = 4
TEXTS = (sentence(11, seed=1), sentence(6, seed=2))

contract = pytest.mark.parametrize(("name", "mode", "phase"), list(product(NAMES, MODES, PHASES)))


@pytest.fixture(scope="module")
def models() -> dict[str, HookedModel]:
    return {name: words_model(name) for name in (*NAMES, "mistral")}


@pytest.fixture(scope="module")
def references(models) -> dict[str, HeadOutputs]:
    return {name: head_outputs(model, [sentence(9, seed=s) for s in (7, 8)]) for name, model in models.items()}


@pytest.fixture
def unchecked(monkeypatch):
    """The tests' type checker would refuse unknown names before headscope can."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def written(model: HookedModel, texts: tuple[str, ...], *hooks: Ablate) -> list[Tensor]:
    """The residual stream at the end [sample query d_model] in every call of a generation under these hooks."""
    seen = Record("resid_post", Where(layers=(1,)))
    with model.hooks(*hooks, seen):
        model.generate(texts, max_new_tokens=NEW_TOKENS)
    return seen.seen[1]


def differ(a: list[Tensor], b: list[Tensor]) -> list[bool]:
    """Call by call, whether the last query of the first sample has changed."""
    return [gap(x[0, -1], y[0, -1]) > 1e-3 for x, y in zip(a, b, strict=True)]


# -- the contract ----------------------------------------------------------------------------------------------------


@contract
def test_ablation_changes_the_queries_of_its_phase_and_no_others(models, references, name, mode, phase):
    model, ablate = models[name], Ablate(HEADS, mode, phase=phase, reference=references[name])
    plain, without = written(model, TEXTS[:1]), written(model, TEXTS[:1], ablate)
    before_last = gap(plain[0][:, :-1], without[0][:, :-1])
    # An expert computes its tokens together, so where another token is sent can move a token's last bit.
    untouched = 1e-6 if name in MIXTURES else 0
    assert before_last <= untouched if phase == "decode" else before_last > 1e-2
    assert all(differ(plain, without))  # those after the prompt read keys that prefill has changed


@contract
def test_ablation_in_one_forward_pass_is_prefill(models, references, name, mode, phase):
    model, ablate = models[name], Ablate(HEADS, mode, phase=phase, reference=references[name])
    plain = model.forward(TEXTS[:1]).logits
    with model.hooks(ablate):
        without = model.forward(TEXTS[:1]).logits
    assert torch.equal(plain, without) if phase == "decode" else gap(plain[:, 1:], without[:, 1:]) > 1e-2


@contract
def test_a_padded_batch_equals_its_samples_alone(models, references, name, mode, phase):
    model, ablate = models[name], Ablate(HEADS, mode, phase=phase, reference=references[name])
    together = written(model, TEXTS, ablate)
    for i, text in enumerate(TEXTS):
        for batch, alone in zip(together, written(model, (text,), ablate), strict=True):
            assert gap(batch[i, -alone.shape[1] :], alone[0]) < 1e-4


@contract
def test_heads_removed_one_after_another_equal_heads_removed_together(models, references, name, mode, phase):
    options = {"phase": phase, "reference": references[name]}
    together = written(models[name], TEXTS, Ablate(HEADS, mode, **options))
    in_turn = written(models[name], TEXTS, *(Ablate([head], mode, **options) for head in ("L1H3", "L0H1", "L1H2")))
    assert max(map(gap, together, in_turn)) < 1e-5


@pytest.mark.parametrize(("name", "mode"), list(product(NAMES, MODES)))
def test_prefill_and_decode_together_are_everything(models, references, name, mode):
    halves = [Ablate(HEADS, mode, phase=p, reference=references[name]) for p in ("prefill", "decode")]
    both = written(models[name], TEXTS, *halves)
    assert max(map(gap, both, written(models[name], TEXTS, Ablate(HEADS, mode, reference=references[name])))) < 1e-5


def test_the_later_of_two_edits_of_a_head_has_the_last_word(models, references):
    zero, mean = Ablate("L1H2"), Ablate("L1H2", "mean", reference=references["llama"])
    first_mean = written(models["llama"], TEXTS, mean, zero)
    assert max(map(gap, first_mean, written(models["llama"], TEXTS, zero))) == 0
    assert max(map(gap, first_mean, written(models["llama"], TEXTS, mean))) > 1e-3


# -- zero ------------------------------------------------------------------------------------------------------------

OUTPUT = {  # the output projection of a layer, the width of a head, the axis of its weight that takes heads
    "llama": ("model.layers.{}.self_attn.o_proj", 8, 1),
    "gpt2": ("transformer.h.{}.attn.c_proj", 8, 0),
    "gpt_oss": ("model.layers.{}.self_attn.o_proj", 8, 1),
    "deepseek_v3": ("model.layers.{}.self_attn.o_proj", 16, 1),
}


@pytest.mark.parametrize("name", NAMES)
def test_zero_equals_a_model_whose_output_weights_are_zero_there(models, name):
    module, width, axis = OUTPUT[name]
    cut = words_model(name)
    for layer, head in ((0, 1), (1, 2), (1, 3)):
        cut.hf.get_submodule(module.format(layer)).weight.data.narrow(axis, head * width, width).zero_()
    expected = written(cut, TEXTS)
    assert max(map(gap, written(models[name], TEXTS, Ablate(HEADS)), expected)) < 1e-5
    assert max(map(gap, written(models[name], TEXTS), expected)) > 1e-2


# -- uniform ---------------------------------------------------------------------------------------------------------


def rows(model: HookedModel, texts: tuple[str, ...], layer: int, *hooks: Ablate) -> list[Tensor]:
    """Patterns [sample head query key] of a layer, call by call of a generation."""
    seen = Record("pattern", Where(layers=(layer,)))
    with model.hooks(*hooks, seen):
        model.generate(texts, max_new_tokens=3)
    return seen.seen[layer]


@pytest.mark.parametrize(
    ("name", "window"), [("llama", 99), ("gpt2", 99), ("deepseek_v3", 99), ("mistral", WINDOW), ("gpt_oss", WINDOW)]
)
def test_uniform_rows_are_one_over_the_visible_keys(models, name, window):
    calls = rows(models[name], TEXTS, 0, Ablate("L0H1", "uniform"))  # prompts of 12 and 7 tokens
    for i, padding in ((0, 0), (1, 5)):
        prefill = calls[0][i, 1]
        for query in range(padding, 12):
            place = query - padding
            seen = min(place + 1, window)
            expected = torch.zeros(12)
            expected[query - seen + 1 : query + 1] = 1 / seen
            assert gap(prefill[query], expected) < 1e-6, (i, place)
        for step, call in enumerate(calls[1:], 1):
            assert call.shape[2] == 1
            row, seen = call[i, 1, 0], min(12 - padding + step, window)
            assert gap(row[-seen:], torch.full((seen,), 1 / seen)) < 1e-6
            assert row[:-seen].eq(0).all()
    assert gap(calls[0][0, 1].sum(-1), torch.ones(12)) < 1e-6


def test_uniform_leaves_the_rows_of_other_heads(models):
    plain = rows(models["llama"], TEXTS, 0)[0]
    edited = rows(models["llama"], TEXTS, 0, Ablate("L0H1", "uniform"))[0]
    assert torch.equal(edited[:, [0, 2, 3]], plain[:, [0, 2, 3]])
    assert gap(edited[0, 1], plain[0, 1]) > 0.1


# -- mean and resample -----------------------------------------------------------------------------------------------


def outputs(model: HookedModel, layer: int, *hooks: Ablate, texts: tuple[str, ...] = TEXTS[:1]) -> Tensor:
    """z [sample query head d_head] of a layer in one forward pass."""
    seen = Record("z", Where(layers=(layer,)))
    with model.hooks(*hooks, seen):
        model.forward(texts)
    return seen.seen[layer][0]


@pytest.mark.parametrize("name", NAMES)
def test_mean_is_the_mean_of_the_reference(models, references, name):
    edited = outputs(models[name], 0, Ablate("L0H1, L0H3", "mean", reference=references[name]))
    plain = outputs(models[name], 0)
    mean = references[name].outputs[0].mean(0)
    for head in (1, 3):
        assert gap(edited[0, :, head], mean[head].expand(12, -1)) < 1e-6
    assert torch.equal(edited[:, :, [0, 2]], plain[:, :, [0, 2]])


def drawn(model: HookedModel, reference: HeadOutputs, **options: object) -> Tensor:
    """Which place of the reference stands at each query [query] of L0H1 under resample ablation."""
    edited = outputs(model, 0, Ablate(options.pop("heads", "L0H1"), "resample", reference=reference, **options))
    same = (edited[0, :, None, 1] == reference.outputs[0][None, :, 1]).all(-1)
    assert same.any(1).all(), "an output that the reference does not hold"
    return same.int().argmax(1)


@pytest.mark.parametrize("name", NAMES)
def test_resample_draws_from_the_reference(models, references, name):
    places = drawn(models[name], references[name])
    assert len(set(places.tolist())) > 3


def test_a_seed_decides_the_draws_whatever_else_is_removed(models, references):
    model, reference = models["llama"], references["llama"]
    assert torch.equal(drawn(model, reference), drawn(model, reference, seed=0))
    assert not torch.equal(drawn(model, reference), drawn(model, reference, seed=1))
    assert torch.equal(drawn(model, reference), drawn(model, reference, heads="L0H1, L0H2, L0H3"))


def test_heads_and_layers_are_drawn_apart(models, references):
    reference = references["llama"]
    draws = []
    for layer in (0, 1):
        heads = [Head(layer, head) for head in range(4)]
        edited = outputs(models["llama"], layer, Ablate(heads, "resample", reference=reference))
        same = (edited[0, :, None] == reference.outputs[layer][None]).all(-1)
        draws += same.int().argmax(1).T.tolist()
    assert all(a != b for a, b in pairwise(draws))


# -- the reference ---------------------------------------------------------------------------------------------------


def test_head_outputs_are_outputs_of_the_samples_given(models):
    model = models["llama"]
    reference = head_outputs(model, TEXTS)
    recorded = torch.cat([outputs(model, 1, texts=(text,))[0] for text in TEXTS])
    kept = reference.outputs[1]
    assert reference.n_samples == 2
    assert kept.shape == recorded.shape == (19, 4, 8)
    apart = torch.cdist(kept.flatten(1), recorded.flatten(1))
    assert max(apart.min(0).values.max(), apart.min(1).values.max()) < 1e-4  # each is one of the others, both ways


def test_head_outputs_keep_some_places_the_same_for_the_same_seed(models):
    model = models["llama"]
    first, again, other = (head_outputs(model, TEXTS, places=6, seed=seed).outputs for seed in (0, 0, 1))
    assert first[0].shape == (6, 4, 8)
    assert all(torch.equal(first[layer], again[layer]) for layer in (0, 1))
    assert not torch.equal(first[0], other[0])


def test_head_outputs_can_be_narrowed(models):
    model = models["llama"]
    narrow = head_outputs(model, TEXTS, where=Where(layers=(1,), positions=(-1,)))
    assert list(narrow.outputs) == [1]
    assert narrow.outputs[1].shape == (2, 4, 8)
    with pytest.raises(UsageError, match=r"the reference holds no outputs of layers \[0\]"):
        Ablate("L0H1, L1H1", "mean", reference=narrow)
    assert list(head_outputs(words_model("qwen3_next"), TEXTS[:1]).outputs) == [1]


# -- other stacks, errors --------------------------------------------------------------------------------------------


def test_a_stack_can_be_named():
    model = hooked("llava")
    plain = under(model, model.example)
    assert gap(under(model, model.example, Ablate("L0H1", stack="vision")), plain) > 1e-3
    text = under(model, model.example, Ablate("L0H1"))
    assert gap(text, plain) > 1e-3
    assert torch.equal(under(model, model.example, Ablate("L0H1", stack="text")), text)


def test_no_heads_are_no_edit(models):
    assert torch.equal(outputs(models["llama"], 0, Ablate([])), outputs(models["llama"], 0))


@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_a_missing_reference_is_refused(mode):
    with pytest.raises(UsageError, match=rf"mode '{mode}' needs the heads' outputs .*pass reference=head_outputs"):
        Ablate("L0H1", mode)


def test_unknown_modes_and_phases_are_refused(unchecked):
    with pytest.raises(UsageError, match="mode 'half' is not known; use one of zero, mean, resample, uniform"):
        Ablate("L0H1", "half")
    with pytest.raises(UsageError, match="phase 'answer' is not known; use 'prefill', 'decode'"):
        Ablate("L0H1", phase="answer")


@pytest.mark.parametrize("heads", ["L0", "L0H1 and L1H1", "0:1", "H1L0"])
def test_what_is_no_head_is_refused(heads):
    with pytest.raises(UsageError, match="is not a head; write L5H3"):
        Ablate(heads)


@pytest.mark.parametrize("mode", MODES)
def test_heads_outside_the_model_are_refused(models, references, mode):
    ablate = Ablate("L1H1, L1H7", mode, reference=references["llama"])
    with pytest.raises(UsageError, match=r"^L1H7 asked for, but llama has layers 0-1 with 4 heads"):
        written(models["llama"], TEXTS, ablate)
