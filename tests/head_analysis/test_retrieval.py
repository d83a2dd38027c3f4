"""Retrieval scores: the definitions by hand, a head whose score is known by design, batches, resumption, costs."""

from dataclasses import dataclass, replace

import pytest
import torch

import head_analysis.top_keys
from head_analysis import copy_hits, copy_score, measure_retrieval, retrieval_scores
from headscope import Head, HookedModel, Sample, UsageError
from headscope.runs import Run
from interventions import Ablate, head_outputs
from tests.head_analysis.planted import BEFORE, COPIER, Copying, others, planted
from tests.headscope.test_hooks import sentence, words_model

TASK = Copying()


@dataclass(frozen=True)
class Words:
    """Prompts of random words; the needle is everything from the third word on."""

    lengths: tuple[int, ...] = (9, 14, 5, 14, 11, 16, 7, 12)
    mark: str = "needle"

    def samples(self, tokenizer: object) -> list[Sample]:
        texts = [sentence(length, seed=i) for i, length in enumerate(self.lengths)]
        return [Sample(text, text, {self.mark: (text.index(" ", 4) + 1, len(text))}) for text in texts]

    def score(self, sample: Sample, answer: str) -> float:
        return float(answer == sample.target)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return planted()


# -- a head known by design ------------------------------------------------------------------------------------------


def known(*heads: Head) -> torch.Tensor:
    """1 at these heads, 0 at all others."""
    scores = torch.zeros(2, 4)
    for head in heads:
        scores[head] = 1
    return scores


def right(model: HookedModel, *hooks: Ablate) -> float:
    """Share of answers that are right under these hooks."""
    samples = TASK.samples(model.tokenizer)
    with model.hooks(*hooks):
        answers = model.generate(samples, max_new_tokens=10, stop=TASK.stop)
    return sum(TASK.score(s, a.text) for s, a in zip(samples, answers, strict=True)) / len(samples)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_planted_head_scores_1_and_all_others_0(model, variant):
    found = measure_retrieval(model, TASK, variant=variant)
    assert found.answers["score"].tolist() == [1.0] * 6
    assert torch.equal(found.scores.samples, known(COPIER).expand(6, 2, 4))
    assert found.scores.above(0.1) == (COPIER,)


@pytest.mark.parametrize("mode", ["zero", "uniform", "mean", "resample"])
def test_without_the_planted_head_answers_are_wrong_without_others_right(model, mode):
    reference = head_outputs(model, Copying(seed=1).samples(model.tokenizer))
    assert right(model) == 1
    assert right(model, Ablate([COPIER], mode, reference=reference)) == 0
    assert right(model, Ablate(others(COPIER, BEFORE), mode, reference=reference)) == 1
    assert right(model, Ablate([COPIER], mode, phase="decode", reference=reference)) == 0
    assert right(model, Ablate([COPIER], mode, phase="prefill", reference=reference)) == 1
    # The score names the head that copies, not all that it depends on.
    assert right(model, Ablate([BEFORE], mode, phase="prefill", reference=reference)) == 0


def test_a_model_without_the_planted_head_scores_0_everywhere():
    found = measure_retrieval(planted(copier=False), TASK)
    assert found.answers["score"].sum() == 0
    assert torch.equal(found.scores.values, torch.zeros(2, 4))


def test_scores_are_read_under_the_hooks_in_force(model):
    with model.hooks(Ablate([COPIER], "uniform", phase="decode")):
        assert torch.equal(retrieval_scores(model, TASK).values, torch.zeros(2, 4))


# -- by hand ---------------------------------------------------------------------------------------------------------

PROMPT = torch.tensor([7, 1, 2, 3, 9, 2])
NEEDLE = (1, 4)  # tokens 1 2 3


def rows(*best: int, keys: int = 8) -> torch.Tensor:
    """[step 1 key]: attention of one head whose largest weights lie at these keys, a step each."""
    weights = torch.full((len(best), 1, keys), 0.01)
    weights[torch.arange(len(best)), 0, list(best)] = 0.9
    return weights


