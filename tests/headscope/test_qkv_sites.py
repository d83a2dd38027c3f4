"""Edits of queries, keys and values, on every decoder, against eager attention that is handed the same edited tensors."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from unittest import mock

import pytest
import torch
from torch import Tensor

from headscope import Context, Head, HookedModel, Record, UsageError, Where
from headscope.engine.inputs import AttentionInputs
from headscope.hooks import Site
from tests.eager import eager_copy
from tests.headscope import test_hooks
from tests.headscope.test_architectures import EFFECT, equal, kinds, middle
from tests.headscope.test_hooks import Edit, gap, scaled, sentence, under, words_model
from tests.test_tiny import prediction
from tests.tiny import TINY, left_padded, prompt

hooked = cache(test_hooks.hooked)

SITES: tuple[Site, ...] = ("q", "k", "v")
EVERY_SITE = pytest.mark.parametrize("site", SITES)
CACHED = ("llama", "mistral", "gemma2", "gpt_oss", "gpt2", "deepseek_v3")


class Seen:
    """A reader that keeps the inputs of one layer's attention."""

    def __init__(self, layer: int) -> None:
        self.where, self.inputs = Where(layers=(layer,)), []

    def read(self, x: AttentionInputs, ctx: Context) -> None:
        self.inputs.append(x)


def by_place(act: Tensor, ctx: Context) -> Tensor:
    """Another factor and sign at every place and in every dimension."""
    return act * torch.cos(ctx.positions[..., None, None] + torch.arange(act.shape[-1]))


@contextmanager
def eager_edit(model, name: str, site: Site, heads: list[int], places: list[int]) -> Iterator[None]:
    """transformers' own eager attention of one module, its input edited as `by_place` does, before anything else."""
    module = model.get_submodule(name)
    argument = SITES.index(site)

    def wrapped(original):
        def attention(called, query, key, value, *args, **kwargs):
            inputs = [query, key, value]
            if called is module:
                act = inputs[argument].clone()  # [batch head place d]
                for head in heads:
                    for place in places:
                        act[:, head, place] *= torch.cos(place + torch.arange(act.shape[-1]))
                inputs[argument] = act
            return original(called, *inputs, *args, **kwargs)

        return attention

    with ExitStack() as stack:
        for namespace in {sys.modules[type(part).__module__] for part in model.modules()}:
            if hasattr(namespace, "eager_attention_forward"):
                edited = wrapped(namespace.eager_attention_forward)
                stack.enter_context(mock.patch.object(namespace, "eager_attention_forward", edited))
        yield


# -- every decoder ---------------------------------------------------------------------------------------------------


@EVERY_SITE
@kinds("decoder")
def test_an_edit_is_the_edit_of_what_eager_attention_is_given(name, site):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = middle(model, "text")
    place = next(one for one in model.sites_of() if one.layer == layer)
    eager = eager_copy(model.hf)
    edit = Edit(site, Where(heads=(Head(layer, 3),), positions=(1, 4)), by_place)
    shared = 3 if site == "q" else 3 * place.n_kv_heads // place.n_heads
    with eager_edit(eager, place.name, site, [shared], [1, 4]):
        theirs = prediction(eager, inputs)
    ours = under(model, inputs, edit)
    assert gap(ours, prediction(model.hf, inputs)) > EFFECT
    assert equal(ours, theirs)


@EVERY_SITE
@kinds("decoder", "vlm")
def test_an_edit_that_changes_nothing_changes_nothing(name, site):
    model, inputs = hooked(name), TINY[name].inputs()
    assert (
        gap(under(model, inputs, Edit(site, Where(), lambda act, ctx: act.clone())), prediction(model.hf, inputs)) == 0
    )


@kinds("decoder")
def test_what_is_recorded_is_what_attention_is_computed_of(name):
    model, inputs = hooked(name), TINY[name].inputs()
    layer = middle(model, "text")
    records, seen = [Record(site, Where(layers=(layer,))) for site in SITES], Seen(layer)
    under(model, inputs, *records, seen)
    (x,) = seen.inputs
    for record, expected in zip(records, (x.query, x.key, x.value), strict=True):
        assert torch.equal(record.seen[layer][0], expected.transpose(1, 2))


# -- order and reach -------------------------------------------------------------------------------------------------


def test_readers_and_rows_see_the_edited_inputs_in_any_order():
    model, inputs = hooked("llama"), prompt(8)
    none = Edit("q", Where(layers=(0,)), lambda act, ctx: torch.zeros_like(act))
    seen, rows = Seen(0), Record("pattern", Where(layers=(0,)))
    under(model, inputs, rows, seen, none)
    assert not seen.inputs[0].query.any()
    expected = torch.ones(8, 8).tril() / torch.arange(1, 9)[:, None]
    assert gap(rows.seen[0][0], expected.expand(1, 4, 8, 8)) < 1e-6  # no query, no preference


