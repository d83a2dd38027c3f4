"""Every analysis of text finds the planted heads of its kind and no other, and finds none where they are taken out.

Cut-offs are those that commands and docstrings state: 0.1 for retrieval, those of `head_classes`; for attention of
which nothing is said, half of it.
"""

import pytest
import torch

from head_analysis import (
    copying_scores,
    head_classes,
    mark_attention,
    name_mover_scores,
    previous_token_scores,
    retrieval_scores,
    sink_dimensions,
    sink_report,
    sink_tokens,
)
from head_analysis.text_sinks import text_sinks
from headscope import Head, HookedModel, Record, Sample
from headscope.scores import HeadScores
from interventions import ACT
from tasks.ioi import IOI
from tests.planted.naming import NAMES
from tests.planted.whole import (
    DUPLICATE,
    FILLERS,
    FIRST_SINK,
    HERE,
    INDUCTION,
    INHIBITION,
    KINDS,
    LATER_SINK,
    MOVER,
    NEGATIVE,
    PLANTED,
    PREVIOUS,
    RETRIEVER,
    Finding,
    going_on,
    rounds,
    whole_model,
)
from tests.planted.wiring import MASSIVE, scramble

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
TWO_SEEDS = pytest.mark.parametrize("seed", [0, 1])
HALF = 0.5
ATTENTION = {
    "first_token": {FIRST_SINK},
    "previous_token": {PREVIOUS},
    "local": {PREVIOUS, HERE},
    "duplicate_token": {DUPLICATE},
    "induction": {INDUCTION},
    "stop": {LATER_SINK},
}
"""Which heads a score of `attention_statistics` is made of."""
CLASSES = {
    "previous token": (PREVIOUS,),
    "duplicate token": (DUPLICATE,),
    "induction": (INDUCTION,),
    "S-inhibition": (INHIBITION,),
    "name mover": (MOVER,),
    "negative name mover": (NEGATIVE,),
}


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return whole_model()


def attention(model: HookedModel, samples: list[Sample]) -> dict[str, HeadScores]:
    found = model.attention_statistics(samples, distances=True, tokens=True, groups={"stop": "stop"}, rows=False)
    return {name: found.scores(name) for name in ATTENTION}


def names(scores: dict[str, HeadScores]) -> dict[str, set[Head]]:
    return {name: set(one.above(HALF)) for name, one in scores.items()}


# -- found -----------------------------------------------------------------------------------------------------------


@SEEDS
def test_the_one_retrieval_head_scores_one_and_all_others_nothing(model, seed):
    scores = retrieval_scores(model, Finding(seed=seed), max_new_tokens=6)
    assert scores.above(0.1) == (RETRIEVER,)
    assert scores.samples[:, RETRIEVER.layer, RETRIEVER.head].eq(1).all()
    assert scores.values.sum() == 1  # heads that look at all tokens alike have copied nothing


def test_what_heads_that_look_at_all_alike_score_does_not_depend_on_padding(model):
    together, alone = (
        retrieval_scores(model, Finding(n=4, seed=5), max_new_tokens=6, batch_tokens=size) for size in (8192, 1)
    )
    assert torch.equal(together.samples, alone.samples)


@SEEDS
def test_each_kind_of_attention_names_its_heads_alone(model, seed):
    scores = attention(model, rounds(2, seed=seed))
    assert names(scores) == ATTENTION
    for name, heads in ATTENTION.items():
        for head in heads - {LATER_SINK}:  # before the stop comes it looks at all tokens alike
            assert scores[name].values[head] > 0.999


@TWO_SEEDS
def test_the_classes_of_the_naming_circuit_are_found_with_default_cut_offs(model, seed):
    assert head_classes(model, IOI(n=4, names=NAMES, seed=seed).samples(model.tokenizer)) == CLASSES


@TWO_SEEDS
def test_each_alphabet_is_copied_by_its_own_head(model, seed):
    going, _ = going_on(4, seed=seed)
    asking = [Sample(f"{KINDS[0][i]} {FILLERS[i]} ?", marks={"word": KINDS[0][i]}) for i in range(4)]
    people = IOI(n=4, names=NAMES, seed=seed).samples(model.tokenizer)
    for samples, mark, head in ((going, "right", INDUCTION), (asking, "word", RETRIEVER), (people, "IO", MOVER)):
        assert copying_scores(model, samples, marks=(mark,)).above(0.01) == (head,)
        against = copying_scores(model, samples, marks=(mark,), sign=-1)
        assert against.above(0.01) == ((NEGATIVE,) if mark == "IO" else ())


@TWO_SEEDS
def test_sinks_are_told_by_their_state_and_by_who_looks_at_them(model, seed):
    found = sink_dimensions(model)
    assert found.dims == (MASSIVE,)
    assert found.chance < 1e-6
    samples = rounds(2, seed=seed)
    record = Record("resid_post")
    with model.hooks(record):
        model.forward(samples[:1])
    ids = torch.tensor(model.tokens(samples[0]).ids)
    known = (ids == model.tokenizer.bos_token_id) | (ids == model.tokenizer.convert_tokens_to_ids("."))
    for layer in model.layers():
        assert torch.equal(sink_tokens(record.seen[layer][0][0], found.dims), known)
    report = sink_report(model, samples)
    assert set(report.mass.above(HALF)) == {FIRST_SINK, LATER_SINK}
    assert set(report.by_token()["text"]) == {"<s>", "."}


