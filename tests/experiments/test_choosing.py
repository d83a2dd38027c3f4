"""Options are compared by what the model gives them, in one pass, and conditions beside each other."""

import pytest
import torch

from experiments.filtering.choosing import choice_scores, compare_choices
from headscope import HookedModel, UsageError
from headscope.runs import Run
from interventions.act import ACT
from tasks.choice_sets import SecretChoices
from tasks.choices import Choices, Classification, Question
from tests.headscope.test_hooks import hooked, words_model
from tests.interventions.sinking import RIGHT, WRONG, misled
from tests.tiny import FIRST_WORD

QUESTIONS = (
    Question("w20 w21 w22 w23 w24", ("w30", "w31 w32", "w33 w34 w35"), 1),
    Question("w40 w41", ("w36 w37", "w38"), 0),
)
CLASSES = tuple(Question(f"w{20 + i} w{30 + i}" + " w50" * i, ("w60", "w61", "w62"), i % 3) for i in range(7))


@pytest.fixture(scope="module")
def llama() -> HookedModel:
    return words_model()


def log_probability(model: HookedModel, prompt: str, option: str) -> float:
    """Token by token."""
    total, text = 0.0, prompt
    for word in option.split():
        total += model.forward([text]).logits[0, -1].log_softmax(-1)[int(word[1:])].item()
        text += f" {word}"
    return total


@pytest.mark.parametrize("rule", ["likelihood", "mean_likelihood"])
def test_likelihoods_are_those_of_the_options_tokens(llama, rule):
    table = choice_scores(llama, Choices(QUESTIONS, rule))
    for question, row in zip(QUESTIONS, table.to_dict("records"), strict=True):
        values = [log_probability(llama, question.prompt, option) for option in question.options]
        if rule == "mean_likelihood":
            values = [value / len(option.split()) for value, option in zip(values, question.options, strict=True)]
        right = values.pop(question.answer)
        assert row["margin"] == pytest.approx(right - max(values), abs=1e-4)
        assert row["score"] == float(right > max(values))
        assert row["target"] == question.options[question.answer]
    assert table["greedy"].isna().all()


def test_the_next_token_decides_between_verbalisers(llama):
    table = choice_scores(llama, Classification(CLASSES))
    for question, row in zip(CLASSES, table.to_dict("records"), strict=True):
        logits = llama.forward([question.prompt]).logits[0, -1]
        values = logits[60:63].tolist()
        assert row["answer"] == question.options[values.index(max(values))]
        assert row["margin"] == pytest.approx(values.pop(question.answer) - max(values), abs=1e-4)
        assert row["greedy"] == float(int(logits.argmax()) == 60 + question.answer)
    assert 0 < table["score"].mean() < 1
    assert list(table["sample"]) == list(range(7))


def test_the_likeliest_of_all_tokens_may_be_right_too(llama):
    likeliest = int(llama.forward(["w20 w21"]).logits[0, -1, FIRST_WORD:].argmax()) + FIRST_WORD
    other = f"w{FIRST_WORD if likeliest != FIRST_WORD else FIRST_WORD + 1}"
    (row,) = choice_scores(llama, Classification((Question("w20 w21", (other, f"w{likeliest}"), 1),))).to_dict(
        "records"
    )
    assert (row["score"], row["greedy"]) == (1, 1)


def test_a_tie_is_wrong(llama):
    with torch.no_grad():
        tied = words_model()
        tied.hf.lm_head.weight[61] = tied.hf.lm_head.weight[60]
    (row,) = choice_scores(tied, Classification((Question("w20", ("w60", "w61"), 0),))).to_dict("records")
    assert (row["margin"], row["score"]) == (0, 0)


@pytest.mark.parametrize("task", [Choices(QUESTIONS, "likelihood"), Classification(CLASSES)])
def test_batches_do_not_matter(llama, task):
    together, alone = (choice_scores(llama, task, batch_tokens=tokens) for tokens in (8192, 1))
    assert together.drop(columns="margin").equals(alone.drop(columns="margin"))
    assert (together["margin"] - alone["margin"]).abs().max() < 1e-4


def test_conditions_stand_beside_each_other_and_are_kept(tmp_path):
    model = misled()
    task = Classification((Question("f1 f2 key0 f3 f4 f5 f6 f7 f8 f9", (WRONG, RIGHT), 1),) * 4)
    conditions = {"none": [], "ACT": [_Lowered(0.4)], "no ACT": [_Lowered(1.0)]}
    with Run.create(tmp_path / "run", command="test", config={}) as run:
        found = compare_choices(model, task, conditions, run=run)
        assert compare_choices(model, task, conditions, run=run).table.equals(found.table)
    summary = found.summary().set_index("condition")
    assert summary["mean"].to_dict() == {"none": 0, "ACT": 1, "no ACT": 0}
    assert summary.loc["ACT", "difference"] == 1
    assert (found.table["margin"] > 0).sum() == 4


class _Lowered:
    """What `ACT("L2H0")` does at the only sink there is, as a plain intervention."""

    def __init__(self, beta: float) -> None:
        self.site, self.where, self.beta = "pattern", ACT("L2H0").where, beta

    def __call__(self, act: torch.Tensor, ctx: object) -> torch.Tensor:
        freed = (1 - self.beta) * act[..., 3:4]
        rest = 1 - act[..., 3:4]
        shared = act + freed * act / rest
        shared[..., 3:4] = self.beta * act[..., 3:4]
        return shared


def test_the_needle_model_knows_whose_word_it_was():
    model = HookedModel.load("zoo:needle")
    for task in (
        SecretChoices(n=12, length=96),
        SecretChoices(n=12, length=96, labels=("lamp", "harbor"), rule="last_token"),
    ):
        table = choice_scores(model, task)
        assert table["score"].mean() >= 0.9
        assert not task.labels or table["greedy"].mean() >= 0.9


def test_options_that_cannot_be_told_apart_are_refused(llama):
    with pytest.raises(UsageError, match=r"options w60 w62, w61 w62 do not all end in different tokens .*'likelihood'"):
        choice_scores(llama, Classification((Question("w20", ("w60 w62", "w61 w62"), 0),)))


def test_models_that_cannot_be_asked_are_refused():
    with pytest.raises(UsageError, match="llama came without a tokenizer"):
        choice_scores(hooked("llama"), Classification(CLASSES))
    with pytest.raises(UsageError, match="has an encoder and a decoder"):
        choice_scores(words_model("t5"), Classification(CLASSES))
