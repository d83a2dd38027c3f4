"""Operators are asked once a prompt, act until the next one, and carry nothing over."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from headscope import HookedModel, Record, UsageError, Where
from headscope.prompting import Prompt
from tests.headscope.test_hooks import added, gap, hooked, scaled, under
from tests.test_tiny import prediction
from tests.tiny import TINY, prompt


@dataclass(frozen=True)
class ByFirstToken:
    """Adds to z a number that depends on the prompt's first token; keeps what it was asked."""

    asked: list[Prompt] = field(default_factory=list, compare=False)
    ready: bool = False

    def prepared(self, model: HookedModel) -> "ByFirstToken":
        return replace(self, ready=True)

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        assert self.ready
        self.asked.append(prompt)
        return [added(prompt.inputs["input_ids"][0, 0].item() / 100)]


def number(inputs: dict) -> float:
    return inputs["input_ids"][0, 0].item() / 100


def test_an_operator_is_asked_for_every_prompt_anew():
    model, first, second = hooked("llama"), prompt(seed=1), prompt(seed=2)
    assert number(first) != number(second)
    operator = ByFirstToken()
    with model.hooks(operator):
        for inputs in (first, second, first):
            ours = prediction(model.hf, inputs)
            assert torch.equal(ours, under(hooked("llama"), inputs, added(number(inputs))))
    assert len(operator.asked) == 3
    assert torch.equal(prediction(model.hf, first), prediction(hooked("llama").hf, first))


def test_its_hooks_hold_for_the_whole_continuation():
    model, inputs = hooked("llama"), prompt(seed=3)
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    operator = ByFirstToken()
    with model.hooks(operator):
        ours = model.hf.generate(**inputs, **options)
    with model.hooks(added(number(inputs))):
        theirs = model.hf.generate(**inputs, **options)
    assert len(operator.asked) == 1
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


def test_operators_and_plain_hooks_act_in_the_order_given():
    model, inputs = hooked("llama"), prompt(seed=4)
    amount = number(inputs)
    before = under(model, inputs, scaled(0.5), ByFirstToken())
    after = under(model, inputs, ByFirstToken(), scaled(0.5))
    assert torch.equal(before, under(model, inputs, scaled(0.5), added(amount)))
    assert torch.equal(after, under(model, inputs, added(amount), scaled(0.5)))
    assert gap(before, after) > 1e-3


@dataclass(frozen=True)
class ScaleByNorm:
    """Runs the prompt once more, and scales by what it saw of z there."""

    seen: list[float] = field(default_factory=list, compare=False)

    def prepared(self, model: HookedModel) -> "ScaleByNorm":
        return self

    def begin(self, prompt: Prompt) -> Sequence[Any]:
        record = Record("z", Where(layers=(0,)))
        prompt.run({"input_ids": prompt.inputs["input_ids"]}, record)
        self.seen.append(record.seen[0][0].norm().item())
        return [scaled(0.9)]


def test_a_pass_of_an_operator_sees_what_stands_before_it_and_nothing_else():
    model, inputs = hooked("llama"), prompt(seed=5)
    alone, behind, ahead = ScaleByNorm(), ScaleByNorm(), ScaleByNorm()
    under(model, inputs, alone)
    under(model, inputs, scaled(3.0), behind)
    under(model, inputs, ahead, scaled(3.0))
    assert behind.seen[0] == pytest.approx(3 * alone.seen[0], rel=1e-5)
    assert ahead.seen == alone.seen


def test_operators_before_an_operator_are_asked_in_its_pass_too():
    model, inputs = hooked("llama"), prompt(seed=6)
    first, second = ByFirstToken(), ScaleByNorm()
    ours = under(model, inputs, first, second)
    assert len(first.asked) == 2  # for the pass of the second, and for the prompt itself
    assert torch.equal(ours, under(model, inputs, added(number(inputs)), scaled(0.9)))


def test_the_pass_of_an_operator_leaves_places_and_caches_of_the_prompt_alone():
    model, inputs = hooked("llama"), prompt(12, seed=7)
    record = Record("z", Where(layers=(1,), positions=(-1,)))
    with model.hooks(ScaleByNorm(), record):
        model.hf.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert [tuple(z.shape[:2]) for z in record.seen[1]] == [(1, 1)]


def test_an_exception_in_begin_leaves_the_model_as_it_was():
    @dataclass(frozen=True)
    class Broken:
        def prepared(self, model: HookedModel) -> "Broken":
            return self

        def begin(self, prompt: Prompt) -> Sequence[Any]:
            raise RuntimeError("no")

    model, inputs = hooked("llama"), prompt(seed=8)
    plain = prediction(model.hf, inputs)
    with pytest.raises(RuntimeError, match="no"):
        under(model, inputs, Broken())
    assert torch.equal(prediction(model.hf, inputs), plain)
    assert not model.hf._forward_pre_hooks
    assert torch.equal(under(model, inputs, ByFirstToken()), under(model, inputs, added(number(inputs))))


def test_a_cache_filled_before_is_refused():
    model, inputs = hooked("llama"), prompt(seed=9)
    cache = model.hf(**inputs, use_cache=True).past_key_values
    with model.hooks(ByFirstToken()), pytest.raises(UsageError, match="must see the prompt"):
        model.hf(input_ids=torch.tensor([[20]]), past_key_values=cache)


def test_the_prompt_says_which_columns_are_image_tokens():
    inputs = TINY["llava"].inputs()
    operator = ByFirstToken()
    under(hooked("llava"), inputs, operator)
    assert torch.equal(operator.asked[0].image, inputs["input_ids"] == 5)
    text = ByFirstToken()
    under(hooked("llama"), prompt(), text)
    assert text.asked[0].image is None


def test_unhooked_is_without_hooks_and_puts_them_back():
    model, inputs = hooked("llama"), prompt(seed=10)
    plain = prediction(model.hf, inputs)
    with model.hooks(scaled(2.0)):
        edited = prediction(model.hf, inputs)
        with model.unhooked():
            assert torch.equal(prediction(model.hf, inputs), plain)
        assert torch.equal(prediction(model.hf, inputs), edited)
    assert gap(plain, edited) > 1e-3