def test_edits_of_one_site_follow_each_other():
    model, inputs = hooked("llama"), prompt(8)
    twice = under(model, inputs, scaled(0.5, site="q"), scaled(3.0, site="q"))
    assert gap(twice, under(model, inputs, scaled(1.5, site="q"))) < 1e-5
    assert gap(twice, prediction(model.hf, inputs)) > EFFECT


@pytest.mark.parametrize("site", ["k", "v"])
def test_heads_that_share_keys_share_the_edit(site):
    model, inputs = hooked("llama"), prompt(8)  # 4 heads, 2 key heads
    plain, edited = Record("z", Where(layers=(0,))), Record("z", Where(layers=(0,)))
    under(model, inputs, plain)
    under(model, inputs, Edit(site, Where(heads=(Head(0, 2),)), by_place), edited)
    moved = (edited.seen[0][0] - plain.seen[0][0]).abs().amax((0, 1, 3))
    assert moved[:2].max() == 0
    assert moved[2:].min() > EFFECT
    both = Edit(site, Where(heads=(Head(0, 2), Head(0, 3))), by_place)  # once, not twice
    assert torch.equal(
        under(model, inputs, Edit(site, Where(heads=(Head(0, 2),)), by_place)), under(model, inputs, both)
    )


def test_a_query_edit_reaches_its_head_and_place_alone():
    model, inputs = hooked("llama"), prompt(8)
    plain, edited = Record("z", Where(layers=(0,))), Record("z", Where(layers=(0,)))
    under(model, inputs, plain)
    under(model, inputs, Edit("q", Where(heads=(Head(0, 2),), positions=(5,)), by_place), edited)
    moved = (edited.seen[0][0] - plain.seen[0][0]).abs().amax((0, 3))
    assert moved[5, 2] > EFFECT
    moved[5, 2] = 0
    assert moved.max() == 0


def test_values_times_a_number_are_outputs_times_it():
    model, inputs = hooked("gpt2"), prompt(8)
    heads = Where(heads=(Head(0, 1), Head(1, 3)))
    ours = under(model, inputs, scaled(0.3, heads, "v"))
    assert gap(ours, under(model, inputs, scaled(0.3, heads, "z"))) < 1e-5
    assert gap(ours, prediction(model.hf, inputs)) > EFFECT


# -- batches and caches ----------------------------------------------------------------------------------------------


@EVERY_SITE
@pytest.mark.parametrize("name", CACHED)
def test_a_padded_batch_equals_its_samples(name, site):
    model, edit = words_model(name), Edit(site, Where(positions=(1, -2)), by_place)
    texts = (sentence(11, seed=1), sentence(6, seed=2))
    with model.hooks(edit):
        together = model.forward(texts)
        for i, text in enumerate(texts):
            assert gap(together.of_sample(i), model.forward([text]).of_sample(0)) < 5e-5
    assert gap(together.logits, model.forward(texts).logits) > EFFECT


@EVERY_SITE
@pytest.mark.parametrize("name", CACHED)
def test_edits_hold_for_what_is_in_the_cache(name, site):
    """Keys of the prompt are edited in every decoding step: the logits of a cached answer are those of one full pass."""
    model = hooked(name)
    inputs: Mapping[str, Tensor] = left_padded(prompt(12, seed=1), prompt(8, seed=2))
    edit = Edit(site, Where(), by_place)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with model.hooks(edit), torch.no_grad():
        written = model.hf.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 4, dtype=torch.long)], 1)
        whole = {"input_ids": written.sequences, "attention_mask": mask}
        full = model.hf(**whole, **model.positions_of(mask), use_cache=False).logits
    assert gap(torch.stack(written.logits, 1), full[:, 11:-1]) < 1e-4


def test_the_cache_itself_is_left_as_it_was():
    model, inputs = hooked("llama"), prompt(8)
    with torch.no_grad():
        plain = model.hf(**inputs).past_key_values
        with model.hooks(Edit("k", Where(layers=(0,)), by_place)):
            edited = model.hf(**inputs).past_key_values
    assert torch.equal(plain.layers[0].keys, edited.layers[0].keys)
    assert gap(plain.layers[1].keys, edited.layers[1].keys) > EFFECT


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["k", "v"])
def test_keys_have_no_phase(site):
    model = hooked("llama")
    with (
        pytest.raises(UsageError, match=f"acts on '{site}' in phase 'decode', .*name positions instead"),
        model.hooks(Record(site, Where(phase="decode"))),
    ):
        pass
    assert gap(prediction(model.hf, prompt()), prediction(HookedModel(model.hf).hf, prompt())) == 0


def test_queries_have_a_phase():
    model, record = words_model(), Record("q", Where(phase="decode", layers=(0,)))
    with model.hooks(record):
        model.generate(sentence(6), max_new_tokens=3)
    assert [act.shape[1] for act in record.seen[0]] == [1, 1, 1]
