"""ACT lowers sinks by exactly its share, in prefill and in cached decoding, and knows nothing of the prompt before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from headscope import HookedModel, Record, UsageError, Where
from headscope.draws import draw_heads
from headscope.prompting import Prompt
from interventions.act import ACT, _AddUp, _Calibrate, calibrate, default_layers
from interventions.columns import ColumnMeans
from tests.headscope.test_hooks import gap, sentence, words_model
from tests.interventions.sinking import LAYERS, SINK, sinking
from tests.tiny import WINDOW

PROMPT = f"f1 f2 {SINK} f3 f4 f5 f6 f7 f8 f9 f10"  # the sink is at place 3, behind <s>
OTHER = f"f3 {SINK} f4 f5 f6 f7 f8 f9 f10 f11"  # no longer than the other, and the sink at place 2
PLACE = 3
LOW = {"threshold": 0.15, "variant": "released", "min_queries": 3}


@pytest.fixture(scope="module")
def sunk() -> HookedModel:
    return sinking()


@pytest.fixture(scope="module")
def models() -> dict[str, HookedModel]:
    return {name: words_model(name) for name in ("llama", "mistral", "gpt_oss")}


@pytest.fixture
def unchecked(monkeypatch):
    """The tests' type checker would refuse unknown names before headscope can."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def rows(model: HookedModel, texts: Sequence[str], layer: int, *hooks: Any, steps: int = 1) -> list[Tensor]:
    """Patterns [sample head query key] of a layer behind the hooks, in every call of a generation."""
    seen = Record("pattern", Where(layers=(layer,)))
    with model.hooks(*hooks, seen):
        model.generate(list(texts), max_new_tokens=steps)
    return seen.seen[layer]


# -- the maths -------------------------------------------------------------------------------------------------------


def cases() -> list[tuple[Tensor, ...]]:
    found = load_file(Path(__file__).parent / "parity" / "act.safetensors")
    return [tuple(found[f"{i:02}.{part}"] for part in ("pattern", "params", "expected")) for i in range(12)]


@pytest.mark.parametrize("case", range(12))
def test_calibrate_equals_the_released_code(case):
    pattern, params, expected = cases()[case]
    beta, threshold = params.tolist()
    assert gap(pattern, expected) > 0.1
    assert gap(calibrate(pattern, beta=beta, threshold=threshold), expected) < 1e-6


HAND = torch.tensor([[[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.6, 0.2, 0], [0.1, 0.7, 0.1, 0.1]]])


def test_a_case_by_hand():
    # Means are .45, .60, .15 and .10: the second key is a sink, the first would be but is spared.
    third = 0.35 / 3
    expected = torch.tensor(
        [[[1, 0, 0, 0], [0.75, 0.25, 0, 0], [0.35, 0.3, 0.35, 0], [0.1 + third, 0.35, 0.1 + third, 0.1 + third]]]
    )
    assert gap(calibrate(HAND, beta=0.5, threshold=0.4), expected) < 1e-6
    assert torch.equal(calibrate(HAND, beta=0.5, threshold=0.61), HAND)
    assert gap(calibrate(HAND, beta=1.0, threshold=0.4), HAND) == 0


def test_the_first_token_is_spared_by_its_place_not_as_the_first_that_is_found():
    pattern = torch.tensor([[[1, 0, 0, 0], [0.1, 0.9, 0, 0], [0.1, 0.8, 0.1, 0], [0.1, 0.7, 0.1, 0.1]]])
    pattern[0, 0, 0] = 0.3  # a mean of .15, below the limit: the key found first is the second
    after = calibrate(pattern, beta=0.5, threshold=0.4)
    assert after[0, 1:, 1].tolist() == pytest.approx([0.45, 0.4, 0.35])


def test_a_row_with_nothing_but_sinks_is_left_alone():
    pattern = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert torch.equal(calibrate(pattern, beta=0.4, threshold=0.1), pattern)


