"""The classes of the planted circuit are found exactly, and every score is the entry of the pattern that it names."""

import pytest
import torch
from torch import Tensor

from head_analysis.classes import (
    IOI_CIRCUIT,
    duplicate_token_scores,
    head_classes,
    induction_scores,
    mark_attention,
    name_mover_scores,
    previous_token_scores,
    s_inhibition_scores,
)
from head_analysis.copying import copying_scores
from headscope import Head, HookedModel, Sample, UnsupportedModelError, UsageError
from interventions import Ablate
from tasks.ioi import IOI
from tests.headscope.test_hooks import gap, sentence, words_model
from tests.planted.naming import DUPLICATE, INDUCTION, INHIBITION, MOVER, NAMES, NEGATIVE, PREVIOUS, naming_model

CLASSES = {
    "previous token": (PREVIOUS,),
    "duplicate token": (DUPLICATE,),
    "induction": (INDUCTION,),
    "S-inhibition": (INHIBITION,),
    "name mover": (MOVER,),
    "negative name mover": (NEGATIVE,),
}


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


@pytest.fixture(scope="module")
def samples(naming) -> list[Sample]:
    return IOI(n=6, names=NAMES).samples(naming.tokenizer)


def test_every_planted_class_is_found_and_nothing_else(naming, samples):
    assert head_classes(naming, samples) == CLASSES


@pytest.mark.parametrize(
    ("score", "head"),
    [
        (previous_token_scores, PREVIOUS),
        (duplicate_token_scores, DUPLICATE),
        (induction_scores, INDUCTION),
        (s_inhibition_scores, INHIBITION),
    ],
)
def test_a_planted_head_scores_one_and_others_little(naming, samples, score, head):
    scores = score(naming, samples)
    assert scores.samples[:, head.layer, head.head].min() > 0.999
    rest = scores.values.clone()
    rest[head] = 0
    assert rest.max() < 0.25


def test_both_movers_look_but_only_one_copies(naming, samples):
    assert set(name_mover_scores(naming, samples).above(0.9)) == {MOVER, NEGATIVE}
    copies, removes = copying_scores(naming, samples), copying_scores(naming, samples, sign=-1)
    assert copies.above(0.01) == (MOVER,)
    assert removes.above(0.01) == (NEGATIVE,)
    assert copies.values[MOVER] == removes.values[NEGATIVE] == 1
    assert copies.n == len(samples)


def test_a_class_is_gone_when_what_it_reads_is_removed(naming, samples):
    with naming.hooks(Ablate([DUPLICATE])):
        assert s_inhibition_scores(naming, samples).values[INHIBITION] < 1e-6
        assert name_mover_scores(naming, samples).values[MOVER] == pytest.approx(1 / 3, abs=0.01)
        assert copying_scores(naming, samples).above(0.01) == (MOVER,)  # weights, not attention


# -- random models ---------------------------------------------------------------------------------------------------

LENGTHS = (6, 11, 4, 11)
TEXTS = [sentence(length, seed=seed) for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("budget", [8192, 24], ids=["one batch", "several"])
def test_previous_token_attention_is_the_mean_of_the_lower_diagonal(name, budget):
    model = words_model(name)
    scores = previous_token_scores(model, TEXTS, batch_tokens=budget)
    for i, pattern in enumerate(model.record(TEXTS, "pattern")):
        assert gap(scores.samples[i], pattern.diagonal(-1, 2, 3).mean(-1)) < 1e-5


def marked(length: int, seed: int, **words: int) -> Sample:
    text = sentence(length, seed=seed)
    ends = [i for i, letter in enumerate(text + " ") if letter == " "]
    starts = [0, *[end + 1 for end in ends]]
    return Sample(text, marks={name: (starts[word], ends[word]) for name, word in words.items()})


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_attention_between_marks_is_the_entry_of_the_pattern(name):
    model = words_model(name)
    samples = [marked(9, 1, a=8, b=2), marked(6, 2, a=5, b=1), marked(9, 3, a=4, b=4)]
    scores = mark_attention(model, samples, "a", "b")
    patterns: list[Tensor] = model.record(samples, "pattern")
    for i, (query, key) in enumerate(((9, 3), (6, 2), (5, 5))):  # one more, for <s>
        assert gap(scores.samples[i], patterns[i][:, :, query, key]) < 1e-5


def test_layers_without_attention_have_no_scores():
    model = words_model("qwen3_next")  # layer 0 is linear attention
    assert {head.layer for head in previous_token_scores(model, TEXTS).heads} == {1}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_copy_scores_are_those_of_the_weights(name):
    """W_OV W_U by hand, on the state behind the first layer, with the norms the model has."""
    model = words_model(name)
    samples = [marked(6, seed, IO=3, S1=1) for seed in range(4)]
    scores = copying_scores(model, samples, top=20)
    states = model.record(samples, "resid_post")
    with torch.no_grad():
        for i, sample in enumerate(samples):
            hits = []
            for mark in ("IO", "S1"):
                place = model.tokens(sample).marks[mark][0]
                wanted = model.tokens(sample).ids[place]
                hits.append(_by_hand(model, name, states[i][0, place], wanted, 20))
            expected = torch.stack(hits).float().mean(0)
            assert gap(scores.samples[i], expected) == 0
    assert 0 < scores.values.mean() < 1


def _by_hand(model: HookedModel, name: str, state: Tensor, wanted: int, top: int) -> Tensor:
    hits = torch.zeros(2, 4, dtype=torch.bool)
    for layer in range(2):
        for head in range(4):
            if name == "llama":
                block = model.hf.model.layers[layer]
                group = slice(head // 2 * 8, head // 2 * 8 + 8)
                value = block.self_attn.v_proj.weight[group] @ block.input_layernorm(state)
                added = block.self_attn.o_proj.weight[:, head * 8 : head * 8 + 8] @ value
                logits = model.hf.lm_head(model.hf.model.norm(added))
            else:
                block = model.hf.transformer.h[layer]
                part = slice(64 + head * 8, 64 + head * 8 + 8)
                value = block.ln_1(state) @ block.attn.c_attn.weight[:, part] + block.attn.c_attn.bias[part]
                added = value @ block.attn.c_proj.weight[head * 8 : head * 8 + 8]
                logits = model.hf.lm_head(model.hf.transformer.ln_f(added))
            hits[layer, head] = int((logits > logits[wanted]).sum()) < top
    return hits


# -- errors and facts ------------------------------------------------------------------------------------------------


def test_missing_marks_and_short_texts_are_named():
    model = words_model()
    plain = [Sample(sentence(5))]
    with pytest.raises(UsageError, match=r"sample 0 has no mark 'S2' \(it has none\)"):
        duplicate_token_scores(model, plain)
    with pytest.raises(UsageError, match=r"a sample has no mark 'IO' \(it has none\)"):
        copying_scores(model, plain)
    with pytest.raises(UsageError, match="sample 1 has 1 token, so none stands before another"):
        previous_token_scores(model, [sentence(5), ""])


@pytest.mark.parametrize("name", ["bitnet", "qwen3_next"])
def test_copy_scores_need_a_plain_decoder(name):
    with pytest.raises(UnsupportedModelError, match="no single matrix leads"):
        copying_scores(words_model(name), [marked(6, 0, IO=1, S1=2)])


def test_the_published_circuit_has_its_26_heads():
    heads = [head for group in IOI_CIRCUIT.values() for head in group]
    assert len(heads) == len(set(heads)) == 26
    assert all(head.layer < 12 and head.head < 12 for head in heads)
    assert Head(9, 9) in IOI_CIRCUIT["name mover"]
