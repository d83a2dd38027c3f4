"""The engine's pure functions against numbers known by hand, against fused attention and against each other."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from headscope.engine import edit as edit_module
from headscope.engine import mass as mass_module
from headscope.engine.edit import RowEdit, edit_rows
from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import group_mass
from headscope.engine.rows import head_outputs, pattern_rows
from tests.headscope.test_hooks import gap

LOW = torch.finfo(torch.float32).min
LN2, LN3, LN4 = (math.log(n) for n in (2, 3, 4))


def by_hand(**options) -> AttentionInputs:
    """One head, two queries, two keys; the scores are [0, ln 3] and [0, 0], the values 10 and 20."""
    return AttentionInputs(
        query=torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]),
        key=torch.tensor([[[[0.0, 0.0], [2 * LN3, 0.0]]]]),
        value=torch.tensor([[[[10.0], [20.0]]]]),
        scaling=0.5,
        **options,
    )


def as_mask(rows: list[list]) -> Tensor:
    return torch.tensor(rows)[None, None]


KNOWN = {
    "plain": ({}, [[1 / 4, 3 / 4], [1 / 2, 1 / 2]]),
    "causal": ({"causal": True}, [[1, 0], [1 / 2, 1 / 2]]),
    "bool mask": ({"mask": as_mask([[True, True], [False, True]])}, [[1 / 4, 3 / 4], [0, 1]]),
    "mask longer than the keys": (
        {"mask": as_mask([[True, True, True], [False, True, True]])},
        [[1 / 4, 3 / 4], [0, 1]],
    ),
    "float mask": ({"mask": as_mask([[0.0, LOW], [0.0, 0.0]])}, [[1, 0], [1 / 2, 1 / 2]]),
    "float mask with a bias": ({"mask": as_mask([[LN2, 0.0], [-LN3, 0.0]])}, [[2 / 5, 3 / 5], [1 / 4, 3 / 4]]),
    "bool mask, a row of nothing": ({"mask": as_mask([[False, False], [True, True]])}, [[0, 0], [1 / 2, 1 / 2]]),
    "float mask, a row of nothing": ({"mask": as_mask([[LOW, LOW], [0.0, 0.0]])}, [[0, 0], [1 / 2, 1 / 2]]),
    "float mask of -inf": ({"mask": as_mask([[-math.inf, -math.inf], [0.0, -math.inf]])}, [[0, 0], [1, 0]]),
    # 2 tanh(ln 3 / 2) = 1
    "softcap": ({"softcap": 2.0}, [[1 / (1 + math.e), math.e / (1 + math.e)], [1 / 2, 1 / 2]]),
    "sinks": ({"sinks": torch.tensor([LN4])}, [[1 / 8, 3 / 8], [1 / 6, 1 / 6]]),
    "sinks, a row of nothing": (
        {"sinks": torch.tensor([LN4]), "mask": as_mask([[False, False], [True, True]])},
        [[0, 0], [1 / 6, 1 / 6]],
    ),
    "bias": ({"bias": as_mask([[LN2, 0.0], [LN3, 0.0]])}, [[2 / 5, 3 / 5], [3 / 4, 1 / 4]]),
    "bias and cap": (
        {"softcap": 2.0, "bias": as_mask([[1.0, 0.0], [LN3, 0.0]])},
        [[1 / 2, 1 / 2], [3 / 4, 1 / 4]],
    ),
}


@pytest.mark.parametrize(("options", "expected"), KNOWN.values(), ids=KNOWN)
def test_rows_outputs_and_mass_by_hand(options, expected):
    x, expected = by_hand(**options), torch.tensor(expected, dtype=torch.float32)
    rows = pattern_rows(x)
    assert gap(rows[0, 0], expected) < 1e-6
    assert gap(head_outputs(rows, x)[0, :, 0], expected @ x.value[0, 0]) < 1e-5
    groups = torch.tensor([[[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 2.0]]])
    assert gap(group_mass(x, groups)[0, 0], expected @ groups[0]) < 1e-6


# -- random inputs of every kind -------------------------------------------------------------------------------------

BATCH, HEADS, QUERIES, KEYS, D_QK, D_V = 2, 4, 7, 9, 6, 5


def inputs(*, kv_heads: int = 2, queries: int = QUERIES, keys: int = KEYS, seed: int = 0, **options) -> AttentionInputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 2 * torch.randn(shape, generator=generator)

    query = normal(BATCH, HEADS, queries, D_QK)
    key, value = (normal(BATCH, kv_heads, keys, width) for width in (D_QK, D_V))
    return AttentionInputs(query, key, value, scaling=0.4, **options)


def masked(*, heads: int = 1, seed: int = 1, dtype: torch.dtype = torch.bool) -> Tensor:
    """A random mask whose second sample has two queries that see nothing."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(BATCH, heads, QUERIES, KEYS, generator=generator) < 0.6
    mask[..., 0] = True
    mask[1, :, :2] = False
    return mask if dtype == torch.bool else torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