@SEEDS
def test_text_sinks_are_the_start_in_one_head_and_the_full_stop_in_another(model, seed):
    found = text_sinks(model, rounds(2, seed=seed))
    assert found.first_is_sink.above(HALF) == (FIRST_SINK,)
    assert found.later_count.above(HALF) == (LATER_SINK,)
    assert found.first_is_sink.values.sum() == found.later_count.values.sum() == 1
    assert set(found.later.above(HALF)) == {LATER_SINK}


# -- sinks by the mean of their column -------------------------------------------------------------------------------


def lowered(model: HookedModel, sample: Sample) -> dict[Head, list[int]]:
    """Which keys ACT takes attention from, in which heads, judged by the last row that differs."""
    plain = model.record([sample], "pattern")[0]
    with model.hooks(ACT(layers=model.layers())):
        edited = model.record([sample], "pattern")[0]
    less = (edited < plain - 1e-4).any(2)
    return {Head(*place): less[tuple(place)].nonzero().flatten().tolist() for place in less.any(-1).nonzero().tolist()}


@TWO_SEEDS
def test_the_sink_that_act_calibrates_is_the_full_stop_in_the_head_that_looks_at_it(model, seed):
    for going in going_on(2, seed=seed)[1]:
        words = going.prompt.split()
        assert lowered(model, Sample(" ".join([*words[:5], ".", *words[5:]]))) == {LATER_SINK: [6]}
        assert lowered(model, going) == {}  # no full stop, no sink


@pytest.mark.parametrize(("words", "late"), [(19, []), (21, [36])])
def test_from_41_tokens_on_act_calibrates_late_keys_of_a_head_that_visits_each_key_once(model, words, late):
    """A key that m queries see and one looks at has the mean 1 / m: above 5 / N once m is below N / 5, but 8 or more."""
    sample = rounds(1, words=words, times=2)[0]
    assert len(model.tokens(sample).ids) == 2 * words + 2
    assert lowered(model, sample).get(PREVIOUS, []) == late


# -- not found where nothing is planted ------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [PREVIOUS, FIRST_SINK, DUPLICATE, HERE, LATER_SINK, INDUCTION], ids=str)
def test_without_a_head_its_kind_is_gone_and_the_others_are_there(head):
    missing = {head, INDUCTION} if head == PREVIOUS else {head}  # who looks for what PREVIOUS writes finds nothing
    known = {name: heads - missing for name, heads in ATTENTION.items()}
    if head == DUPLICATE:  # where nothing is flagged INHIBITION rests at the first token
        known["first_token"] = {FIRST_SINK, INHIBITION}
    assert names(attention(whole_model(without=[head]), rounds(2))) == known


def test_an_empty_model_has_no_head_of_any_kind():
    empty = whole_model(without=PLANTED, massive=())
    assert not any(names(attention(empty, rounds(2))).values())
    assert retrieval_scores(empty, Finding(n=4), max_new_tokens=6).values.max() == 0
    people = IOI(n=2, names=NAMES).samples(empty.tokenizer)
    assert not any(head_classes(empty, people).values())
    assert not sink_dimensions(empty).found
    assert lowered(empty, Finding(n=1).samples(empty.tokenizer)[0]) == {}


@TWO_SEEDS
def test_with_scrambled_weights_no_head_is_what_it_was(seed):
    broken = scramble(whole_model(), PLANTED, seed=seed)
    scores = attention(broken, rounds(2))
    for name, heads in ATTENTION.items():
        assert not heads & set(scores[name].above(HALF))
    assert retrieval_scores(broken, Finding(n=4), max_new_tokens=6).above(0.1) == ()


@TWO_SEEDS
def test_scrambled_heads_of_the_naming_circuit_score_less_than_half(seed):
    """Over prompts of every template in either order: a sharp head without structure hits one name in a few by luck.

    With seed 0 DUPLICATE scores 0.27 here, and in some draws of 6 prompts it passes the 0.3 of `head_classes`.
    """
    broken = scramble(whole_model(), PLANTED, seed=seed)
    people = IOI(n=30, names=NAMES).samples(broken.tokenizer)
    for query, key, head in (("S2", "S1", DUPLICATE), ("S2", "S1+1", INDUCTION), ("END", "S2", INHIBITION)):
        assert mark_attention(broken, people, query, key).values[head] < HALF
    assert name_mover_scores(broken, people).values[MOVER] < HALF
    assert MOVER not in copying_scores(broken, people).above(0.9)


def test_a_scrambled_head_leaves_the_others_as_they_are():
    broken = scramble(whole_model(), [HERE], seed=0)
    known = {name: heads - {HERE} for name, heads in ATTENTION.items()}
    found = names(attention(broken, rounds(2)))
    assert {name: heads - {HERE} for name, heads in found.items()} == known


def test_previous_token_attention_agrees_with_the_statistics(model):
    samples = rounds(2)
    scores = model.attention_statistics(samples, distances=True).scores("previous_token")
    torch.testing.assert_close(scores.samples, previous_token_scores(model, samples).samples, atol=1e-5, rtol=0)


def test_attention_between_marks_names_the_induction_head(model):
    clean, corrupt = going_on(4)
    assert mark_attention(model, clean, "END", "right").above(HALF) == (INDUCTION,)
    assert mark_attention(model, corrupt, "END", "right").above(HALF) == ()
