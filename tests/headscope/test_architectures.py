"""The contract every architecture keeps: rows read are eager's own weights, and an edit is the edit of eager."""

import copy
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from headscope import Head, HookedModel, Record, UnsupportedModelError, Where
from tests.eager import eager_copy, eager_patterns, edited_eager
from tests.headscope import test_hooks
from tests.headscope.test_hooks import Edit, by_key, gap, scaled, under
from tests.test_tiny import predicted, prediction
from tests.tiny import IMAGE_TOKEN, TINY, UNSUPPORTED, VIDEO_TOKEN, Inputs, left_padded, prompt

EFFECT = 1e-3  # an edit that moves predictions by less is taken for one that did not arrive
NEW_TOKENS = 6

STACKS = {
    "decoder": ("text",),
    "vlm": ("vision", "text"),
    "encoder": ("text",),
    "vision": ("vision",),
    "dual": ("vision", "text"),
    "encoder_decoder": ("encoder", "decoder", "cross"),
}
GATED = {"qwen3_next", "bitnet"}  # a gate, and a norm, between the heads and W_O

EVERY_MODEL = pytest.mark.parametrize("name", TINY)
EVERY_STACK = pytest.mark.parametrize(
    ("name", "stack"), [(name, stack) for name, row in TINY.items() for stack in STACKS[row.kind]]
)


hooked = cache(test_hooks.hooked)  # a hooked model is never changed, so one serves all tests of its row