@pytest.mark.parametrize(
    ("key", "token", "copied"),
    [
        (1, 1, True),
        (3, 3, True),
        (1, 2, False),  # inside, another token
        (5, 2, False),  # the token, outside
        (0, 7, False),  # just before the needle
        (4, 9, False),  # just behind it
        (6, 2, False),  # an earlier token of the answer, beyond the prompt
        (7, 1, False),
    ],
)
def test_a_copy_is_the_same_token_inside_the_needle(key, token, copied):
    assert copy_hits(rows(key), torch.tensor([token]), PROMPT, NEEDLE).tolist() == [[copied]]


def test_heads_and_steps_are_judged_one_by_one():
    both = torch.cat([rows(1, 2, 3), rows(1, 1, 0)], 1)
    hits = copy_hits(both, torch.tensor([1, 2, 3]), PROMPT, NEEDLE)
    assert hits.tolist() == [[True, True], [True, False], [True, False]]


def test_with_top_k_any_of_the_best_keys_counts_once():
    weights = torch.tensor([[[0.4, 0.1, 0.3, 0.2, 0.0, 0.0]]])  # best keys: 0, 2, 3, 1
    hits = [copy_hits(weights, torch.tensor([3]), PROMPT, NEEDLE, top_k=k).item() for k in (1, 2, 3, 4)]
    assert hits == [False, False, True, True]


@pytest.mark.parametrize(("weight", "copied"), [(0.5, True), (0.0, False)])
def test_a_key_without_weight_is_no_best_key(weight, copied):
    weights = torch.tensor([[[0.5, weight, 0.0, 0.0, 0.0, 0.0]]])
    assert copy_hits(weights, torch.tensor([1]), PROMPT, NEEDLE, top_k=50).item() is copied


def scored(hits: list[bool], tokens: list[int], needle: list[int], *, dedup: bool) -> float:
    by_head = torch.tensor(hits)[:, None]
    return copy_score(by_head, torch.tensor(tokens), torch.tensor(needle), dedup=dedup).item()


@pytest.mark.parametrize(
    ("hits", "tokens", "needle", "paper", "released"),
    [
        ([1, 1, 1, 0], [1, 2, 3, 9], [1, 2, 3], 1, 1),
        ([1, 0, 0, 0], [1, 2, 3, 9], [1, 2, 3], 1 / 3, 1 / 3),
        ([1, 1, 1, 1], [1, 2, 1, 2], [1, 2], 1, 2),  # the answer repeats itself
        ([1, 1, 0], [1, 1, 2], [1, 2], 1 / 2, 1),  # the same token twice
        ([1, 1, 1], [1, 2, 1], [1, 2, 1], 1, 1),  # the needle repeats a token
        ([1, 0, 0], [1, 2, 1], [1, 2, 1], 1 / 2, 1 / 3),  # of two distinct tokens, and of three
        ([0, 0], [1, 2], [1, 2], 0, 0),
    ],
)
def test_score_of_the_paper_counts_tokens_and_the_released_one_steps(hits, tokens, needle, paper, released):
    hits = [bool(hit) for hit in hits]
    assert scored(hits, tokens, needle, dedup=True) == pytest.approx(paper)
    assert scored(hits, tokens, needle, dedup=False) == pytest.approx(released)


