"""Attention statistics against the same sums over full patterns, on every kind of decoder and every kind of mask."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headscope import Head, HookedModel, Sample, UsageError, Where
from headscope.costs import Cost, available_memory, require_memory
from headscope.engine import blocks as blocks_module
from headscope.engine.blocks import empty_outputs, pattern_blocks
from headscope.engine.inputs import AttentionInputs
from headscope.engine.mass import group_mass, outputs_and_mass
from headscope.engine.rows import head_outputs, pattern_rows
from headscope.engine.statistics import layer_statistics, layer_sums
from headscope.engine.transposed import suits
from headscope.statistics import AttentionStatistics, StatisticsReader
from tests.headscope import test_hooks
from tests.headscope.test_engine import VARIANTS, _Largest, by_hand, inputs, noise
from tests.headscope.test_hooks import gap, sentence
from tests.tiny import TINY, WINDOW, build

QUERIES, KEYS = 7, 9
words_model = cache(test_hooks.words_model)


def square(n: int = 40, *, seed: int = 0, **options) -> AttentionInputs:
    return inputs(queries=n, keys=n, seed=seed, **options)


def expected(pattern: Tensor, weights: Tensor, tokens: Tensor | None = None) -> dict[str, Tensor]:
    """Every statistic of [batch head query key], straight from its definition."""
    weighted = pattern * weights[:, None, :, None]
    places = torch.arange(pattern.shape[-1])
    offsets = torch.arange(pattern.shape[2])[:, None] - places
    entropy = -torch.special.xlogy(pattern, pattern).sum(-1)
    top = pattern.max(-1)
    found = {
        "column_mass": weighted.sum(2),
        "row_mass": pattern.sum(-1),
        "entropy": entropy,
        "entropy_sum": (entropy * weights[:, None]).sum(-1),
        "top_key": torch.where(top.values > 0, top.indices, -1),
        "distance_mass": torch.stack([weighted.masked_fill(offsets != d, 0).sum((2, 3)) for d in places], -1),
    }
    if tokens is not None:
        same = (tokens[:, :, None] == tokens[:, None]) & (tokens >= 0)[:, :, None]
        after = torch.nn.functional.pad(same[..., :-1], (1, 0))
        found["duplicate_mass"] = (weighted * (same & (offsets > 0))[:, None]).sum((2, 3))
        found["induction_mass"] = (weighted * after[:, None]).sum((2, 3))
    return found


# -- the pass over blocks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("size", [1, 100, 2**19], ids=["rows one by one", "some rows", "one block"])
def test_statistics_are_sums_over_the_pattern(options, kv_heads, size, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", size)
    monkeypatch.setattr(blocks_module, "_LEAST_ROWS", 1)
    x = inputs(kv_heads=kv_heads, **options)
    weights, groups = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1], [1.0] * 7]), (noise(2, KEYS, 3) > 0).float()
    out, found = layer_statistics(x, weights=weights, groups=groups)
    pattern = pattern_rows(x)
    assert gap(out, head_outputs(pattern, x)) < 1e-5
    wanted = expected(pattern, weights)
    for name in ("column_mass", "row_mass", "entropy", "entropy_sum"):
        assert gap(getattr(found, name), wanted[name]) < 1e-5, name
    assert torch.equal(found.top_key, wanted["top_key"])
    assert gap(found.group_mass, pattern @ groups.unsqueeze(1)) < 1e-5
    assert found.distance_mass is found.duplicate_mass is found.induction_mass is None


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 300, 2**19], ids=["rows one by one", "some rows", "one block"])
def test_distances_and_repeated_tokens_are_sums_over_the_pattern(causal, size, monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", size)
    monkeypatch.setattr(blocks_module, "_LEAST_ROWS", 1)
    window = torch.ones(40, 40, dtype=torch.bool).tril().triu(-5)[None, None]
    for x in (square(causal=causal), square(mask=window)):
        tokens = torch.randint(-1, 9, (2, 40), generator=torch.Generator().manual_seed(0))
        weights = (noise(2, 40) > 0).float()
        _, found = layer_statistics(x, weights=weights, distances=True, tokens=tokens)
        wanted = expected(pattern_rows(x), weights, tokens)
        for name in ("column_mass", "distance_mass", "duplicate_mass", "induction_mass"):
            assert gap(getattr(found, name), wanted[name]) < 1e-5, name
        assert wanted["induction_mass"].min() > 0.1


def test_statistics_by_hand():
    """Rows [1/4, 3/4] and [1/2, 1/2]."""
    out, found = layer_statistics(by_hand(), distances=True, tokens=torch.tensor([[7, 7]]))
    assert gap(out.flatten(), torch.tensor([17.5, 15.0])) < 1e-5
    assert gap(found.column_mass.flatten(), torch.tensor([3 / 4, 5 / 4])) < 1e-6
    quarters = math.log(4) - 3 / 4 * math.log(3)
    assert gap(found.entropy.flatten(), torch.tensor([quarters, math.log(2)])) < 1e-6
    assert found.top_key.flatten().tolist() == [1, 0]  # of two equal ones the first
    assert gap(found.distance_mass.flatten(), torch.tensor([3 / 4, 1 / 2])) < 1e-6  # looking ahead is no distance
    assert gap(found.duplicate_mass, torch.tensor([[1 / 2]])) < 1e-6
    assert gap(found.induction_mass, torch.tensor([[5 / 4]])) < 1e-6


@pytest.mark.parametrize("n", [63, 64, 65, 130, 1000])
def test_the_top_key_is_found_wherever_it_stands(n):
    x = inputs(queries=3, keys=n)
    assert torch.equal(layer_statistics(x)[1].top_key, pattern_rows(x).argmax(-1))


@pytest.mark.parametrize(("strength", "dtype"), [(1e-3, torch.float32), (1.0, torch.float32), (300.0, torch.float64)])
def test_outputs_are_those_of_the_fused_kernel(strength, dtype):
    x = square(300, causal=True)
    x = replace(x, query=strength * x.query.to(dtype), key=x.key.to(dtype), value=x.value.to(dtype))
    fused = scaled_dot_product_attention(
        x.query, x.key, x.value, is_causal=True, scale=x.scaling, enable_gqa=True
    ).transpose(1, 2)
    out, found = layer_statistics(x)
    assert gap(out, fused) < 1e-5 * float(fused.abs().max())
    assert found.entropy.isfinite().all()
    assert (found.entropy > -1e-4).all()


def test_a_pass_that_forgets_causality_is_found_out():
    x = square(causal=True)
    out, found = layer_statistics(x)
    loose, forgotten = layer_statistics(replace(x, causal=False))
    assert gap(out, loose) > 0.1
    assert gap(found.column_mass, forgotten.column_mass) > 0.1
    assert gap(found.entropy, forgotten.entropy) > 0.1
    wanted = expected(pattern_rows(x), torch.ones(2, 40))
    assert gap(found.column_mass, wanted["column_mass"]) < 1e-5 < gap(forgotten.column_mass, wanted["column_mass"])


def test_half_precision_is_read_in_float32():
    x = square(causal=True)
    half = replace(x, query=x.query.bfloat16(), key=x.key.bfloat16(), value=x.value.bfloat16())
    out, found = layer_statistics(half)
    assert (out.dtype, found.column_mass.dtype) == (torch.bfloat16, torch.float32)
    assert gap(found.column_mass, expected(pattern_rows(half), torch.ones(2, 40))["column_mass"]) < 1e-5


def test_statistics_of_a_long_prompt_never_make_an_n_by_n_tensor(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 2**15)
    n = 1500
    x = AttentionInputs(*(torch.randn(1, 2, n, 8) for _ in range(3)), scaling=0.3, causal=True)
    tokens, groups = torch.randint(0, 50, (1, n)), torch.ones(1, n, 2)
    with _Largest() as seen:
        layer_statistics(x, distances=True, tokens=tokens, groups=groups)
    # two buffers of a block, or of the fewest rows that a block holds
    assert n * 128 <= seen.elements <= 2 * n * 128 < n * n / 4
    with _Largest() as fused:
        layer_sums(x)
    assert fused.elements < n * 64


def test_a_causal_block_holds_no_key_after_its_last_row(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_ELEMENTS", 500)
    monkeypatch.setattr(blocks_module, "_LEAST_ROWS", 1)
    x = square(60, causal=True)
    blocks = [(block.rows, block.keys) for block in pattern_blocks(x, empty_outputs(x))]
    assert all(keys == slice(0, rows.stop) for rows, keys in blocks)
    assert len(blocks) > 10


# -- fused kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 5, 200])
def test_two_fused_calls_give_what_blocks_give(causal, n):
    x = square(n, causal=causal)
    assert suits(x)
    (out, by_blocks), (fused, found) = layer_statistics(x), layer_sums(x)
    assert gap(fused, out) < 1e-5
    assert gap(found.column_mass, by_blocks.column_mass) < 1e-4 * by_blocks.column_mass.mean()
    assert gap(found.entropy_sum, by_blocks.entropy_sum) < 1e-5 * max(1, n)
    assert gap(found.row_mass, by_blocks.row_mass) < 1e-5


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("plain", "causal")])
def test_masks_caps_and_sinks_are_left_to_blocks(name):
    assert not suits(inputs(**VARIANTS[name]))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_mass_on_groups_comes_with_the_outputs(options):
    x, groups = inputs(**options), (noise(2, KEYS, 4) > 0).float()
    out, mass = outputs_and_mass(x, groups)
    assert gap(out, head_outputs(pattern_rows(x), x)) < 1e-5
    assert gap(mass, group_mass(x, groups)) < 1e-5


# -- models ----------------------------------------------------------------------------------------------------------

LENGTHS = (12, 5, 17)
TEXTS = [sentence(length, seed=seed) for seed, length in enumerate(LENGTHS)]
DECODERS = [name for name, row in TINY.items() if row.kind == "decoder"]


def measured(model: HookedModel, texts=TEXTS, **options) -> AttentionStatistics:
    return model.attention_statistics(texts, distances=True, tokens=True, groups={"ends": (0, -1)}, **options)


@pytest.mark.parametrize("name", DECODERS)
def test_statistics_of_a_model_are_those_of_its_patterns(name):
    model = words_model(name)
    found = measured(model)
    assert found.layers == model.layers()
    for text, sample, pattern in zip(TEXTS, found.samples, model.record(TEXTS, "pattern"), strict=True):
        n = pattern.shape[-1]
        ids = torch.tensor([model.tokens(text).ids])
        wanted = expected(pattern, torch.ones(len(pattern), n), ids.expand(len(pattern), -1))
        for kind in ("column_mass", "entropy", "distance_mass", "duplicate_mass", "induction_mass"):
            assert gap(getattr(sample, kind), wanted[kind]) < 2e-5, kind
        assert torch.equal(sample.top_key, wanted["top_key"])
        assert gap(sample.group_mass[..., 0], pattern[..., [0, -1]].sum(-1)) < 1e-5
        distance = (torch.arange(n)[:, None] - torch.arange(n)) * pattern
        assert gap(sample.mean_distance, distance.sum((2, 3)) / n) < 1e-4
        assert gap(sample.mean_entropy, wanted["entropy"].mean(-1)) < 1e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_statistics_of_a_batch_are_those_one_by_one(name):
    model = words_model(name)
    together, singly = measured(model), [measured(model, [text]) for text in TEXTS]
    for score in together.names:
        if score not in ("duplicate_token", "induction"):  # short texts repeat no token
            alone = torch.cat([one.scores(score).samples for one in singly])
            assert gap(together.scores(score).samples, alone) < 1e-4, score
    for sample, alone in zip(together.samples, singly, strict=True):
        assert torch.equal(sample.top_key, alone.samples[0].top_key)


def test_a_window_bounds_distances():
    for sample in measured(words_model("mistral")).samples:
        assert not sample.distance_mass[..., WINDOW:].any()
        assert (sample.distance_mass[..., : min(WINDOW, sample.n_counted)] > 0).all()


def test_reading_leaves_the_logits_as_they_are():
    model = words_model("llama")
    plain, reader = model.forward(TEXTS).logits, StatisticsReader(Where(), None, [[]] * 3, distances=False)
    with model.hooks(reader):
        read = model.forward(TEXTS)
    assert sorted(reader.kept) == [0, 1]
    assert all(gap(read.of_sample(i), plain[i, -length - 1 :]) < 5e-5 for i, length in enumerate(LENGTHS))
    assert torch.equal(model.forward(TEXTS).logits, plain)


def test_a_layer_that_calls_attention_twice_is_refused():
    model, reader = words_model("llama"), StatisticsReader(Where(), None, [[]] * 3, distances=False)
    with model.hooks(reader):
        model.forward(TEXTS)
        with pytest.raises(UsageError, match="layer 0 of 'text' calls attention several times"):
            model.forward(TEXTS)


def test_queries_and_keys_of_two_sequences_are_refused():
    model = HookedModel(build("bart"))
    with (
        model.hooks(StatisticsReader(Where(stack="cross"), None, [[]] * 2, distances=False)),
        pytest.raises(UsageError, match="'cross' attends from 13 queries to 16 keys"),
    ):
        model.hf(**TINY["bart"].inputs())


def test_later_layers_are_read_on_the_outputs_handed_back():
    """An edit of layer 0 reaches the statistics of layer 1, through outputs that no kernel made."""
    model = words_model("llama")
    edit = test_hooks.Edit("z", Where(layers=(0,)), lambda z, ctx: 0 * z)
    with model.hooks(edit):
        found, pattern = measured(model, TEXTS[:1]).samples[0], model.record(TEXTS[:1], "pattern")[0]
    assert gap(found.column_mass, pattern.sum(2)) < 1e-5
    assert gap(found.column_mass[1], measured(model, TEXTS[:1]).samples[0].column_mass[1]) > 0.01


def test_encoders_are_read_both_ways():
    model = words_model("bert")
    (pattern,) = model.record(TEXTS[:1], "pattern")
    sample = measured(model, TEXTS[:1]).samples[0]
    offsets = torch.arange(pattern.shape[-1])[:, None] - torch.arange(pattern.shape[-1])
    assert gap(sample.mean_distance, (pattern * offsets).sum((2, 3)) / len(offsets)) < 1e-4
    assert gap(sample.distance_mass.sum(-1), (pattern * (offsets >= 0)).sum((2, 3))) < 1e-5


# -- scores ----------------------------------------------------------------------------------------------------------

REPEATED = "w10 w11 w12 w13 w10 w11 w12 w13"  # and <s> before


def test_scores_are_means_over_rows_of_the_pattern():
    model = words_model("llama")
    found, pattern = measured(model, [REPEATED]), model.record([REPEATED], "pattern")[0]
    n, late = 9, torch.arange(5, 9)
    wanted = {
        "first_token": pattern[..., 0].mean(-1),
        "previous_token": pattern.diagonal(-1, 2, 3).mean(-1),
        "local": pattern.triu(-1).sum((2, 3)) / n,
        "duplicate_token": pattern[:, :, late, late - 4].mean(-1),
        "induction": pattern[:, :, late, late - 3].mean(-1),
        "ends": pattern[..., [0, -1]].sum(-1).mean(-1),
    }
    for name, values in wanted.items():
        scores = found.scores(name, within=2)
        assert gap(scores.values, values) < 1e-6, name
        assert scores.meta["model"] == "llama"
    assert found.scores("local", within=2).metric == "attention: local, within 2"
    assert set(found.names) == {*wanted, "entropy", "distance"}


def test_only_counted_queries_enter_sums():
    model, where = words_model("llama"), Where(positions=(2, -1))
    found = measured(model, where=where, rows=False)
    for sample, pattern in zip(found.samples, model.record(TEXTS, "pattern"), strict=True):
        rows = pattern[:, :, [2, -1]]
        assert sample.n_counted == 2
        assert gap(sample.column_mass, rows.sum(2)) < 1e-5
        assert gap(sample.mean_entropy, -torch.special.xlogy(rows, rows).sum(-1).mean(-1)) < 1e-5
        assert sample.entropy is sample.top_key is None


def test_layers_that_were_not_read_have_no_scores():
    found = words_model("llama").attention_statistics(TEXTS, where=Where(layers=(1,)))
    assert found.layers == (1,)
    assert found.scores("first_token").heads == tuple(Head(1, head) for head in range(4))


def test_what_was_not_measured_is_refused():
    found = words_model("llama").attention_statistics(TEXTS)
    with pytest.raises(UsageError, match=r"'induction' was not measured; there are first_token, entropy, distance\. "):
        found.scores("induction")
    with pytest.raises(UsageError, match="no counted query of sample 0 holds a token that stood there before"):
        measured(words_model("llama"), ["w10 w11"]).scores("induction")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": Where(heads=(Head(0, 1),))}, "all heads of a layer; name layers"),
        ({"where": Where(layers=())}, "names no layer"),
        ({"where": Where(positions=(40,))}, "no query of a sample is counted"),
        ({"groups": {"a": (90,)}}, r"group 'a' names places \[90\]"),
    ],
)
def test_requests_for_nothing_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        words_model("llama").attention_statistics(TEXTS, **options)


def test_no_samples_are_refused():
    with pytest.raises(UsageError, match="of no samples"):
        words_model("llama").attention_statistics([])


# -- cost ------------------------------------------------------------------------------------------------------------


def test_cost_grows_with_what_is_asked():
    model = words_model("llama")
    plain, more = (model.statistics_cost(TEXTS, **options) for options in ({}, {"tokens": True, "distances": True}))
    longer = model.statistics_cost([Sample(sentence(200))])
    assert 1 < plain.forwards < more.forwards < 3
    assert plain.bytes < more.bytes
    assert plain.forwards < longer.forwards
    assert str(Cost(1.25, 3 * 2**30)) == "about 1.2 x the time of plain forward passes and 3.0 GB of memory more"


def test_what_does_not_fit_in_memory_is_refused():
    free = available_memory(torch.device("cpu"))
    if free is None:
        pytest.skip("this system does not say how much memory is available")
    require_memory(Cost(1.0, free // 2), torch.device("cpu"), "")
    with pytest.raises(UsageError, match=r"needs \d+\.\d GB of memory and cpu has .* free; give fewer samples"):
        require_memory(Cost(1.0, 4 * free), torch.device("cpu"), "give fewer samples")