VARIANTS = {
    "plain": {},
    "causal": {"causal": True},
    "bool mask": {"mask": masked()},
    "bool mask per head": {"mask": masked(heads=HEADS)},
    "float mask": {"mask": masked(dtype=torch.float32)},
    "biased mask per head": {"mask": masked(heads=HEADS, dtype=torch.float32) + noise(1, HEADS, QUERIES, KEYS)},
    "softcap": {"softcap": 1.5, "mask": masked()},
    "sinks": {"sinks": noise(HEADS), "mask": masked()},
    "bias": {"bias": noise(1, HEADS, QUERIES, KEYS), "mask": masked(dtype=torch.float32)},
}
EVERY_VARIANT = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@EVERY_VARIANT
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_chosen_heads_and_rows_are_a_slice_of_all(options, kv_heads):
    x = inputs(kv_heads=kv_heads, **options)
    rows = pattern_rows(x)
    assert rows.shape == (BATCH, HEADS, QUERIES, KEYS)
    heads, places = torch.tensor([0, 3, 2]), torch.tensor([5, 1])
    chosen = pattern_rows(x, heads, places)
    assert gap(chosen, rows[:, heads][:, :, places]) < 1e-6
    assert gap(pattern_rows(x, None, places), rows[:, :, places]) < 1e-6
    assert gap(head_outputs(chosen, x, heads), head_outputs(rows, x)[:, places][:, :, heads]) < 1e-5


@EVERY_VARIANT
def test_grouped_queries_are_repeated_keys(options):
    x = inputs(kv_heads=2, **options)
    repeated = replace(x, key=x.key.repeat_interleave(2, 1), value=x.value.repeat_interleave(2, 1))
    assert (x.group_size, repeated.group_size) == (2, 1)
    assert gap(pattern_rows(x), pattern_rows(repeated)) < 1e-6
    assert gap(head_outputs(pattern_rows(x), x), head_outputs(pattern_rows(repeated), repeated)) < 1e-5


@pytest.mark.parametrize("name", ["plain", "causal", "bool mask", "bool mask per head", "biased mask per head"])
def test_rows_times_values_are_fused_attention(name):
    x = inputs(kv_heads=4, **VARIANTS[name])
    fused = scaled_dot_product_attention(
        x.query, x.key, x.value, attn_mask=x.mask, is_causal=x.causal, scale=x.scaling
    ).transpose(1, 2)
    sees = x.visible().any(-1).transpose(1, 2).expand(-1, -1, HEADS)
    ours = head_outputs(pattern_rows(x), x)
    assert gap(ours[sees], fused[sees]) < 1e-5
    assert not ours[~sees].any()


@EVERY_VARIANT
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("n_groups", [1, D_V, 2 * D_V + 1])
def test_group_mass_is_a_sum_of_rows(options, kv_heads, n_groups, monkeypatch):
    monkeypatch.setattr(mass_module, "_BLOCK_ELEMENTS", 2 * BATCH * HEADS * KEYS)  # blocks of two rows
    x = inputs(kv_heads=kv_heads, **options)
    groups = (noise(BATCH, KEYS, n_groups) > 0).float()
    mass = group_mass(x, groups)
    assert mass.shape == (BATCH, HEADS, QUERIES, n_groups)
    assert gap(mass, pattern_rows(x) @ groups.unsqueeze(1)) < 1e-5