def test_an_answer_that_repeats_itself_scores_above_1_as_released_only(model):
    @dataclass(frozen=True)
    class Twice(Copying):
        """The needle is the loop `key n1 n2 key`, which the answer goes round and round."""

        stop: tuple[str, ...] = ()

        def samples(self, tokenizer: object) -> list[Sample]:
            return [Sample("f1 f2 key1 n1 n2 key1 f3 f4 key1", "n1 n2 key1", {"needle": "n1 n2 key1"})]

    scores = {v: retrieval_scores(model, Twice(), variant=v, max_new_tokens=9) for v in ("paper", "released")}
    paper, released = (scores[v].values[COPIER].item() for v in ("paper", "released"))
    assert paper <= 1 < released


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variant"),
    [("llama", "paper"), ("llama", "released"), ("mistral", "released"), ("gpt2", "released"), ("gpt_oss", "released")],
)
def test_a_batch_scores_as_its_samples_one_by_one(name, variant):
    model = words_model(name)
    options = {"variant": variant, "top_k": 4, "max_new_tokens": 12, "min_recall": -1.0}
    together = measure_retrieval(model, Words(), **options)
    alone = measure_retrieval(model, Words(), batch_tokens=1, **options)
    assert together.answers.equals(alone.answers)
    assert torch.equal(together.every_score, alone.every_score)
    assert (together.every_score > 0).sum() >= 4, "the test needs heads that score"


def test_more_keys_asked_for_than_there_are(model):
    found = measure_retrieval(model, TASK, top_k=1000, max_new_tokens=6)
    assert found.scores.values[COPIER] == 1
    batch = measure_retrieval(words_model(), Words(), top_k=10, max_new_tokens=8)
    alone = measure_retrieval(words_model(), Words(), top_k=10, max_new_tokens=8, batch_tokens=1)
    assert torch.equal(batch.every_score, alone.every_score)


def test_answers_end_at_different_steps(model):
    class Mixed(Copying):
        def samples(self, tokenizer: object) -> list[Sample]:
            return [sample for words in (2, 5, 3) for sample in replace(TASK, words=words).samples(tokenizer)]

    found = measure_retrieval(model, Mixed())
    assert sorted({len(answer.split()) for answer in found.answers["answer"]}) == [3, 4, 6]
    assert torch.equal(found.scores.samples, known(COPIER).expand(18, 2, 4))


def test_layers_without_attention_have_no_scores():
    scores = retrieval_scores(words_model("qwen3_next"), Words(lengths=(9,)), max_new_tokens=2)
    assert scores.samples.shape == (1, 2, 4)
    assert scores.heads == tuple(Head(1, head) for head in range(4))


# -- which samples count ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half(Copying):
    """Every second prompt ends with the needle's last word, not the key, so that a full stop is all that follows."""

    def samples(self, tokenizer: object) -> list[Sample]:
        whole = super().samples(tokenizer)
        return [self._ending(s) if i % 2 else s for i, s in enumerate(whole)]

    def _ending(self, sample: Sample) -> Sample:
        prompt = " ".join([*sample.prompt.split()[:-1], sample.target.split()[-1]])
        return replace(sample, prompt=prompt, marks={"needle": sample.characters("needle")})


def test_released_drops_failed_samples_and_paper_keeps_them(model):
    paper, released = (measure_retrieval(model, Half(), variant=variant) for variant in ("paper", "released"))
    assert paper.answers["kept"].all()
    assert paper.scores.n == 6
    assert paper.scores.values[COPIER] == pytest.approx(0.5)
    assert released.answers["kept"].tolist() == [True, False] * 3
    assert released.scores.n == 3
    assert released.scores.values[COPIER] == 1
    assert released.scores.meta["samples_dropped"] == 3
    assert paper.scores.meta["samples_dropped"] == 0
    assert len(released.every_score) == 6


def test_the_bar_of_recall_is_exclusive_and_may_be_given(model):
    assert measure_retrieval(model, TASK, min_recall=0.99).scores.n == 6
    with pytest.raises(UsageError, match=r"none of 6 answers has a ROUGE-1 recall above 1\.0"):
        _ = measure_retrieval(model, TASK, min_recall=1.0).scores


def test_a_model_that_fails_everything_cannot_be_scored_as_released(model):
    failing = measure_retrieval(planted(copier=False), TASK, variant="released")
    assert not failing.answers["kept"].any()
    with pytest.raises(UsageError, match=r"none of 6 answers .*use variant='paper', shorter"):
        _ = failing.scores


def test_meta_says_how_scores_were_made(model):
    meta = retrieval_scores(model, TASK, variant="released", top_k=2).meta
    assert meta["model"] == "planted"
    assert meta["task"] == repr(TASK)
    assert (meta["variant"], meta["top_k"], meta["min_recall"], meta["seed"]) == ("released", 2, 0.5, 0)


