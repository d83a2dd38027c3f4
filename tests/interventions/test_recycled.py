"""Full steps choose keys, the steps between keep to them, and the next prompt chooses its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from headscope import HookedModel, Record, UsageError, Where
from headscope.prompting import Prompt
from interventions.recycled import RecycledAttention, _ChooseKeys, _HideOthers
from tests.headscope.test_hooks import gap, sentence, words_model

TEXTS = (sentence(15, seed=1), sentence(10, seed=2))  # 16 and 11 tokens
EVERY, KEEP, STEPS = 3, 6, 8


@pytest.fixture(scope="module")
def models() -> dict[str, HookedModel]:
    return {name: words_model(name) for name in ("llama", "mistral")}


def patterns(model: HookedModel, texts: Sequence[str], *hooks: Any, layer: int = 0) -> list[Tensor]:
    seen = Record("pattern", Where(layers=(layer,)))
    with model.hooks(*hooks, seen):
        model.generate(list(texts), max_new_tokens=STEPS)
    return seen.seen[layer]


def test_steps_between_see_the_chosen_keys_and_those_since(models):
    calls = patterns(models["llama"], TEXTS[:1], RecycledAttention(KEEP, EVERY))
    assert calls[0][0].gt(0).sum(-1).tolist() == [[row + 1 for row in range(16)]] * 4  # the prompt is read in full
    last = calls[0][0, :, -1]
    for step, call in enumerate(calls[1:], 1):
        row, since = call[0, :, 0], step % EVERY
        seen = row > 0
        assert gap(row.sum(-1), torch.ones(4)) < 1e-6
        if since == 0:
            assert seen.all()
            last = row
            continue
        assert seen.sum(-1).tolist() == [KEEP] * 4
        for group in range(2):  # two heads share a key head
            mass = last[2 * group : 2 * group + 2].sum(0)
            best = mass.topk(KEEP - since).indices.sort().values.tolist()
            expected = best + list(range(len(mass), len(mass) + since))
            for head in (2 * group, 2 * group + 1):
                assert seen[head].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_padded_batch_equals_its_samples_alone(models, name):
    recycled = RecycledAttention(4, EVERY)
    together = patterns(models[name], TEXTS, recycled, layer=1)
    for i, text in enumerate(TEXTS):
        for batch, alone in zip(together, patterns(models[name], [text], recycled, layer=1), strict=True):
            assert gap(batch[i, :, -alone.shape[2] :, -alone.shape[3] :], alone[0]) < 1e-5


def test_full_steps_only_or_enough_keys_change_nothing(models):
    plain = patterns(models["llama"], TEXTS[:1], layer=1)
    for same in (RecycledAttention(1, 1), RecycledAttention(40, EVERY)):
        assert max(map(gap, patterns(models["llama"], TEXTS[:1], same, layer=1), plain)) < 1e-6


def test_layers_not_asked_for_see_everything(models):
    recycled = RecycledAttention(KEEP, EVERY, layers=[1])
    assert all(call.gt(0)[:, :, -1].all() for call in patterns(models["llama"], TEXTS[:1], recycled))
    assert not patterns(models["llama"], TEXTS[:1], recycled, layer=1)[1].gt(0).all()


def leaks(model: HookedModel, make: Callable[[], Any]) -> bool:
    """Whether what a prompt gives depends on the prompt that was read before it."""
    alone = patterns(model, TEXTS[1:], make())
    seen = Record("pattern", Where(layers=(0,)))
    with model.hooks(make(), seen):
        for text in TEXTS:
            model.generate(text, max_new_tokens=STEPS)
    return any(gap(a, b) > 1e-3 for a, b in zip(seen.seen[0][STEPS:], alone, strict=True))


def test_nothing_is_carried_from_one_prompt_to_the_next(models):
    assert not leaks(models["llama"], lambda: RecycledAttention(KEEP, EVERY))


def test_state_kept_in_a_class_would_be_found_out(models):
    def made() -> RecycledAttention:
        @dataclass(frozen=True)
        class Leaking(RecycledAttention):
            chosen: ClassVar[dict] = {}

            def begin(self, prompt: Prompt) -> Sequence[Any]:
                """Steps are counted from the first prompt's answer on."""
                return [_ChooseKeys(self, self.chosen), _HideOthers(self, self.chosen)]

        return Leaking(KEEP, EVERY)

    assert leaks(models["llama"], made)


@pytest.mark.parametrize(("keep", "every"), [(5, 0), (4, 5)])
def test_numbers_that_make_no_sense_are_refused(keep, every):
    with pytest.raises(UsageError, match=f"{keep} keys are to be kept and chosen anew every {every} steps"):
        RecycledAttention(keep, every)


def test_layers_that_do_not_exist_are_refused(models):
    with pytest.raises(UsageError, match=r"layers \[7\] asked for"):
        patterns(models["llama"], TEXTS[:1], RecycledAttention(layers=[7]))