# -- a sink that was planted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("beta", [0.4, 0.0])
def test_a_planted_sink_keeps_exactly_its_share(sunk, variant, beta):
    # Its mean is about .68, that of key 1, which two rows share out evenly among few keys, about .2.
    act = ACT(heads="L2H0", variant=variant, beta=beta, threshold=0.4)
    before, after = rows(sunk, [PROMPT], 2), rows(sunk, [PROMPT], 2, act)
    plain, edited = before[0][0, 0], after[0][0, 0]
    assert plain[PLACE:, PLACE].min() > 0.5
    assert gap(edited[PLACE:, PLACE], beta * plain[PLACE:, PLACE]) < 1e-6
    assert gap(edited.sum(-1), torch.ones(len(edited))) < 1e-6
    others = [place for place in range(6) if place != PLACE]  # few queries see those at the end
    ratio = edited[6:, others] / plain[6:, others]
    assert gap(ratio, ratio[:, :1].expand_as(ratio)) < 1e-5  # what is freed goes to all, in proportion
    assert (ratio > 1.1).all()
    assert torch.equal(after[0][:, 1:], before[0][:, 1:])


def test_by_default_all_layers_but_the_first_two_and_the_last_are_calibrated(sunk):
    touched = []
    for layer in range(LAYERS):
        plain, edited = rows(sunk, [PROMPT], layer)[0], rows(sunk, [PROMPT], layer, ACT())[0]
        touched.append(gap(plain, edited) > 0.1)
    assert touched == [False, False, True, True, False]
    assert default_layers(range(32)) == tuple(range(2, 31))
    assert gap(rows(sunk, [PROMPT], 0, ACT(layers=[0]))[0], rows(sunk, [PROMPT], 0)[0]) > 0.1


def test_the_limit_of_the_paper_goes_with_the_length_and_the_released_one_does_not(sunk):
    def lowered(act: ACT) -> bool:
        return gap(rows(sunk, [PROMPT], 2, act)[0], rows(sunk, [PROMPT], 2)[0]) > 0.1

    # 12 tokens, and the sink's mean is about .68
    assert [lowered(ACT("L2H0", alpha=alpha)) for alpha in (5, 7.5, 9)] == [True, True, False]
    assert [lowered(ACT("L2H0", "released", threshold=at)) for at in (0.1, 0.6, 0.8)] == [True, True, False]


# -- decoding --------------------------------------------------------------------------------------------------------


def test_in_cached_decoding_sinks_stay_low_and_rows_sum_to_one(sunk):
    plain = Record("pattern", Where(layers=(2,)))  # in front of ACT, so that it sees rows of the same pass
    edited = rows(sunk, [PROMPT], 2, plain, ACT("L2H0"), steps=5)
    assert [call.shape[2] for call in edited] == [12, 1, 1, 1, 1]
    for before, after in zip(plain.seen[2], edited, strict=True):
        assert gap(after.sum(-1), torch.ones(after.shape[:-1])) < 1e-6
        assert after[0, 0, -1, PLACE] == pytest.approx(0.4 * before[0, 0, -1, PLACE].item(), rel=1e-4)


