"""Path patching follows the planted paths and no other, and equals a brute-force version made of plain torch hooks."""

from collections.abc import Callable
from contextlib import ExitStack

import jaxtyping
import pytest
from torch import Tensor

from experiments.patching.paths import path_patching
from headscope import Head, HookedModel, UnsupportedModelError, UsageError
from tests.experiments.test_patching import difference, expect, last_logits, pairs, random_pairs
from tests.headscope.test_hooks import words_model
from tests.planted.naming import DUPLICATE, INHIBITION, MOVER, NEGATIVE, naming_model

MOVERS = (MOVER, NEGATIVE)


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


PATHS = [
    ("swap", (), "logits", {MOVER: 4 / 3, NEGATIVE: -1 / 3}),
    ("swap", MOVERS, "q", {INHIBITION: 1}),
    ("swap", MOVERS, "k", {}),
    ("swap", MOVERS, "v", {}),
    ("swap", (MOVER,), "q", {INHIBITION: 4 / 3}),
    ("swap", (NEGATIVE,), "q", {INHIBITION: -1 / 3}),
    (
        "abc",
        MOVERS,
        "q",
        {INHIBITION: 4 / 3},
    ),  # and not the duplicate-token head, which acts through S-inhibition alone
    ("abc", (INHIBITION,), "k", {DUPLICATE: 4 / 3}),
    ("abc", (INHIBITION,), "q", {}),
    ("abc", (INHIBITION,), "v", {}),
]


@pytest.mark.parametrize(("counterfactual", "receivers", "through", "known"), PATHS)
def test_the_planted_paths_are_found_and_no_other(naming, counterfactual, receivers, through, known):
    scores = path_patching(naming, *pairs(naming, counterfactual, 3), receivers=receivers, through=through)
    expect(scores.values, known)
    assert scores.heads == naming.heads()


def test_a_path_leads_through_its_places_only(naming):
    both = pairs(naming, "swap", 3)
    options = {"receivers": MOVERS, "through": "q", "senders": [INHIBITION]}
    at_end = path_patching(naming, *both, positions="END", receiver_positions="END", **options)
    assert at_end.values[INHIBITION] == pytest.approx(1, abs=5e-3)
    for places in ({"positions": "S2"}, {"receiver_positions": "S2"}):
        assert path_patching(naming, *both, **places, **options).values[INHIBITION] == pytest.approx(0, abs=5e-3)


def test_senders_above_every_receiver_are_zero_and_others_not_asked_for_are_missing(naming):
    scores = path_patching(naming, *pairs(naming, "swap", 2), receivers=[INHIBITION], through="v", senders="L1H0, L2H1")
    assert scores.heads == (Head(1, 0), Head(2, 1))
    assert scores.samples[:, [1, 2], [0, 1]].eq(0).all()


# -- brute force -----------------------------------------------------------------------------------------------------


class Llama:
    """Where a tiny llama carries what path patching needs: inputs of W_O, outputs of W_Q, W_K and W_V."""

    def __init__(self, hf) -> None:
        self.layers = hf.model.layers
        self.projection = [layer.self_attn.o_proj for layer in self.layers]
        self.mlp = [layer.mlp for layer in self.layers]

    def received(self, layer: int, through: str):
        return getattr(self.layers[layer].self_attn, f"{through}_proj")

    def part(self, head: int, through: str) -> slice:
        head = head if through == "q" else head // 2  # 4 heads, 2 key heads
        return slice(head * 8, (head + 1) * 8)


class GPT2(Llama):
    """The same for a tiny GPT-2, which makes all three at once."""

    def __init__(self, hf) -> None:
        self.layers = hf.transformer.h
        self.projection = [layer.attn.c_proj for layer in self.layers]
        self.mlp = [layer.mlp for layer in self.layers]

    def received(self, layer: int, through: str):
        return self.layers[layer].attn.c_attn

    def part(self, head: int, through: str) -> slice:
        start = 32 * "qkv".index(through) + head * 8
        return slice(start, start + 8)


