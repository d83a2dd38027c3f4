"""The self-check fails where it should: routes that do not reach, hooks that disturb, attention other than its rows."""

from contextlib import nullcontext

import pytest
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headscope import HookedModel, UnsupportedModelError, plan
from headscope.backends import doors
from headscope.check import SelfCheck
from tests.headscope.test_hooks import hooked
from tests.tiny import TINY, build

IDLE = "hooks open, nothing asked: outputs differ by"
REPRODUCED = "rows times values equal the layer's own output"
SUMS = "rows sum to one"
PARTS = "heads' contributions through W_O sum to the attention output"
NO_PATTERN, NO_Z = (f"a no-op edit of every {site} changes outputs by" for site in ("pattern", "z"))
NOISE = "replacing one layer's pattern by noise changes outputs by"
CACHED = "cached generation differs from a full pass by"
PADDED = "a padded batch differs from single samples by"


def failed(check: SelfCheck) -> set[str]:
    assert check.passed == all(row.passed is not False for row in check.rows)
    assert ("FAILED" in str(check)) == (not check.passed)
    return {row.fact for row in check.rows if row.passed is False}


def test_a_sound_model_passes_every_fact():
    check = hooked("llama").check()
    assert [row.fact for row in check.rows] == [IDLE, REPRODUCED, SUMS, PARTS, NO_PATTERN, NO_Z, NOISE, CACHED, PADDED]
    assert all(row.passed for row in check.rows)
    assert check.to_records()[0] == {"fact": IDLE, "value": 0.0, "bar": "= 0", "passed": True, "note": ""}
    assert "weakest in text layer" in check.rows[6].note
    assert str(check).startswith("self-check of llama\n")


def test_sinks_that_are_no_key_are_told():
    row = next(row for row in hooked("gpt_oss").check().rows if row.fact.startswith("rows sum"))
    assert (row.fact, row.passed) == ("rows sum to at most one", True)
    assert "sink" in row.note


# -- hooks that do not do what they say ------------------------------------------------------------------------------


def replace_edits(monkeypatch: pytest.MonkeyPatch, name: str, spoil) -> None:
    """Puts `spoil(before, after)` in the place of what an engine function returns; `before` is its first tensor."""
    real = getattr(plan, name)

    def spoiled(*args):
        before = next(arg for arg in args if isinstance(arg, Tensor))
        return spoil(before, real(*args))

    monkeypatch.setattr(plan, name, spoiled)


def test_pattern_edits_that_are_discarded_fail(monkeypatch):
    model = hooked("llama")
    replace_edits(monkeypatch, "edit_rows", lambda before, after: before)
    assert failed(model.check()) == {NOISE}


def test_pattern_edits_that_reach_one_stack_only_fail(monkeypatch):
    model = hooked("t5")
    decoder_queries = TINY["t5"].inputs()["decoder_input_ids"].shape[1]
    replace_edits(
        monkeypatch, "edit_rows", lambda before, after: after if before.shape[1] == decoder_queries else before
    )
    check = model.check()
    assert failed(check) == {NOISE}
    assert "weakest in encoder layer" in next(row.note for row in check.rows if row.fact == NOISE)


def test_a_route_that_is_never_taken_fails(monkeypatch):
    model = hooked("llama")
    monkeypatch.setattr(doors, "route_attention", lambda handlers: nullcontext())
    assert failed(model.check()) == {"layers whose rows were never seen", NOISE}


def test_hooks_that_disturb_where_nothing_is_asked_fail(monkeypatch):
    model = hooked("llama")
    replace_edits(monkeypatch, "edit_rows", lambda before, after: after * 1.001)
    assert failed(model.check()) >= {IDLE, NO_PATTERN}


def test_a_no_op_that_disturbs_fails(monkeypatch):
    model = hooked("llama")
    replace_edits(monkeypatch, "edited", lambda before, after: after if after is before else after * 1.001)
    assert failed(model.check()) == {NO_Z}


def test_a_no_op_that_disturbs_the_pattern_fails(monkeypatch):
    model = hooked("llama")
    replace_edits(monkeypatch, "edit_rows", lambda before, after: after if after is before else after * 1.001)
    assert failed(model.check()) == {NO_PATTERN, CACHED}


def test_edits_that_touch_padding_or_shift_places_fail(monkeypatch):
    model = hooked("llama")

    def shifted(before: Tensor, after: Tensor) -> Tensor:
        return after if len(after) == 1 else after.roll(1, 1)

    replace_edits(monkeypatch, "edit_rows", shifted)
    assert failed(model.check()) == {PADDED}


def test_edits_that_go_wrong_with_a_cache_fail(monkeypatch):
    model = hooked("llama")
    replace_edits(monkeypatch, "edit_rows", lambda before, after: after if after.shape[1] > 1 else after * 1.01)
    assert failed(model.check()) == {CACHED}


def test_a_wrong_output_projection_fails():
    model = hooked("llama")
    projection = model.hf.model.layers[1].self_attn.o_proj
    projection.register_forward_hook(lambda module, args, output: output + 0.01 * args[0])  # d_model is heads x d_head
    assert failed(model.check()) == {PARTS}


# -- attention that is not its rows ----------------------------------------------------------------------------------


@pytest.fixture
def strange(monkeypatch):
    """Registers sdpa with something more under the name "strange"; the test says what, and in which layers."""

    def register(extra) -> None:
        def attention(module: nn.Module, query, key, value, attention_mask, **options):
            out, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            own = value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2)
            return extra(module, out, own), weights

        monkeypatch.setitem(AttentionInterface._global_mapping, "strange", attention)
        monkeypatch.setitem(AttentionMaskInterface._global_mapping, "strange", sdpa_mask)

    return register


def strange_llama() -> HookedModel:
    hf = build("llama")
    hf.set_attn_implementation("strange")
    return HookedModel(hf)


def test_a_function_of_ones_own_is_accepted_where_rows_reproduce_it(strange):
    strange(lambda module, out, own: out)
    assert strange_llama().check().passed


@pytest.mark.parametrize("extra", [lambda out, own: out + 0.01 * own, lambda out, own: out * 1.01], ids=["+", "*"])
def test_attention_that_rows_do_not_reproduce_is_refused_with_its_layer(strange, extra):
    strange(lambda module, out, own: extra(out, own) if module.layer_idx == 1 else out)
    with pytest.raises(UnsupportedModelError) as raised:
        strange_llama()
    message = str(raised.value)
    assert message.startswith("text layer 1 (model.layers.1.self_attn, LlamaForCausalLM) computes attention in a way")
    assert "the model is refused" in message


def test_attention_that_drifts_after_discovery_is_seen_by_no_ops(strange):
    drift = []
    strange(lambda module, out, own: out + sum(drift))
    model = strange_llama()
    assert model.check().passed
    drift.append(0.01)
    assert NO_PATTERN in failed(model.check())
