"""Texts that name one kind of thing most, and the prompts made of them."""

import random
from collections import Counter

import jaxtyping
import pytest

from headscope import UsageError
from headscope.samples import Task
from tasks.choices import ChoiceTask
from tasks.kinds import CUE, KINDS, MostNamed, kind_text
from tasks.prose import OBJECTS
from tests.head_analysis.planted import planted_tokenizer
from training.documents import build_tokenizer as needle_tokenizer
from training.sink_documents import build_tokenizer


def named(words: list[str]) -> Counter[str]:
    return Counter(kind for word in words for kind, things in KINDS.items() if word in things)


def test_kinds_share_no_thing_and_all_things_are_in_the_prose():
    things = [thing for one in KINDS.values() for thing in one]
    assert len(things) == len(set(things)) == 30
    assert set(things) <= set(OBJECTS)


def test_one_kind_is_named_more_often_than_any_other():
    kinds, mixed = Counter(), 0
    for seed in range(200):
        words, kind = kind_text(random.Random(seed), 40)
        counts = named(words)
        assert len(words) == 40
        assert all(counts[kind] > count for other, count in counts.items() if other != kind)
        kinds[kind] += 1
        mixed += len(counts) > 1
    assert min(kinds[kind] for kind in KINDS) > 20
    assert mixed > 50, "a text that names one kind only needs no counting"


def test_a_prompt_holds_answered_texts_and_one_that_is_not():
    tokenizer = build_tokenizer()
    for sample in MostNamed(n=5, texts=3, words=30).samples(tokenizer):
        texts = sample.prompt.split("<s>")
        assert len(texts) == 3
        assert all(CUE in text.split()[-2] for text in texts[:2])
        assert texts[-1].endswith(CUE)
        ids = tokenizer(sample.prompt).input_ids
        assert ids.count(tokenizer.bos_token_id) == 3
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        counts = named(texts[-1].replace(".", " ").replace(",", " ").split())
        assert counts.most_common(1)[0][0] == sample.target == sample.meta["options"][sample.meta["answer"]]
        assert len({tuple(tokenizer(kind).input_ids) for kind in sample.meta["options"]}) == 5


def test_the_first_token_that_begins_a_text_is_written_where_the_tokenizer_does_not():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    ids = tokenizer(MostNamed(n=1, texts=2).samples(tokenizer)[0].prompt).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 2


def test_samples_are_drawn_by_their_seed():
    tokenizer = build_tokenizer()
    prompts = [[one.prompt for one in MostNamed(n=3, seed=seed).samples(tokenizer)] for seed in (0, 0, 1)]
    assert prompts[0] == prompts[1]
    assert not set(prompts[0]) & set(prompts[2])


def test_it_is_a_choice_task_and_scores_the_first_word():
    task = MostNamed(n=1)
    assert isinstance(task, Task)
    assert isinstance(task, ChoiceTask)
    (sample,) = task.samples(build_tokenizer())
    wrong = next(kind for kind in KINDS if kind != sample.target)
    assert [task.score(sample, answer) for answer in (sample.target, f"{sample.target}. the", wrong)] == [1, 1, 0]


def test_tokenizers_without_the_words_are_refused():
    with pytest.raises(UsageError, match="does not know 'mostly'"):
        MostNamed().samples(needle_tokenizer())
    tokenizer = planted_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(UsageError, match="no token that begins a text"):
        MostNamed().samples(tokenizer)


@pytest.mark.parametrize("asked", [{"n": 0}, {"texts": 0}, {"words": 7}])
def test_too_little_is_refused(asked):
    with pytest.raises(UsageError, match="ask for at least 1 sample, 1 text and 8 words"):
        MostNamed(**asked)


def test_an_unknown_rule_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="rule 'loudest' is not known"):
        MostNamed(rule="loudest")  # type: ignore[arg-type]