def brute_force(
    parts: Llama, run: Callable[[str], Tensor], sender: Head, receivers: list[Head], through: str, mlps: str
) -> Tensor:
    """Last logits of the clean prompt with one path patched, from hooks on modules alone."""

    def kept(which: str) -> tuple[list[Tensor], list[Tensor]]:
        z, mlp = [], []
        with ExitStack() as stack:
            for layer in range(2):
                keep_z = parts.projection[layer].register_forward_pre_hook(lambda _, args: z.append(args[0].clone()))
                keep_mlp = parts.mlp[layer].register_forward_hook(lambda _, args, out: mlp.append(out.clone()))
                stack.callback(keep_z.remove)
                stack.callback(keep_mlp.remove)
            run(which)
        return z, mlp

    (clean_z, clean_mlp), (corrupt_z, _) = kept("clean"), kept("corrupt")
    clean_z[sender.layer] = clean_z[sender.layer].clone()
    mine = slice(sender.head * 8, (sender.head + 1) * 8)
    clean_z[sender.layer][..., mine] = corrupt_z[sender.layer][..., mine]
    seen: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in range(2):
            handle = parts.projection[layer].register_forward_pre_hook(lambda _, args, layer=layer: (clean_z[layer],))
            stack.callback(handle.remove)
            if mlps == "frozen":
                handle = parts.mlp[layer].register_forward_hook(lambda _, args, out, layer=layer: clean_mlp[layer])
                stack.callback(handle.remove)
            if through != "logits":
                handle = parts.received(layer, through).register_forward_hook(
                    lambda _, args, out, layer=layer: seen.update({layer: out.clone()})
                )
                stack.callback(handle.remove)
        direct = run("clean")
    if through == "logits":
        return direct
    with ExitStack() as stack:
        for receiver in receivers:
            place = parts.part(receiver.head, through)

            def put(_, args, out, layer=receiver.layer, place=place):
                new = out.clone()
                new[..., place] = seen[layer][..., place]
                return new

            stack.callback(parts.received(receiver.layer, through).register_forward_hook(put).remove)
        return run("clean")


@pytest.mark.parametrize("mlps", ["free", "frozen"])
@pytest.mark.parametrize("through", ["q", "k", "v", "logits"])
@pytest.mark.parametrize(("name", "kind"), [("llama", Llama), ("gpt2", GPT2)])
def test_every_effect_is_that_of_brute_force(name, kind, through, mlps):
    model, (clean, corrupt) = words_model(name), random_pairs(2)
    receivers = [] if through == "logits" else [Head(1, 0), Head(1, 3)]
    options = {"receivers": receivers, "through": through, "mlps": mlps, "normalise": None}
    scores = path_patching(model, clean, corrupt, **options)
    parts, senders = kind(model.hf), [Head(0, 0), Head(0, 2), Head(1, 1)]
    for i in range(2):
        sides = {"clean": clean[i], "corrupt": corrupt[i]}
        start = difference(last_logits(model.hf, model.tokenizer, clean[i]))

        def run(which: str, sides=sides) -> Tensor:
            return last_logits(model.hf, model.tokenizer, sides[which])

        for sender in senders:
            expected = difference(brute_force(parts, run, sender, receivers, through, mlps)) - start
            assert scores.samples[i][sender] == pytest.approx(expected, abs=2e-4), (i, sender)
    assert scores.samples[:, 0].abs().min() > 1e-4
    assert (scores.samples[:, 1].abs().min() > 1e-4) == (through == "logits")


def test_free_mlps_pass_on_what_frozen_ones_do_not():
    model, both = words_model("llama"), random_pairs(2)
    free, frozen = (path_patching(model, *both, mlps=mlps, normalise=None).values for mlps in ("free", "frozen"))
    assert (free - frozen)[0].abs().min() > 1e-3


# -- errors ----------------------------------------------------------------------------------------------------------


def test_receivers_and_their_inputs_come_together(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    model, both = words_model("llama"), random_pairs(1)
    for options, message in [
        ({"receivers": "L1H0"}, "receivers L1H0 are given with through='logits'"),
        ({"through": "q"}, "through='q' names an input of receiving heads; give receivers="),
        ({"through": "z", "receivers": "L1H0"}, "through 'z' is not known"),
        ({"mlps": "half"}, "mlps 'half' is not known"),
        ({"through": "q", "receivers": "L1H9"}, "L1H9 asked for, but llama has no such head"),
        ({"senders": "L5H0"}, "L5H0 asked for"),
    ]:
        with pytest.raises(UsageError, match=message):
            path_patching(model, *both, **options)


@pytest.mark.parametrize("name", ["bitnet", "qwen3_next"])
def test_models_that_gate_their_heads_are_refused(name):
    with pytest.raises(UnsupportedModelError, match="gates or normalises head outputs before W_O"):
        path_patching(words_model(name), *random_pairs(1))


def test_frozen_mlps_need_a_layer_that_adds_one_after_the_other():
    with pytest.raises(UnsupportedModelError, match="has no site 'mlp_out'"):
        path_patching(words_model("gpt_neox"), *random_pairs(1), mlps="frozen")
    assert path_patching(words_model("gpt_neox"), *random_pairs(1), senders="L0H0", normalise="mean").n == 1
