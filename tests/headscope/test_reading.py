"""Recording many samples: batched equals one by one, without padding, at every site."""

import pytest
import torch

from headscope import Head, HookedModel, Sample, UsageError, Where
from tests.headscope.test_hooks import gap, sentence, word_tokenizer, words_model
from tests.tiny import WINDOW, build

LENGTHS = (6, 11, 4, 11)  # of the prompts in words; each has one token more
TEXTS = [sentence(length, seed=seed) for seed, length in enumerate(LENGTHS)]
NAMES = ("llama", "mistral", "gemma2", "gpt_oss", "gpt2", "bert", "roberta")  # masks, caps, sinks, learned positions


@pytest.fixture(params=NAMES)
def model(request) -> HookedModel:
    return words_model(request.param)


@pytest.fixture
def llama() -> HookedModel:
    return words_model("llama")


def marked(text: str, **marks: str) -> Sample:
    return Sample(text, marks=marks)


@pytest.mark.parametrize("budget", [8192, 24], ids=["one batch", "several"])
@pytest.mark.parametrize("site", ["pattern", "z", "resid_post", "attn_out"])
def test_records_of_a_batch_are_the_records_one_by_one(model, site, budget):
    together = model.record(TEXTS, site, batch_tokens=budget)
    for text, length, act in zip(TEXTS, LENGTHS, together, strict=True):
        n = length + 1
        assert act.shape == {"pattern": (2, 4, n, n), "z": (2, n, 4, 8)}.get(site, (2, n, 32))
        assert gap(act, model.record([text], site)[0]) < 2e-5


def test_logits_of_a_batch_are_the_logits_one_by_one(model):
    output = model.forward(TEXTS)
    for i, text in enumerate(TEXTS):
        assert gap(output.of_sample(i), model.forward([text]).of_sample(0)) < 5e-5


def test_answers_of_a_batch_are_the_answers_one_by_one():
    model = words_model("mistral")
    answers = model.generate(TEXTS, max_new_tokens=5, batch_tokens=24)
    assert [answer.sample.prompt for answer in answers] == TEXTS
    assert [answer.tokens for answer in answers] == [model.generate(text, max_new_tokens=5).tokens for text in TEXTS]
    assert all(len(answer.tokens) == 5 for answer in answers)


def test_attention_rows_are_rows_of_the_pattern(model):
    patterns = model.record(TEXTS, "pattern")
    for rows, pattern in zip(model.attention_rows(TEXTS), patterns, strict=True):
        assert rows.shape == (2, 4, 1, pattern.shape[-1])
        assert gap(rows, pattern[:, :, -1:]) < 1e-6
    for rows, pattern in zip(model.attention_rows(TEXTS, positions=(-2, 1)), patterns, strict=True):
        last = pattern.shape[2] - 2
        assert gap(rows, pattern[:, :, [1, last]]) < 1e-6  # in the order of the text


def test_rows_of_some_heads_and_layers(llama):
    pattern = llama.record(TEXTS[:1], "pattern")[0]
    rows = llama.attention_rows(TEXTS[:1], where=Where(heads=(Head(1, 3), Head(1, 0))))[0]
    assert gap(rows, pattern[1:, [0, 3], -1:]) < 1e-6
    one_layer = llama.record(TEXTS[:1], "z", where=Where(layers=(1,), positions=(2,)))[0]
    assert one_layer.shape == (1, 1, 4, 8)
    assert torch.equal(one_layer, llama.record(TEXTS[:1], "z")[0][1:, 2:3])


def test_rows_are_zero_outside_a_sliding_window():
    n = 14
    for pattern in words_model("mistral").record([sentence(n - 1), sentence(5)], "pattern")[:1]:
        query, key = torch.arange(n)[:, None], torch.arange(n)
        seen = (key <= query) & (key > query - WINDOW)
        assert not pattern[..., ~seen].any()
        assert gap(pattern.sum(-1), torch.ones(2, 4, n)) < 1e-5
        assert (pattern[..., seen] > 0).all()