# -- resumption ------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a signal."""


def counted(monkeypatch: pytest.MonkeyPatch, *, die_at: int | None = None) -> list[int]:
    """Sizes of the batches that are generated from now on; the one numbered `die_at` raises."""
    sizes: list[int] = []
    plain = HookedModel.generate_batch

    def generate_batch(self: HookedModel, batch, **options):
        sizes.append(len(batch.samples))
        if len(sizes) == die_at:
            raise Killed
        return plain(self, batch, **options)

    monkeypatch.setattr(HookedModel, "generate_batch", generate_batch)
    return sizes


@pytest.mark.parametrize("again", [59, 30, 200], ids=["same batches", "smaller", "larger"])
def test_a_killed_run_goes_on_without_computing_anything_twice(model, tmp_path, monkeypatch, again):
    whole = measure_retrieval(model, Half())
    make = {"command": "test", "config": {}}
    with monkeypatch.context() as patch:
        done = counted(patch, die_at=2)
        with pytest.raises(Killed), Run.create(tmp_path / "run", **make) as run:
            measure_retrieval(model, Half(), run=run, batch_tokens=59)
    assert done == [2, 2]  # the second one was killed
    with Run.create(tmp_path / "run", resume=True, **make) as run:
        done = counted(monkeypatch)
        resumed = measure_retrieval(model, Half(), run=run, batch_tokens=again)
        assert sum(done) == 4
        repeated = measure_retrieval(model, Half(), run=run, batch_tokens=again)
        assert sum(done) == 4
    for found in (resumed, repeated):
        assert found.answers.equals(whole.answers)
        assert torch.equal(found.every_score, whole.every_score)


# -- errors and cost -------------------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(model):
    with pytest.raises(UsageError, match=r"70 tokens .*planted, 64 tokens; ask for shorter lengths"):
        retrieval_scores(model, Copying(lengths=(20, 70)))
    # Learned positions end there: the answer must fit as well.
    with pytest.raises(UsageError, match=r"60 tokens and an answer of up to 16 .*planted, 64 tokens"):
        retrieval_scores(model, Copying(lengths=(60,)))
    assert retrieval_scores(model, Copying(lengths=(60,)), max_new_tokens=4).values[COPIER] == 1


def test_samples_without_a_needle_are_refused():
    with pytest.raises(UsageError, match=r"no mark 'needle'.*has other"):
        retrieval_scores(words_model(), Words(mark="other"), max_new_tokens=2)


def test_unknown_settings_are_refused(model, unchecked):
    with pytest.raises(UsageError, match="variant 'papers' is not known; use 'paper' or 'released'"):
        retrieval_scores(model, TASK, variant="papers")
    with pytest.raises(UsageError, match="top_k is 0"):
        retrieval_scores(model, TASK, top_k=0)


@pytest.fixture
def unchecked(monkeypatch):
    """The tests' type checker would refuse unknown names before headscope can."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_one_row_a_token_and_of_the_prompt_only_the_last(model, monkeypatch):
    asked, first = [], []
    plain, row = head_analysis.top_keys.score_rows, head_analysis.top_keys.pattern_rows

    def score_rows(x, **options):
        asked.append((x.query.shape[2], x.n_keys))
        return plain(x, **options)

    def pattern_rows(x, **options):
        found = row(x, **options)
        first.append((found.shape[2], x.query.shape[2]))
        return found

    monkeypatch.setattr(head_analysis.top_keys, "score_rows", score_rows)
    monkeypatch.setattr(head_analysis.top_keys, "pattern_rows", pattern_rows)
    retrieval_scores(model, Copying(lengths=(27,), repeats=1), max_new_tokens=4)
    assert asked == [(3, 30)] * 2  # (rows, keys) of the two layers: all later steps at once
    assert first == [(1, 27)] * 2  # (rows, queries of the call)
