"""A subset holds the samples it should, the shares hold all of them once, and answers are scored as before."""

from dataclasses import dataclass
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.errors import UsageError
from headscope.samples import Sample, Task
from tasks.facts import Fact
from tasks.needle import Needle
from tasks.subset import Subset
from training.documents import build_tokenizer


@dataclass(frozen=True)
class Numbers:
    """Prompts 0, 1, 2, ...; an answer is scored by how long it is."""

    count: int

    def samples(self, tokenizer):
        return tuple(Sample(str(i)) for i in range(self.count))

    def score(self, sample, answer):
        return len(answer) / 10


def prompts(task):
    return [int(sample.prompt) for sample in task.samples(None)]


@pytest.mark.parametrize(
    ("limit", "shard", "kept"),
    [
        (None, (0, 1), [0, 1, 2, 3, 4, 5, 6]),
        (3, (0, 1), [0, 1, 2]),
        (99, (0, 1), [0, 1, 2, 3, 4, 5, 6]),
        (None, (1, 3), [1, 4]),
        (6, (0, 2), [0, 2, 4]),
        (None, (6, 7), [6]),
    ],
)
def test_limit_then_every_nth(limit, shard, kept):
    assert prompts(Subset(Numbers(7), limit, shard)) == kept


@given(count=st.integers(1, 40), limit=st.none() | st.integers(1, 50), data=st.data())
def test_shares_hold_every_sample_once_and_are_even(count, limit, data):
    whole = prompts(Subset(Numbers(count), limit))
    n = data.draw(st.integers(1, len(whole)))
    shares = [prompts(Subset(Numbers(count), limit, (i, n))) for i in range(n)]
    assert sorted(chain(*shares)) == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_share_has_every_length_and_the_same_samples():
    task = Needle(lengths=(128, 160, 200), depths=3)
    share: Task = Subset(task, shard=(1, 2))
    tokenizer = build_tokenizer()
    samples = share.samples(tokenizer)
    assert {sample.meta["length"] for sample in samples} == {128, 160, 200}
    assert samples == task.samples(tokenizer)[1::2]
    assert share.score(samples[0], samples[0].target) == 1
    assert share.score(samples[0], samples[1].target) == 0


def test_task_is_asked_for_the_rest():
    fact = Fact("The key is 12.", "What is the key?", "12")
    assert Subset(Needle(seed=5)).seed == 5
    assert Subset(Needle()).stop == ("\n", ".")
    assert Subset(Subset(Needle(facts=(fact,), seed=5))).stop == ("\n",)
    assert Subset(Numbers(3)).seed is None
    assert Subset(Numbers(3)).stop == ("\n",)
    assert Subset(Numbers(3)).score(Sample("0"), "four") == 0.4


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_that_leaves_nothing_is_refused(limit):
    with pytest.raises(UsageError, match=f"limit is {limit}.*at least 1"):
        Subset(Numbers(3), limit)


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0), (3, 2)])
def test_shard_that_is_none_is_refused(shard):
    with pytest.raises(UsageError, match=r"is not a share.*such as \(0, 4\)"):
        Subset(Numbers(3), shard=shard)


@pytest.mark.parametrize(("count", "limit", "shard"), [(3, None, (3, 4)), (9, 2, (2, 4)), (0, None, (0, 1))])
def test_empty_share_is_refused(count, limit, shard):
    with pytest.raises(UsageError, match="samples is empty; ask for fewer shares"):
        Subset(Numbers(count), limit, shard).samples(None)