def test_rows_of_half_precision_are_computed_in_float32():
    x = inputs()
    half = replace(x, query=x.query.bfloat16(), key=x.key.bfloat16(), value=x.value.bfloat16())
    exact = replace(half, query=half.query.float(), key=half.key.float(), value=half.value.float())
    assert pattern_rows(half).dtype == torch.float32
    assert torch.equal(pattern_rows(half), pattern_rows(exact))
    double = replace(x, query=x.query.double(), key=x.key.double(), value=x.value.double())
    assert pattern_rows(double).dtype == torch.float64


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 6),
    keys=st.integers(1, 8),
    kv_heads=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
    softcap=st.sampled_from([None, 0.5, 30.0]),
    kind=st.sampled_from(["none", "bool", "float"]),
    strength=st.sampled_from([1e-3, 1.0, 50.0]),
)
@settings(max_examples=80, deadline=None)
def test_rows_sum_to_one_and_hide_hidden_keys(seed, queries, keys, kv_heads, causal, softcap, kind, strength):
    x = inputs(kv_heads=kv_heads, queries=queries, keys=keys, seed=seed, causal=causal, softcap=softcap)
    shown = torch.rand(BATCH, 1, queries, keys, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask = {"none": None, "bool": shown, "float": torch.where(shown, 0.0, LOW)}[kind]
    x = replace(x, query=x.query * strength, mask=mask)
    rows, visible = pattern_rows(x), x.visible().expand(-1, HEADS, -1, -1)
    assert (rows >= 0).all()
    assert not rows[~visible].any()
    assert gap(rows.sum(-1), visible.any(-1).float()) < 1e-5


# -- edits -----------------------------------------------------------------------------------------------------------


def some(*places: tuple[int, int]) -> Tensor:
    """Active at these (sample, query) only."""
    active = torch.zeros(BATCH, QUERIES, dtype=torch.bool)
    for place in places:
        active[place] = True
    return active


EVERYWHERE = torch.ones(BATCH, QUERIES, dtype=torch.bool)


def double(rows: Tensor, columns: Tensor, active: Tensor, visible: Tensor) -> Tensor:
    return rows * 2


def look(rows: Tensor, columns: Tensor, active: Tensor, visible: Tensor) -> Tensor:
    return rows


@EVERY_VARIANT
def test_an_edit_touches_nothing_else_bit_for_bit(options):
    x, out = inputs(**options), noise(BATCH, QUERIES, HEADS, D_V)  # not what the rows give: nothing may be recomputed
    kept = out.clone()
    places = [(0, 3), (1, 3), (1, 5)]
    edited = edit_rows(x, out, [RowEdit((1, 3), some(*places), double)])
    touched = torch.zeros_like(out, dtype=torch.bool)
    for sample, query in places:
        touched[sample, query, [1, 3]] = True
    expected = 2 * head_outputs(pattern_rows(x), x)
    assert gap(edited[touched], expected[touched]) < 1e-4
    assert torch.equal(edited[~touched], kept[~touched])
    assert torch.equal(out, kept)


def test_looking_returns_the_same_tensor():
    x, out = inputs(), noise(BATCH, QUERIES, HEADS, D_V)
    assert edit_rows(x, out, [RowEdit((0, 1), EVERYWHERE, look)]) is out
    assert edit_rows(x, out, [RowEdit((0, 1), some(), double)]) is out
    assert edit_rows(x, out, [RowEdit((), EVERYWHERE, double)]) is out


def test_each_edit_sees_its_own_heads_after_the_edits_before():
    x, out, seen = inputs(causal=True), noise(BATCH, QUERIES, HEADS, D_V), []

    def keep(rows: Tensor, columns: Tensor, active: Tensor, visible: Tensor) -> Tensor:
        seen.append((rows, columns, active, visible))
        return rows

    edits = [
        RowEdit((2, 3), EVERYWHERE, double),
        RowEdit((0, 2), some((0, 4), (1, 6)), keep),
        RowEdit((2,), some((0, 4)), lambda rows, *_: rows + 1),
        RowEdit((2, 3), some((0, 4)), keep),
    ]
    edited = edit_rows(x, out, edits)
    (first, columns, active, visible), (last, *_) = seen
    plain = pattern_rows(x)
    assert columns.tolist() == [4, 6]
    assert active.tolist() == [[True, False], [False, True]]
    assert torch.equal(visible, x.visible()[:, :, [4, 6]])
    assert gap(first, torch.stack([plain[:, 0, [4, 6]], 2 * plain[:, 2, [4, 6]]], 1)) < 1e-6
    assert gap(last[0, 0], 2 * plain[0, 2, [4]] + 1) < 1e-6
    assert gap(last[0, 1], 2 * plain[0, 3, [4]]) < 1e-6
    rows = plain.clone()
    rows[:, 2:] *= 2
    rows[0, 2, 4] += 1
    assert gap(edited[:, :, 2:], head_outputs(rows, x)[:, :, 2:]) < 1e-4
    assert torch.equal(edited[:, :, :2], out[:, :, :2])


def test_what_an_edit_does_to_queries_it_did_not_ask_for_is_dropped():
    x, out = inputs(), noise(BATCH, QUERIES, HEADS, D_V)
    edited = edit_rows(x, out, [RowEdit((0,), some((0, 2)), lambda rows, *_: torch.zeros_like(rows))])
    assert not edited[0, 2, 0].any()
    assert torch.equal(edited[1], out[1])


@EVERY_VARIANT
@pytest.mark.parametrize("rows_at_once", [1, 2, 3])
def test_block_boundaries_change_nothing(options, rows_at_once, monkeypatch):
    x, out = inputs(**options), noise(BATCH, QUERIES, HEADS, D_V)
    sizes: list[int] = []

    def sharpen(rows: Tensor, columns: Tensor, active: Tensor, visible: Tensor) -> Tensor:
        sizes.append(len(columns))
        return rows.square() * (1 + columns[:, None]) * visible

    edits = [
        RowEdit((0, 3), some((0, 0), (0, 4), (1, 5), (1, 6)), sharpen),
        RowEdit((1, 3), EVERYWHERE, double),
    ]
    whole = edit_rows(x, out, edits)
    assert sizes == [4]
    monkeypatch.setattr(edit_module, "BLOCK_ELEMENTS", rows_at_once * BATCH * 3 * KEYS)
    in_blocks = edit_rows(x, out, edits)
    assert len(sizes) > 2
    assert sum(sizes) == 8
    assert gap(in_blocks, whole) < 1e-5
    assert gap(whole, out) > 0.1


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return out


@pytest.mark.parametrize("rows", [slice(-1, None), torch.tensor([0, 700, 1499])])
def test_rows_of_a_long_prompt_never_make_an_n_by_n_tensor(rows):
    n = 1500
    q, k, v = (torch.randn(1, 2, n, 8) for _ in range(3))
    x = AttentionInputs(q, k, v, scaling=0.3, causal=True)
    with _Largest() as seen:
        pattern_rows(x, None, rows)
    assert n <= seen.elements <= 2 * n * 8
    with _Largest() as everything:
        pattern_rows(x)
    assert everything.elements >= n * n


@pytest.mark.parametrize("queries", [slice(None), slice(1, 3)])
def test_an_edit_sees_what_its_own_heads_may_see(queries):
    q, k, v = (torch.randn(1, 4, 5, 8) for _ in range(3))
    mask = torch.rand(1, 4, 5, 5) > 0.4
    mask |= torch.eye(5, dtype=torch.bool)
    x = AttentionInputs(q, k, v, scaling=0.3, mask=mask)
    active = torch.zeros(1, 5, dtype=torch.bool)
    active[:, queries] = True
    seen = []

    def look(rows, columns, active, visible):
        seen.append(visible)
        return rows

    out = head_outputs(pattern_rows(x), x)
    assert edit_rows(x, out, [RowEdit((1, 3), active, look)]) is out
    assert torch.equal(seen[0], mask[:, [1, 3]][:, :, queries])
