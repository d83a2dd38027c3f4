"""`resid_mid` and `mlp_out` on every architecture: they add up, and edits of them are edits of the stream itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from headscope import HookedModel, Record, UnsupportedModelError, Where
from headscope.sites import AttentionSite
from headscope.sublayers import Sublayers, sublayers
from tests.headscope.test_architectures import (
    CACHE_DIFFERS,
    EFFECT,
    NEW_TOKENS,
    STACKS,
    equal,
    generated,
    hooked,
    whole,
)
from tests.headscope.test_hooks import Edit, gap, scaled, traces, under
from tests.test_tiny import prediction
from tests.tiny import TINY, left_padded, prompt

STREAM = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
WITHOUT = {
    ("gpt_neox", "text"): "attention and MLP run side by side",
    ("internvl", "vision"): "no residual state between",  # the MLP's output is scaled outside any module
    **{
        (name, "text"): "no residual state between" for name in ("bert", "roberta", "distilbert")
    },  # a norm after the sum
    **{("bart", stack): "no residual state between" for stack in ("encoder", "decoder")},
    **{(name, "cross"): "belongs to the stack of its self-attention" for name in ("t5", "bart")},
}
"""(model, stack) that has neither site, and what the refusal says."""
NORMED = {  # stacks that normalise or scale W_O's output, and the module that does
    **{(name, "text"): "post_attention_layernorm" for name in ("gemma2", "gemma3", "gemma3_mm", "olmo2")},
    ("dinov2", "vision"): "layer_scale1",
}
EVERY = [(name, stack) for name, row in TINY.items() for stack in STACKS[row.kind]]
WITH = [one for one in EVERY if one not in WITHOUT]
EVERY_STACK = pytest.mark.parametrize(("name", "stack"), WITH)
V = torch.linspace(-2, 2, 32).roll(11)


def first_layer(model: HookedModel, stack: str) -> AttentionSite:
    return model.sites_of(stack)[0]


def last_sum(model: HookedModel, stack: str) -> str:
    """The module whose output, added to the stream, gives the state before the MLP: found here by name."""
    site = first_layer(model, stack)
    if (model.name, stack) in NORMED:
        return f"{site.block}.{NORMED[model.name, stack]}"
    if model.name == "t5" and stack == "decoder":  # the MLP comes after cross-attention
        return first_layer(model, "cross").projection
    return site.projection


def at_last(place: Where, vector: Tensor = V) -> Edit:
    return Edit("resid_mid", place, lambda act, ctx: act + vector)


@contextmanager
def forward_hook(model: HookedModel, module: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """A plain torch hook on a module's output, without headscope."""

    def hook(module, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = model.hf.get_submodule(module).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def plus_v_at_last(act: Tensor) -> Tensor:
    act = act.clone()
    act[..., -1, :] += V
    return act


# -- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stack"), EVERY)
def test_all_layers_of_a_stack_have_both_sites_or_neither(name, stack):
    for site in hooked(name).sites_of(stack):
        assert (site.mid is None) == (site.mlp is None) == ((name, stack) in WITHOUT)
        assert site.parallel == (name == "gpt_neox")


@pytest.mark.parametrize(("name", "stack"), WITHOUT)
@pytest.mark.parametrize("site", ["resid_mid", "mlp_out"])
def test_layers_without_the_sites_refuse_them_and_say_why(name, stack, site):
    model = hooked(name)
    before = traces(model)
    message = f"{stack} layer 0 .* has no site '{site}': .*{WITHOUT[name, stack]}"
    with pytest.raises(UnsupportedModelError, match=message), model.hooks(Record(site, Where(stack=stack))):
        pass
    assert traces(model) == before


@EVERY_STACK
def test_the_stream_is_the_sum_of_its_parts(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    seen = {site: Record(site, Where(stack=stack)) for site in STREAM}
    assert torch.equal(under(model, inputs, *seen.values()), prediction(model.hf, inputs))
    for layer in model.layers(stack):
        (pre,), (attn,), (mid,), (mlp,), (post,) = (seen[site].seen[layer] for site in STREAM)
        assert close(mid + mlp, post)
        assert gap(mid, pre) > 0.01
        through_w_o = (name, stack) not in {*NORMED, ("t5", "decoder")}
        assert close(pre + attn, mid) == through_w_o


FORMS: dict[str, tuple[Callable, Sublayers]] = {
    "one sublayer only": (lambda m, x: x + m.attn(m.norm(x)), Sublayers()),
    "a norm that is no module": (
        lambda m, x: (y := x + m.attn(x)) + m.mlp(nn.functional.layer_norm(y, (8,))),
        Sublayers(),
    ),
    "a norm that is no module, inside the MLP": (
        lambda m, x: (y := x + m.attn(x)) + m.mlp(y),
        Sublayers("layer.mlp", "layer.mlp"),
    ),
    "two readers": (
        lambda m, x: (y := x + m.attn(x)) + m.gate(y).sigmoid() * 0 + m.mlp(m.norm(y)),
        Sublayers(None, "layer.mlp"),
    ),
    "through a module that returns it": (
        lambda m, x: (y := m.pass_on(x + m.attn(x))) + m.mlp(m.norm(y)),
        Sublayers("layer.norm", "layer.mlp"),
    ),
    "side by side": (lambda m, x: x + m.attn(y := m.norm(x)) + m.mlp(y), Sublayers(parallel=True)),
    "MLP first": (lambda m, x: m.mlp(x) + x + m.attn(x), Sublayers(parallel=True)),
    "a norm after each sum": (lambda m, x: m.gate((y := m.norm(x + m.attn(x))) + m.mlp(y)), Sublayers()),
}


@pytest.mark.parametrize("form", FORMS)
def test_layers_written_by_hand_are_read_as_they_are(form):
    forward, expected = FORMS[form]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.mlp, self.gate = (nn.Linear(8, 8) for _ in range(3))
            self.norm, self.pass_on = nn.LayerNorm(8), nn.Identity()

        def forward(self, x):
            return forward(self, x)

    model = nn.Module()
    model.layer = Layer()
    model.forward = lambda x: model.layer(x)
    assert sublayers(model, {"x": torch.randn(2, 3, 8)}, ["layer"]) == {"layer": expected}


def close(a: Tensor, b: Tensor) -> bool:
    return gap(a, b) < 1e-5 * b.abs().max().item()


# -- editing ---------------------------------------------------------------------------------------------------------


@EVERY_STACK
def test_an_edit_between_is_an_edit_of_what_attention_adds(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    where = Where(layers=(model.layers(stack)[0],), positions=(-1,), stack=stack)
    after = Record("resid_post", where)
    edited = under(model, inputs, after, at_last(where))  # the record comes first and still sees the edited stream
    reference = Record("resid_post", where)
    with forward_hook(model, last_sum(model, stack), plus_v_at_last):
        assert equal(edited, under(model, inputs, reference))
    for ours, theirs in zip(*(record.seen[where.layers[0]] for record in (after, reference)), strict=True):
        assert close(ours, theirs)
    assert gap(edited, prediction(model.hf, inputs)) > EFFECT


@EVERY_STACK
def test_without_mlp_out_the_layer_adds_no_mlp(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = first_layer(model, stack).layer
    where = Where(layers=(layer,), stack=stack)
    mid, post = Record("resid_mid", where), Record("resid_post", where)
    edited = under(model, inputs, scaled(0, where, "mlp_out"), mid, post)
    with forward_hook(model, first_layer(model, stack).mlp, torch.zeros_like):
        assert torch.equal(edited, prediction(model.hf, inputs))
    assert close(mid.seen[layer][0], post.seen[layer][0])
    assert gap(edited, prediction(model.hf, inputs)) > EFFECT


@EVERY_STACK
def test_edits_of_all_sites_of_a_layer_compose(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = first_layer(model, stack).layer
    where = Where(layers=(layer,), stack=stack)
    mid, mlp, post = (Record(site, where) for site in ("resid_mid", "mlp_out", "resid_post"))
    half = scaled(0.5, where, "resid_post")
    with model.hooks(half, at_last(where)), model.hooks(scaled(2, where, "resid_mid"), scaled(3, where, "mlp_out")):
        under(model, inputs, mid, mlp, post)
    plain = Record("resid_mid", where)
    under(model, inputs, plain)
    assert close(mid.seen[layer][0], (plain.seen[layer][0] + V) * 2)
    assert close(post.seen[layer][0], (mid.seen[layer][0] + mlp.seen[layer][0]) / 2)


def test_a_state_replaced_by_another_is_that_state_from_there_on():
    """All that a layer's successors see of two prompts is the state: patched in, it makes one prompt the other."""
    model, ours, theirs = hooked("llama"), prompt(seed=1), prompt(seed=2)
    where = Where(layers=(1,))
    under(model, theirs, kept := Record("resid_mid", where))
    patched = under(model, ours, Edit("resid_mid", where, lambda act, ctx: kept.seen[1][0]))
    assert equal(patched, prediction(model.hf, theirs))


def test_an_edit_that_failed_leaves_nothing_for_the_next_pass():
    model = hooked("llama")
    before, plain = traces(model), prediction(model.hf, prompt())
    calls = []

    def once(act: Tensor, ctx) -> Tensor:
        calls.append(ctx.layer)
        return act + V if len(calls) == 1 else act

    def broken(act: Tensor, ctx) -> Tensor:
        if len(calls) == 1:
            raise ZeroDivisionError
        return act

    where = Where(layers=(0,))
    with model.hooks(Edit("resid_mid", where, once), Edit("mlp_out", where, broken)):
        with pytest.raises(ZeroDivisionError):
            prediction(model.hf, prompt())
        assert torch.equal(prediction(model.hf, prompt()), plain)
    assert traces(model) == before


# -- decoding and batches --------------------------------------------------------------------------------------------

GENERATES = [one for one in WITH if TINY[one[0]].generates and one[0] not in CACHE_DIFFERS]


@pytest.mark.parametrize(("name", "stack"), GENERATES)
def test_cached_decoding_under_an_edit_between_is_one_full_pass_under_it(name, stack):
    model, inputs = hooked(name), TINY[name].inputs()
    edit = Edit("resid_mid", Where(stack=stack), lambda act, ctx: act + V * (ctx.positions % 2)[..., None])
    with model.hooks(edit, scaled(0.5, Where(stack=stack), "mlp_out")):
        written = generated(model, inputs)
        full = prediction(model.hf, whole(inputs, written.sequences))
    steps = torch.stack(written.logits, 1)
    assert equal(steps, full[:, -NEW_TOKENS - 1 : -1])
    assert gap(steps[:, 0], generated(model, inputs).logits[0]) > EFFECT


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "opt", "gpt2"])
@pytest.mark.parametrize("site", ["resid_mid", "mlp_out"])
@pytest.mark.parametrize("positions", [(0,), (-1,), (-4, 1), None])
def test_positions_count_without_padding(name, site, positions):
    model, texts = hooked(name), [prompt(11, seed=3), prompt(16, seed=4)]
    batch = left_padded(*texts)
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    edit = Edit(site, Where(positions=positions), lambda act, ctx: act * 0.5 + V)
    together = under(model, batch, edit)
    for i, text in enumerate(texts):
        mine = together[i, 16 - text["input_ids"].shape[1] :]
        assert equal(mine, under(model, text, edit)[0])
        assert gap(mine, prediction(model.hf, text)[0]) > EFFECT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sites_are_found_in_half_precision_too(dtype):
    for name in ("llama", "gemma2", "olmo2", "gpt_neox"):
        half = HookedModel(TINY[name].build().to(dtype), example=TINY[name].inputs())
        found, expected = ([(s.mid, s.mlp, s.parallel) for s in model.sites] for model in (half, hooked(name)))
        assert found == expected