def kinds(*wanted: str, without: Mapping[str, str] | None = None) -> pytest.MarkDecorator:
    """Every model of these kinds but those `without`, which maps names to reasons."""
    left_out = without or {}
    assert set(left_out) <= set(TINY)
    return pytest.mark.parametrize("name", [n for n, row in TINY.items() if row.kind in wanted and n not in left_out])


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two computations of one prediction agree: to 2e-5, or 2e-6 of logits beyond 10."""
    return gap(a, b) < 2e-6 * max(10.0, b.abs().max().item())


def middle(model: HookedModel, stack: str) -> int:
    """A layer in the middle, before the last where there are two: LLaVA does not use its last vision layer."""
    layers = model.layers(stack)
    return layers[(len(layers) - 1) // 2]


# -- what is found ---------------------------------------------------------------------------------------------------

GQA = {"n_kv_heads": 2}
SHAPES = {  # what differs from 4 heads, 4 key heads, widths of 8, one call in each of 2 layers
    **dict.fromkeys("llama qwen2 qwen3 mistral mixtral gemma gemma2 gemma3 phi3 olmo2 gpt_oss bitnet".split(), GQA),
    "qwen2_sliding": GQA | {"layers": (0, 1, 2)},
    "qwen3_next": GQA | {"layers": (1,)},  # layer 0 is linear attention
    "deepseek_v3": {"d_qk": 20, "d_head": 16},
}
VISION_CALLS = {"qwen2_vl": (2, 2), "qwen2_5_vl": (6, 2), "qwen3_vl": (2, 2)}  # layers: images, or windows of both
W_O = {
    "gpt2": "attn.c_proj",
    "gpt_neox": "attention.dense",
    "opt": "self_attn.out_proj",
    "bert": "attention.output.dense",
    "roberta": "attention.output.dense",
    "distilbert": "attention.out_lin",
    "modernbert": "attn.Wo",
    "vit": "attention.o_proj",
    "dinov2": "attention.o_proj",
    "clip": "self_attn.out_proj",
    "siglip": "self_attn.out_proj",
}


def expected_shapes(name: str, stack: str) -> list[tuple]:
    """(layer, heads, key heads, d_qk, d_head, calls) of each layer, as the configs in `tests.tiny` say."""
    special = SHAPES.get(name, GQA if TINY[name].kind == "vlm" and stack == "text" else {})
    layers = special.get("layers", (0, 1))
    calls = VISION_CALLS.get(name, (1, 1)) if stack == "vision" else [1] * len(layers)
    widths = special.get("d_qk", 8), special.get("d_head", 8)
    return [(layer, 4, special.get("n_kv_heads", 4), *widths, n) for layer, n in zip(layers, calls, strict=True)]


def expected_w_o(name: str, stack: str) -> str:
    """How the name of the output projection ends."""
    if TINY[name].kind == "encoder_decoder":
        if name == "t5":
            return "EncDecAttention.o" if stack == "cross" else "SelfAttention.o"
        return "encoder_attn.out_proj" if stack == "cross" else "self_attn.out_proj"
    if TINY[name].kind == "vlm" and stack == "vision":
        others = {"internvl": "attention.projection_layer"} | dict.fromkeys(VISION_CALLS, "attn.proj")
        return others.get(name, "self_attn.out_proj")
    return W_O.get(name, "self_attn.o_proj")


@EVERY_MODEL
def test_discovered_layers_have_the_shapes_of_the_config(name):
    model = hooked(name)
    stacks = STACKS[TINY[name].kind]
    assert model.stacks == stacks
    assert model.main_stack == next(s for s in ("text", "decoder", "vision") if s in stacks)
    for stack in stacks:
        sites = model.sites_of(stack)
        found = [(s.layer, s.n_heads, s.n_kv_heads, s.d_qk, s.d_head, s.calls) for s in sites]
        assert found == expected_shapes(name, stack)
        for site in sites:
            assert site.projection.endswith("." + expected_w_o(name, stack))
            assert site.z_exact == (name not in GATED)
            assert site.block is not None
            assert site.name.startswith(site.block + ".")
            assert model.output_weights(site.layer, stack).shape[:2] == (site.n_heads, site.d_head)
    main = model.sites_of()
    assert (model.n_layers, model.n_heads) == (main[-1].layer + 1, 4)
    assert (model.n_kv_heads, model.d_head) == (main[0].n_kv_heads, main[0].d_head)


@EVERY_MODEL
def test_the_self_check_passes(name):
    check = hooked(name).check()
    assert check.passed, str(check)
    text = str(check)
    assert ("z is inexact" in text) == (name in GATED)
    assert ("output does not use" in text) == (name in ("llava", "llava_next"))
    cached = next((row for row in check.rows if row.fact.startswith("cached generation")), None)
    assert (cached is not None) == (TINY[name].kind in ("decoder", "vlm"))
    if cached is not None:
        assert (cached.passed is None) == (name in CACHE_DIFFERS)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_models_off_the_interface_are_refused_with_their_class_and_a_way_out(name):
    row = UNSUPPORTED[name]
    hf = row.build()
    with pytest.raises(UnsupportedModelError) as raised:
        HookedModel(hf, example=row.inputs())
    assert type(hf).__name__ in str(raised.value)
    assert "use a model on the interface, such as Llama" in str(raised.value)


# -- reading ---------------------------------------------------------------------------------------------------------


@EVERY_MODEL
def test_hooks_that_ask_for_nothing_or_only_read_change_no_bit(name):
    model, inputs = hooked(name), TINY[name].inputs()
    plain = prediction(model.hf, inputs)
    nothing = [Record("pattern", Where(stack=stack, positions=(1000,))) for stack in model.stacks]
    assert torch.equal(under(model, inputs, *nothing), plain)
    assert not any(record.seen for record in nothing)
    for site in ("z", "pattern"):
        read = [Record(site, Where(stack=stack)) for stack in model.stacks]
        assert torch.equal(under(model, inputs, *read), plain)
        assert [tuple(sorted(record.seen)) for record in read] == [model.layers(stack) for stack in model.stacks]


@EVERY_STACK
def test_recorded_rows_are_eagers_own_weights(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    under(model, inputs, record := Record("pattern", Where(stack=stack)))
    expected = eager_patterns(eager_copy(model.hf), inputs)
    for site in model.sites_of(stack):
        recorded, weights = record.seen[site.layer], expected[site.name]
        assert len(recorded) == len(weights) == site.calls
        for ours, theirs in zip(recorded, weights, strict=True):
            assert gap(ours, theirs) < 1e-5


# -- editing ---------------------------------------------------------------------------------------------------------

HEADS, ROWS = [1, 3], [0, 2, -1]


@EVERY_STACK
def test_pattern_edits_are_the_edits_of_eagers_weights(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = middle(model, stack)
    module = next(site.name for site in model.sites_of(stack) if site.layer == layer)

    def ramp(rows: Tensor) -> Tensor:
        return rows * torch.linspace(0.2, 1.8, rows.shape[-1])

    def reference(path: str, index: int, weights: Tensor) -> Tensor:
        weights = weights.clone()
        if path == module:
            places = torch.tensor(ROWS)[:, None], torch.tensor(HEADS)
            weights.transpose(1, 2)[:, *places] = ramp(weights.transpose(1, 2)[:, *places])
        return weights

    where = Where(heads=tuple(Head(layer, head) for head in HEADS), positions=tuple(ROWS), stack=stack)
    edited = under(model, inputs, Edit("pattern", where, lambda rows, ctx: ramp(rows)))
    assert equal(edited, predicted(edited_eager(eager_copy(model.hf), inputs, reference)))
    assert gap(edited, prediction(model.hf, inputs)) > EFFECT


@EVERY_STACK
def test_a_head_without_z_is_a_head_without_its_columns_of_w_o(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = middle(model, stack)
    site = next(site for site in model.sites_of(stack) if site.layer == layer)
    ablated = under(model, inputs, scaled(0, Where(heads=(Head(layer, 2),), stack=stack)))

    without = copy.deepcopy(model.hf)
    projection = without.get_submodule(site.projection)
    weight = projection.weight.data.T if isinstance(projection, Conv1D) else projection.weight.data
    weight[:, 2 * site.d_head : 3 * site.d_head] = 0
    assert equal(ablated, prediction(without, inputs))
    assert gap(ablated, prediction(model.hf, inputs)) > EFFECT


# -- decoding with a cache -------------------------------------------------------------------------------------------

CACHE_DIFFERS = {"paligemma": "its own mask is another one with a cache than without, hooks or not"}


@kinds("decoder", "vlm", "encoder_decoder", without=CACHE_DIFFERS)
def test_cached_decoding_under_an_edit_is_one_full_pass_under_it(name):
    model, inputs = hooked(name), TINY[name].inputs()
    edits = [by_key(Where(heads=heads_of(model, stack), stack=stack)) for stack in model.stacks]
    with model.hooks(*edits):
        written = generated(model, inputs)
        full = prediction(model.hf, whole(inputs, written.sequences))
    steps = torch.stack(written.logits, 1)
    assert equal(steps, full[:, -NEW_TOKENS - 1 : -1])
    assert gap(steps[:, 0], generated(model, inputs).logits[0]) > EFFECT


def heads_of(model: HookedModel, stack: str) -> tuple[Head, ...]:
    """Two heads of every layer."""
    return tuple(Head(layer, head) for layer in model.layers(stack) for head in HEADS)


def generated(model: HookedModel, inputs: Inputs):
    options = {"output_logits": True, "return_dict_in_generate": True, "suppress_tokens": [IMAGE_TOKEN, VIDEO_TOKEN]}
    return model.hf.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)


def whole(inputs: Inputs, written: Tensor) -> Inputs:
    """The inputs of one pass over all that was written; new tokens are text."""
    ids = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    types = {name: pad(value, (0, NEW_TOKENS)) for name, value in inputs.items() if name.endswith("type_ids")}
    return inputs | types | {ids: written}


# -- batches ---------------------------------------------------------------------------------------------------------

NO_POSITIONS = {"distilbert": "it takes no position_ids, and its learned positions count the padding"}


@kinds("decoder", "vlm", "encoder", without=NO_POSITIONS)
def test_left_padding_changes_nothing_under_edits(name):
    model, texts = hooked(name), [prompt(12, seed=1), prompt(16, seed=2)]
    layer = middle(model, "text")
    hooks = [
        by_key(Where(heads=heads_of(model, "text"), positions=(0, 3, -1))),
        scaled(-1, Where(heads=(Head(layer, 0),), positions=(1, -2))),
    ]
    batch = left_padded(*texts)
    if "position_ids" in model.forward_arguments and name != "roberta":  # it counts by itself, and not from 0
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    together = under(model, as_text(name, batch), *hooks)
    for i, text in enumerate(texts):
        mine = together[i, 16 - text["input_ids"].shape[1] :]
        assert equal(mine, under(model, as_text(name, text), *hooks)[0])
        assert gap(mine, prediction(model.hf, as_text(name, text))[0]) > EFFECT


def as_text(name: str, inputs: Inputs) -> Inputs:
    """PaliGemma is causal only where it is told which tokens are image and which are text."""
    return inputs | {"token_type_ids": torch.zeros_like(inputs["input_ids"])} if name == "paligemma" else inputs