def last_logits(model: HookedModel, text: str, act: Any, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Next-token logits under an operator: step by step with a cache, and each time for the whole text at once."""
    ids, cached, whole = torch.tensor([model.tokens(text).ids]), [], []
    with torch.no_grad(), model.hooks(act):
        out = model.hf(input_ids=ids, use_cache=True)
        for _ in range(steps):
            cached.append(out.logits[0, -1])
            newest = out.logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, newest], 1)
            out = model.hf(input_ids=newest, past_key_values=out.past_key_values, use_cache=True)
    with torch.no_grad(), model.hooks(act):
        for length in range(ids.shape[1] - steps, ids.shape[1]):
            whole.append(model.hf(input_ids=ids[:, :length]).logits[0, -1])
    return cached, whole


def test_cached_decoding_equals_the_whole_text_where_the_sinks_are_the_same(sunk):
    cached, whole = last_logits(sunk, PROMPT, ACT(), 6)
    assert max(map(gap, cached, whole)) < 1e-4


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_cached_decoding_equals_the_whole_text_in_the_last_layer_whatever_is_a_sink(models, name):
    act = ACT(layers=[1], beta=0.0, **LOW)
    cached, whole = last_logits(models[name], sentence(11, seed=1), act, 8)
    plain, _ = last_logits(models[name], sentence(11, seed=1), Record("z"), 1)
    assert gap(cached[0], plain[0]) > 1e-2
    assert max(map(gap, cached, whole)) < 1e-4


def test_means_of_the_newest_row_alone_would_not(models):
    @dataclass(frozen=True)
    class NewestOnly(ACT):
        def begin(self, prompt: Prompt) -> Sequence[Any]:
            return [_Forget(columns := {}), _AddUp(self, columns), _Calibrate(self, columns)]

    @dataclass(frozen=True)
    class _Forget:
        columns: dict = field(compare=False)
        where: Where = field(default_factory=Where)

        def read(self, x: Any, ctx: Any) -> None:
            self.columns.clear()

    act = NewestOnly(layers=(1,), beta=0.0, variant="released", threshold=0.15)
    cached, whole = last_logits(models["llama"], sentence(11, seed=1), act, 8)
    assert max(map(gap, cached, whole)) > 1e-2


def test_a_place_computed_twice_is_refused(sunk):
    ids = torch.tensor([sunk.tokens(PROMPT).ids])
    with torch.no_grad(), sunk.hooks(ACT()):
        cache = sunk.hf(input_ids=ids, use_cache=True).past_key_values
        cache.crop(-4)
        with pytest.raises(UsageError, match=r"place 8 of a sample is computed a second time.*with a new cache"):
            sunk.hf(input_ids=ids[:, 8:], past_key_values=cache)


# -- batches, windows, blocks, prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize("lowers", ["sinks", "random"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_a_padded_batch_equals_its_samples_alone(models, name, lowers):
    model, texts = models[name], [sentence(14, seed=1), sentence(9, seed=2)]
    act = ACT(layers=[0, 1], lowers=lowers, **LOW)
    together = rows(model, texts, 1, act, steps=4)
    for i, text in enumerate(texts):
        alone = rows(model, [text], 1, act, steps=4)
        assert gap(alone[0], rows(model, [text], 1)[0]) > 0.05
        for batch, single in zip(together, alone, strict=True):
            n_rows, n_keys = single.shape[2:]
            assert gap(batch[i, :, -n_rows:, -n_keys:], single[0]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_rows_keep_their_sum_in_prefill_and_decode(models, name):
    plain = Record("pattern", Where(layers=(0,)))
    edited = rows(models[name], [sentence(14, seed=1)], 0, plain, ACT(layers=[0], beta=0.2, **LOW), steps=5)
    for before, after in zip(plain.seen[0], edited, strict=True):
        assert gap(before, after) > 0.05
        assert gap(before.sum(-1), after.sum(-1)) < 1e-5  # less than one where a learned sink takes its part


@pytest.mark.parametrize(("name", "window"), [("llama", 99), ("mistral", WINDOW)])
def test_means_are_over_the_queries_that_see_a_key(models, name, window):
    text, columns = sentence(14, seed=3), {}

    @dataclass(frozen=True)
    class Watched(ACT):
        def begin(self, prompt: Prompt) -> Sequence[Any]:
            return [_AddUp(self, columns)]

    model = models[name]
    full = rows(model, [text], 0)[0][0]
    with model.hooks(Watched(layers=(0,))):
        model.generate(text, max_new_tokens=1)
    found: ColumnMeans = columns[0]
    for key in range(15):
        queries = range(key, min(15, key + window))
        assert gap(found.mean[0, :, key], full[:, list(queries), key].mean(1)) < 1e-5
        assert found.queries[0, :, key].tolist() == [len(queries)]
    assert found.widest.tolist() == [min(15, window)]


def test_small_blocks_of_rows_give_the_same(models, monkeypatch):
    act, texts = ACT(layers=[0, 1], **LOW), [sentence(14, seed=1), sentence(9, seed=2)]
    at_once = rows(models["llama"], texts, 1, act)[0]
    monkeypatch.setattr("interventions.columns.BLOCK_ELEMENTS", 500)
    assert gap(rows(models["llama"], texts, 1, act)[0], at_once) < 1e-6


def test_keys_that_few_queries_have_seen_are_no_sinks(models):
    def lowered(**options: Any) -> Tensor:
        act = ACT(layers=[1], variant="released", threshold=0.2, **options)
        before, after = (rows(models["llama"], [sentence(14, seed=1)], 1, *hooks)[0][0] for hooks in ((), (act,)))
        return (after < before - 1e-6).any(0).any(0)  # [key]

    assert lowered()[-3:].any()
    guarded = lowered(min_queries=4)
    assert not guarded[-3:].any()
    assert guarded[:-3].any()


def leaks(model: HookedModel, make: Callable[[], Any]) -> bool:
    """Whether what a prompt gives depends on the prompt that was read before it."""
    alone = rows(model, [OTHER], 2, make(), steps=3)
    seen = Record("pattern", Where(layers=(2,)))
    with model.hooks(make(), seen):
        for text in (PROMPT, OTHER):
            model.generate(text, max_new_tokens=3)
    return any(gap(a, b) > 1e-3 for a, b in zip(seen.seen[2][3:], alone, strict=True))


def test_nothing_is_carried_from_one_prompt_to_the_next(sunk):
    assert not leaks(sunk, ACT)


def test_state_kept_in_a_class_would_be_found_out(sunk):
    def made() -> ACT:
        @dataclass(frozen=True)
        class Leaking(ACT):
            columns: ClassVar[dict[int, ColumnMeans]] = {}

            def begin(self, prompt: Prompt) -> Sequence[Any]:
                """Sinks of the first prompt are taken for those of all others."""
                return [*([] if self.columns else [_AddUp(self, self.columns)]), _Calibrate(self, self.columns)]

        return Leaking()

    assert leaks(sunk, made)


# -- controls --------------------------------------------------------------------------------------------------------


def test_random_heads_are_the_control_of_the_heads(sunk):
    act = ACT("L2H0, L3H0", beta=0.2)
    plain = rows(sunk, [PROMPT], 2)[0]
    assert gap(rows(sunk, [PROMPT], 2, act)[0], plain) > 0.3
    for seed in range(3):
        drawn = draw_heads(sunk.heads(), 2, seed=seed, exclude=act.heads, match="layer")
        control = replace(act, heads=drawn)
        assert (control.beta, [head.layer for head in control.heads]) == (0.2, [2, 3])
        assert gap(rows(sunk, [PROMPT], 2, control)[0], plain) < 1e-3  # heads without a sink


def test_random_tokens_are_as_many_and_none_is_a_sink(sunk):
    act = ACT("L2H0", lowers="random")
    plain, edited = (rows(sunk, [PROMPT], 2, *hooks)[0][0, 0] for hooks in ((), (act,)))
    lowered = ((edited < plain - 1e-6).any(0)).nonzero().flatten().tolist()
    assert len(lowered) == 1
    assert lowered[0] not in (0, PLACE)
    drawn = set()
    for seed in range(12):
        edited = rows(sunk, [PROMPT], 2, ACT("L2H0", lowers="random", seed=seed))[0][0, 0]
        drawn |= set((edited < plain - 1e-6).any(0).nonzero().flatten().tolist())
    assert len(drawn) > 1


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.1}, r"ACT's beta is 1.1; give the share .* from 0 to 1"),
        ({"beta": -0.1}, "ACT's beta is -0.1"),
        ({"threshold": 0}, "ACT's threshold is 0; .*at 0 all tokens are sinks"),
        ({"threshold": 1.5}, "ACT's threshold is 1.5"),
        ({"alpha": 0}, "ACT's alpha is 0; .*above 0"),
        ({"min_queries": 0}, "ACT's min_queries is 0; give at least 1"),
        ({"variant": "code"}, "ACT's variant is 'code'; use one of paper, released"),
        ({"lowers": "all"}, "ACT's lowers is 'all'; use one of sinks, random"),
        ({"heads": "L0"}, "is not a head"),
    ],
)
def test_what_is_out_of_range_is_refused(unchecked, options, message):
    with pytest.raises(UsageError, match=message):
        ACT(**options)


def test_calibrate_refuses_numbers_out_of_range():
    with pytest.raises(UsageError, match=r"beta is 2\.0"):
        calibrate(HAND, beta=2.0)
    with pytest.raises(UsageError, match=r"threshold is 0\.0"):
        calibrate(HAND, threshold=0.0)


def test_models_and_heads_it_cannot_work_on_are_refused(models):
    with pytest.raises(UsageError, match=r"leaves the first two layers and the last alone, and llama has no others"):
        rows(models["llama"], [sentence(5)], 0, ACT())
    with pytest.raises(UsageError, match="L1H9 asked for"):
        rows(models["llama"], [sentence(5)], 0, ACT("L1H9"))
