"""IOI prompts: balanced, marked at the right tokens, and corrupted without moving a token."""

from collections import Counter
from dataclasses import replace

import jaxtyping
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from headscope import Sample, Task, UsageError
from headscope.samples import tokenize
from tasks.ioi import IOI, NAMES, OBJECTS, PLACES, TEMPLATES
from tests.planted.wording import word_level

FIXED = [template.format(first="", second="", S2="", place="", object="") for template in TEMPLATES]
ROLES = ("IO", "S1", "S2", "END", "S1+1")


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return word_level([*FIXED, *NAMES, *PLACES, *OBJECTS])


def word_at(sample: Sample, mark: str, tokenizer) -> str:
    tokens = tokenize(sample, tokenizer)
    return tokenizer.decode(tokens.ids[slice(*tokens.marks[mark])])


def test_it_is_a_task_of_fifteen_templates_in_two_orders(words):
    task = IOI(n=60)
    assert isinstance(task, Task)
    samples = task.samples(words)
    assert len(set(TEMPLATES)) == 15
    assert Counter((s.meta["template"], s.meta["order"]) for s in samples) == {
        (template, order): 2 for template in range(15) for order in ("ABBA", "BABA")
    }
    assert samples == task.samples(words)
    assert samples != IOI(n=60, seed=1).samples(words)
    assert {s.meta["order"] for s in IOI(n=20, order="BABA").samples(words)} == {"BABA"}


def test_marks_are_the_tokens_they_name(words):
    for sample in IOI(n=30).samples(words):
        io, subject = sample.meta["IO"], sample.meta["S1"]
        tokens = tokenize(sample, words)
        found = {mark: word_at(sample, mark, words) for mark in ("IO", "S1", "S2", "END")}
        assert found == {"IO": io, "S1": subject, "S2": subject, "END": "to"}
        assert all(end == start + 1 for start, end in tokens.marks.values())
        assert tokens.marks["S1+1"][0] == tokens.marks["S1"][1]
        assert tokens.marks["END"][1] == len(tokens.ids)
        assert (tokens.marks["IO"] < tokens.marks["S1"]) == (sample.meta["order"] == "ABBA")
        assert tokens.marks["S2"] > max(tokens.marks["IO"], tokens.marks["S1+1"])
        assert sample.prompt.count(io) == 1
        assert sample.prompt.count(subject) == 2
        assert (sample.target, sample.meta["foil"]) == (f" {io}", f" {subject}")
        assert words.unk_token_id not in tokens.ids


@pytest.mark.parametrize("counterfactual", ["abc", "swap"])
def test_counterfactuals_differ_in_names_alone(words, counterfactual):
    task = IOI(n=30, counterfactual=counterfactual)
    for clean, corrupt in zip(task.samples(words), task.counterfactuals(words), strict=True):
        a, b = tokenize(clean, words), tokenize(corrupt, words)
        assert a.marks == b.marks
        moved = {i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=True)) if x != y}
        names = {role: a.marks[role][0] for role in ("IO", "S1", "S2")}
        assert moved == (set(names.values()) if counterfactual == "abc" else {names["S2"]})


def test_abc_has_three_other_people_and_no_answer(words):
    task = IOI(n=30)
    for clean, corrupt in zip(task.samples(words), task.counterfactuals(words), strict=True):
        people = {corrupt.meta[role] for role in ("IO", "S1", "S2")}
        assert len(people) == 3
        assert not people & {clean.meta["IO"], clean.meta["S1"]}
        assert corrupt.target == ""
        assert "foil" not in corrupt.meta
        assert task.score(corrupt, "") == 0.0


def test_swap_asks_for_the_subject(words):
    task = IOI(n=30, counterfactual="swap")
    for clean, corrupt in zip(task.samples(words), task.counterfactuals(words), strict=True):
        assert corrupt.meta["S2"] == clean.meta["IO"]
        assert (corrupt.target, corrupt.meta["foil"]) == (clean.meta["foil"], clean.target)


def test_an_answer_is_right_if_it_begins_with_the_indirect_object(words):
    task = IOI(n=1)
    (sample,) = task.samples(words)
    io, subject = sample.meta["IO"], sample.meta["S1"]
    assert task.score(sample, f" {io}.") == 1.0
    assert task.score(sample, f" {io.lower()} and") == 1.0
    assert task.score(sample, f" {subject} and {io}") == 0.0
    assert task.score(sample, "") == 0.0


def test_names_that_are_not_one_token_are_left_out(words):
    few = word_level([*FIXED, *NAMES[:5], *PLACES, *OBJECTS])
    used = {sample.meta[role] for sample in IOI(n=40).samples(few) for role in ("IO", "S1")}
    assert used == set(NAMES[:5])
    with pytest.raises(UsageError, match=r"keeps 4 whole \(Mary, John, Tom, James\); five are needed"):
        IOI().samples(word_level([*FIXED, *NAMES[:4], *PLACES, *OBJECTS]))
    assert IOI(n=2, names=(*NAMES[:5], "Bartholomew")).samples(words)


def test_names_that_share_a_token_count_once():
    lower = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(("<unk>", "and", "mary", "john"))}, unk_token="<unk>")
    )
    lower.normalizer, lower.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=lower, unk_token="<unk>")
    with pytest.raises(UsageError, match=r"of 3 names the tokenizer keeps 2 whole \(Mary, John\)"):
        IOI(names=("Mary", "MARY", "John")).samples(tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer in GPT-2's manner: words carry the space before them, and pieces of words are merged."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"and {word}" for word in NAMES[:40]] * 8 + FIXED
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_marks_hold_where_tokens_carry_their_space():
    tokenizer = byte_level()
    samples = IOI(n=30, counterfactual="swap").samples(tokenizer)
    assert {word_at(s, "END", tokenizer) for s in samples} == {" to"}
    assert all(word_at(s, "IO", tokenizer) == s.target for s in samples)
    assert {s.meta["IO"] for s in samples} <= set(NAMES[:40])


def test_a_tokenizer_that_adds_tokens_at_the_end_is_refused(words):
    ended = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(words.backend_tokenizer.to_str()), unk_token="<unk>"
    )
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    with pytest.raises(UsageError, match="writes 1 tokens behind the prompt"):
        IOI(n=1).samples(ended)


def test_impossible_requests_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' type checker would refuse it first
    with pytest.raises(UsageError, match="n is 0; ask for at least 1"):
        IOI(n=0)
    with pytest.raises(UsageError, match="order 'AABB' is not known"):
        IOI(order="AABB")
    with pytest.raises(UsageError, match="counterfactual 'noise' is not known"):
        replace(IOI(), counterfactual="noise")