@pytest.mark.parametrize("budget", [8192, 24], ids=["one batch", "several"])
def test_mass_is_a_sum_of_rows_by_mark_and_by_place(model, budget):
    samples = [marked(text, needle=" ".join(text.split()[1:3])) for text in TEXTS]
    groups = {"needle": "needle", "first": (0,), "ends": (0, -1), "nothing": ()}
    masses = model.attention_mass(samples, groups, batch_tokens=budget)
    for sample, pattern, mass in zip(samples, model.record(TEXTS, "pattern"), masses, strict=True):
        expected = [pattern[..., 2:4], pattern[..., :1], pattern[..., [0, -1]], pattern[..., :0]]
        assert gap(mass, torch.stack([part.sum(-1) for part in expected], -1)) < 1e-5
        assert gap(mass, model.attention_mass([sample], groups)[0]) < 1e-5


def test_mass_takes_more_groups_than_a_head_is_wide(llama):
    places = {f"place {i}": (i,) for i in range(12)}
    pattern = llama.record([TEXTS[1]], "pattern")[0]
    assert gap(llama.attention_mass([TEXTS[1]], places)[0], pattern) < 1e-5


def test_eager_models_and_half_precision_are_read_alike():
    hf = build("llama")
    expected = HookedModel(hf, word_tokenizer()).record(TEXTS, "pattern")
    groups = {"first": (0,)}
    hf.set_attn_implementation("eager")
    eager = HookedModel(hf, word_tokenizer())
    half = HookedModel(build("llama").bfloat16(), word_tokenizer())
    for model, tolerance in ((eager, 2e-5), (half, 0.3)):
        for pattern, mass, exact in zip(
            model.record(TEXTS, "pattern"), model.attention_mass(TEXTS, groups), expected, strict=True
        ):
            assert gap(pattern, exact) < tolerance
            assert gap(mass[..., 0].float(), pattern[..., 0]) < max(tolerance / 10, 1e-5)


# -- errors ----------------------------------------------------------------------------------------------------------


def test_an_unknown_mark_is_refused(llama):
    with pytest.raises(UsageError, match="group 'a' asks for mark 'needle'; the sample has question"):
        llama.attention_mass([marked(TEXTS[0], question=TEXTS[0].split()[0])], {"a": "needle"})
    with pytest.raises(UsageError, match="the sample has none"):
        llama.attention_mass(TEXTS, {"a": "needle"})


@pytest.mark.parametrize("place", [7, -8])
def test_a_place_outside_the_sample_is_refused(llama, place):
    with pytest.raises(UsageError, match=rf"group 'a' names places \[0, {place}\]; the sample has 7 tokens"):
        llama.attention_mass(TEXTS[:1], {"a": (0, place)})


def test_a_mark_that_stands_nowhere_or_twice_is_refused(llama):
    for place, count in (("absent", 0), ("w10", 2)):
        sample = marked("w10 w11 w10", needle=place)
        with pytest.raises(UsageError, match=f"mark 'needle' .* occurs {count} times"):
            llama.attention_mass([sample], {"a": "needle"})


@pytest.mark.parametrize("where", [Where(positions=(50,)), Where(heads=()), Where(layers=())])
def test_asking_for_nothing_is_refused(llama, where):
    with pytest.raises(UsageError, match="nothing was recorded at 'z'"):
        llama.record(TEXTS, "z", where=where)


@pytest.mark.parametrize("position", [8, -9])
def test_a_position_that_some_samples_lack_is_refused_in_a_batch_as_alone(llama, position):
    for texts in ([TEXTS[0]], TEXTS):
        with pytest.raises(UsageError, match="nothing was recorded at 'z'"):
            llama.record(texts, "z", where=Where(positions=(position,)))


def test_text_without_a_processor_is_refused_with_two_ways_out():
    model = HookedModel(build("llama"))
    for read in (model.attention_rows, model.forward, lambda texts: model.record(texts, "z")):
        with pytest.raises(UsageError, match=r"without a processor.*pass processor=.*or call model\.hf"):
            read(TEXTS)


def test_images_need_a_processor_that_takes_them(llama):
    with pytest.raises(UsageError, match=r"images but .*Tokenizer.* takes text only"):
        llama.record([Sample(TEXTS[0], images=(object(),))], "z")


def test_a_prompt_without_tokens_is_refused():
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(UsageError, match="no tokens"):
        HookedModel(build("llama"), tokenizer).record([""], "z")
