"""What commands ask: samples that the metrics can use, and refusals of what cannot be asked."""

import json
from pathlib import Path

import pytest

from experiments.answer_metrics import answer_token, answers_of
from experiments.commands.asking import TASKS, Asked, Asking, answer_room, ask, check_answers, check_fits
from headscope import HookedModel, Sample, UsageError
from tasks import Needle, Subset
from tests.planted.naming import naming_model

SMALL = {"lengths": "96", "depths": 1, "repeats": 2, "prompts": 3}


@pytest.fixture(scope="module")
def needle() -> HookedModel:
    return HookedModel.load("zoo:needle", device="cpu")


@pytest.fixture(scope="module")
def naming() -> HookedModel:
    return naming_model()


def of_file(tmp_path, *rows) -> str:
    path = Path(tmp_path) / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("task", ["needle", "choices"])
@pytest.mark.parametrize("metric", ["logit_difference", "probability", "kl", "loss", "score"])
def test_the_small_model_can_be_asked_for_every_metric(needle, task, metric):
    asked = ask(needle, Asking(task, **SMALL))
    check_answers(needle, asked, metric)
    assert (answer_room(needle, asked, metric) > 0) == (metric in ("loss", "score"))


def test_right_and_wrong_answers_are_the_words_of_the_text(needle):
    for task in ("needle", "choices"):
        asked = ask(needle, Asking(task, **SMALL))
        for sample in asked.samples:
            for answer in (sample.target, sample.meta["foil"]):
                assert answer.strip() in sample.prompt
            assert sample.target.split()[0] != sample.meta["foil"].split()[0]
            word = needle.tokenizer.decode([answer_token(needle, sample, sample.target)])
            assert word == sample.target.split()[0]


def test_people_are_asked_about_where_they_are_known(naming, needle):
    asked = ask(naming, Asking("ioi", prompts=4, counterfactual="swap", seed=2))
    clean, corrupt = asked.pairs
    answers = answers_of(naming, clean, corrupt, "logit_difference")
    assert naming.tokenizer.decode(answers.right) == " ".join(sample.meta["IO"] for sample in clean)
    assert [a.target for a in corrupt] == [a.meta["foil"] for a in clean]
    with pytest.raises(UsageError, match=r"--task ioi cannot be asked of zoo:needle: of 71 names .* keeps 4 whole"):
        ask(needle, Asking("ioi"))
    with pytest.raises(UsageError, match="--task colored_objects cannot be asked of zoo:needle"):
        ask(needle, Asking("colored_objects"))


def test_a_limit_keeps_pairs_together(needle):
    clean, corrupt = ask(needle, Asking("needle", lengths="96", depths=2, repeats=2, limit=3)).pairs
    whole = ask(needle, Asking("needle", lengths="96", depths=2, repeats=2)).pairs
    assert (clean, corrupt) == (whole[0][:3], whole[1][:3])


def test_own_prompts(needle, tmp_path):
    row = {
        "prompt": "The baker sold the",
        "target": " kettle",
        "foil": " lamp",
        "counterfactual": "The sailor sold the",
    }
    file = of_file(tmp_path, row)
    asked = ask(needle, Asking(file))
    check_answers(needle, asked, "logit_difference")
    assert asked.pairs[1][0].target == " lamp"
    before = Asking(file).facts()
    of_file(tmp_path, {**row, "foil": " hat"})
    changed = {key for key, value in Asking(file).facts().items() if before[key] != value}
    assert changed == {"sha256"}


@pytest.mark.parametrize(
    ("row", "metric", "message"),
    [
        ({"target": " lamp"}, "logit_difference", "sample 0 .* names no wrong answer"),
        ({"target": " lamp", "foil": " lamp"}, "logit_difference", "begin with the same token"),
        ({"target": " xylophone", "foil": " lamp"}, "logit_difference", "know how the answer ' xylophone' begins"),
        ({}, "probability", "names no answer to measure"),
        ({}, "loss", "sample 0 .* has no target, which metric 'loss' needs"),
        ({}, "score", "sample 0 .* has no target, which metric 'score' needs"),
    ],
)
def test_a_metric_without_its_answers_is_refused(needle, tmp_path, row, metric, message):
    asked = ask(needle, Asking(of_file(tmp_path, {"prompt": "The baker sold the", **row})))
    with pytest.raises(UsageError, match=message):
        check_answers(needle, asked, metric)
    check_answers(needle, asked, "kl")


def test_one_needle_has_no_wrong_answer_but_others(needle):
    asked = ask(needle, Asking("needle", needles=1, **SMALL))
    assert isinstance(asked.task, Needle)
    check_answers(needle, asked, "probability")
    with pytest.raises(UsageError, match=r"names no wrong answer .* --needles 2 for needles"):
        check_answers(needle, asked, "logit_difference")


def test_what_has_no_counterfactuals_makes_no_pairs(needle, tmp_path):
    file = of_file(tmp_path, {"prompt": "The baker sold the"})
    for asking in (Asking("choices", **SMALL), Asking("needle", needles=1, **SMALL), Asking(file)):
        with pytest.raises(UsageError, match="has no counterfactual prompts, and patching needs pairs"):
            _ = ask(needle, asking).pairs


def test_a_prompt_that_does_not_fit_is_named(naming, tmp_path):
    most = naming.context_length
    assert most == 128
    long, short = " ".join(["Mary"] * 200), " ".join(["Mary"] * 120)
    file = of_file(tmp_path, {"prompt": "Mary and", "target": " John"}, {"prompt": long, "target": " John"})
    with pytest.raises(
        UsageError, match="sample 1 has 201 tokens, but the context of planted naming holds 128; ask for"
    ):
        ask(naming, Asking(file))
    asked = Asked("mine", Subset(Needle()), (Sample(short, " John John John John John John John John"),))
    assert answer_room(naming, asked, "probability") == 0
    with pytest.raises(UsageError, match=r"sample 0 has 121 tokens and its answer up to 8 more, but .* holds 128"):
        answer_room(naming, asked, "loss")
    with pytest.raises(UsageError, match="counterfactual of sample 0 is empty"):
        check_fits(naming, [Sample(" ")], kind="the counterfactual of sample")


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        (Asking("needles"), "--task 'needles' is not known; use needle, choices, ioi, colored_objects, or a file"),
        (Asking("nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (Asking("needle", lengths="a"), "not a list of positive whole numbers"),
        (Asking("choices", lengths="96,128"), "choices have one"),
        (Asking("ioi", counterfactual="told"), "'told' is none of ioi; use abc or swap"),
        (Asking("needle", counterfactual="abc"), "'abc' is none of needle; use asked or told"),
        (Asking("choices", counterfactual="abc"), "--task choices has none, so leave it out"),
        (Asking("needle", needles=1, counterfactual="told"), "asks for one fact and for another"),
    ],
)
def test_a_task_that_is_not_known(asking, message):
    with pytest.raises(UsageError, match=message):
        asking.task()


def test_every_task_is_made_and_told_by_its_facts():
    for name in TASKS:
        assert Asking(name).task() == Asking(name).task()
    assert Asking("needle").facts() != Asking("needle", seed=2).facts()


def test_a_model_without_a_tokenizer():
    with pytest.raises(UsageError, match="without a tokenizer"):
        ask(HookedModel(naming_model().hf, name="silent"), Asking("needle"))
