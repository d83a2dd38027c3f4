"""Comparisons: tables by hand, controls that are controls, resumption, the whole way on a model known by design."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import Comparison, Condition, against_random, compare
from experiments.compare import language_loss
from headscope import Head, HookedModel, Sample, UsageError
from headscope.runs import Run
from headscope.scoring import exact_match
from interventions import Ablate, head_outputs
from tests.head_analysis.planted import BEFORE, COPIER, Copying, others, planted
from tests.headscope.test_hooks import sentence, words_model

TASK = Copying()


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return planted()


# -- tables by hand --------------------------------------------------------------------------------------------------

SCORES = {
    ("none", "none", ""): (1, 1, 1, 0),
    ("without L1H2", "treatment", ""): (0, 0, 1, 0),
    ("random, seed 0", "control", "random"): (1, 1, 1, 0),
    ("random, seed 1", "control", "random"): (1, 0, 0, 0),
    ("random, seed 2", "control", "random"): (1, 1, 0, 1),
}


def table(scores: dict = SCORES) -> Comparison:
    rows = [
        {"condition": name, "kind": kind, "family": family, "sample": sample, "score": float(score)}
        for (name, kind, family), values in scores.items()
        for sample, score in enumerate(values)
    ]
    return Comparison(pd.DataFrame(rows))


def test_summary_by_hand():
    summary = table().summary().set_index("condition")
    assert list(summary.index) == [name for name, *_ in SCORES]
    assert summary["mean"].tolist() == [0.75, 0.25, 0.75, 0.25, 0.75]
    assert summary["n"].tolist() == [4] * 5
    assert summary["difference"].tolist()[1:] == [-0.5, 0, -0.5, 0]
    without = summary.loc["without L1H2"]
    assert (without["difference_low"], without["difference_high"]) == (-1, 0)
    # Two of four differences are -1, the others 0: of the four sign flips of the two, two are as far from 0.
    assert without["p"] == pytest.approx(0.5)
    assert summary.loc["random, seed 0", "p"] == 1
    assert without["low"] < 0.25 < without["high"]


def test_the_baseline_has_no_difference():
    for frame in (table().summary(), table().families()):
        baseline = frame.set_index("condition").loc["none"]
        assert baseline[["difference", "difference_low", "difference_high", "p"]].isna().all()
    assert np.isnan(table().summary()["q"].iloc[0])


def test_q_values_correct_for_all_conditions_together():
    summary = table().summary()
    p = summary["p"].to_numpy()[1:]
    ranked = np.sort(p) * len(p) / np.arange(1, len(p) + 1)
    expected = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1)
    assert summary["q"].to_numpy()[1:] == pytest.approx(expected[np.argsort(np.argsort(p, kind="stable"))])
    assert (summary["q"][1:] >= p).all()


def test_a_family_is_one_row_with_its_worst_and_best_draw():
    families = table().families().set_index("condition")
    assert list(families.index) == ["none", "without L1H2", "random (3 draws)"]
    random = families.loc["random (3 draws)"]
    assert random["mean"] == pytest.approx(7 / 12)
    assert (random["worst"], random["best"], random["n"]) == (0.25, 0.75, 4)
    # Means over draws are 1, 2/3, 1/3, 1/3; less the baseline: 0, -1/3, -2/3, 1/3.
    assert random["difference"] == pytest.approx(-1 / 6)
    assert 0 <= random["low"] < 1 / 3  # the draws differ too, so it is wider than over samples alone
    assert 7 / 12 < random["high"] <= 1
    assert random["difference_low"] < -1 / 6 < random["difference_high"]
    assert np.isnan(random["p"])
    assert families.loc[["none", "without L1H2"], ["worst", "best"]].isna().all(axis=None)


def test_two_baselines_are_refused(model):
    with pytest.raises(UsageError, match="a and b both edit nothing"):
        compare(model, TASK, {"a": [], "b": []})


def test_a_condition_without_interventions_is_the_baseline():
    assert Condition("plain").kind == "none"
    assert Condition("cut", (Ablate("L0H0"),)).kind == "treatment"


def test_without_a_baseline_there_are_no_differences():
    summary = table({key: values for key, values in SCORES.items() if key[1] != "none"}).summary()
    assert summary[["difference", "p", "q"]].isna().all(axis=None)
    assert summary["mean"].iloc[0] == 0.25


def test_differences_pair_samples_and_not_rows():
    whole = table({("none", "none", ""): (0, 1, 1, 1), ("cut", "treatment", ""): (0, 0, 1, 1)}).table
    backwards = pd.concat([whole[whole["kind"] == "none"], whole[whole["kind"] == "treatment"][::-1]])
    cut = Comparison(backwards).summary().set_index("condition").loc["cut"]
    assert (cut["difference"], cut["difference_high"]) == (-0.25, 0)  # row by row, one sample would be better by 1


def test_plot_shows_every_family():
    shown = str(table().plot().to_dict())
    assert all(name in shown for name in ("none", "without L1H2", "random"))


# -- controls --------------------------------------------------------------------------------------------------------


def removed(condition: Condition) -> tuple[Head, ...]:
    return condition.interventions[0].heads


def of(conditions: list[Condition], family: str) -> list[Condition]:
    return [condition for condition in conditions if condition.family == family]


def test_controls_are_as_many_other_heads(model):
    heads = (Head(1, 2), Head(0, 1), Head(1, 0))
    conditions = against_random(model, heads, draws=6)
    assert conditions[0].name == "without L1H2, L0H1, L1H0"
    assert (conditions[0].kind, conditions[0].family, removed(conditions[0])) == ("treatment", "", heads)
    assert len(conditions) == 1 + 6 + 6
    for condition in conditions[1:]:
        assert condition.kind == "control"
        assert len(set(removed(condition))) == 3
        assert not set(removed(condition)) & set(heads)
    for condition in of(conditions, "random, same layers"):
        assert sorted(head.layer for head in removed(condition)) == [0, 1, 1]
    layers = {tuple(head.layer for head in removed(c)) for c in of(conditions, "random, any layer")}
    assert layers - {(0, 1, 1)}, "drawn from the whole model, some draw has other layers"


def test_controls_repeat_and_differ_from_each_other(model):
    first, again = (against_random(model, [COPIER, Head(0, 0)], draws=5) for _ in range(2))
    assert first == again
    assert [condition.name for condition in first[1:3]] == [
        "random, same layers, seed 0",
        "random, same layers, seed 1",
    ]
    for family in ("random, same layers", "random, any layer"):
        assert len({removed(condition) for condition in of(first, family)}) > 1


def test_settings_reach_treatment_and_controls(model):
    reference = head_outputs(model, TASK.samples(None)[:1])
    for condition in against_random(model, [COPIER], draws=1, mode="mean", phase="decode", reference=reference):
        (ablate,) = condition.interventions
        assert (ablate.mode, ablate.phase, ablate.reference) == ("mean", "decode", reference)


def test_a_layer_with_too_few_other_heads_is_refused(model):
    three = [Head(1, 0), Head(1, 1), Head(1, 2)]
    with pytest.raises(UsageError, match=r"layer 1 has 4 heads of which 3 are excluded; 3 cannot .* use fewer heads"):
        against_random(model, three)


# -- compare ---------------------------------------------------------------------------------------------------------


def test_the_copier_is_needed_and_random_others_are_not(model):
    conditions = [Condition("none"), *against_random(model, [COPIER], draws=3, phase="decode")]
    found = compare(model, TASK, conditions)
    families = found.families().set_index("condition")
    assert families["mean"].to_dict() == {
        "none": 1,
        "without L1H2": 0,
        "random, same layers (3 draws)": 1,
        "random, any layer (3 draws)": 1,
    }
    assert families["n"].eq(6).all()
    assert families.loc["without L1H2", "p"] == pytest.approx(2 / 2**6)
    assert found.meta == {"model": "planted", "task": repr(TASK)}
    assert {"target", "answer", "length", "repeat"} <= set(found.table.columns)
    assert len(found.table) == 8 * 6


def test_every_condition_answers_the_same_samples_and_leaves_no_trace(model):
    found = compare(model, TASK, {"cut": [Ablate([COPIER])], "none": [], "other": [Ablate(others(COPIER, BEFORE))]})
    assert found.table.groupby("condition")["target"].apply(list).map(tuple).nunique() == 1
    assert found.summary().set_index("condition")["mean"].to_dict() == {"cut": 0, "none": 1, "other": 1}
    assert found.summary().set_index("condition")["kind"].to_dict() == {
        "cut": "treatment",
        "none": "none",
        "other": "treatment",
    }


def test_interventions_of_a_condition_act_together(model):
    found = compare(model, TASK, {"none": [], "both": [Ablate([Head(0, 0)]), Ablate([COPIER])]})
    assert found.summary()["mean"].tolist() == [1, 0]


def test_batches_do_not_change_answers(model):
    conditions = {"none": [], "cut": [Ablate([BEFORE], phase="decode")]}
    together, alone = (compare(model, TASK, conditions, batch_tokens=tokens).table for tokens in (8192, 1))
    pd.testing.assert_frame_equal(together, alone)


class Killed(BaseException):
    """Stands for a signal."""


def test_a_killed_comparison_goes_on_where_it_stopped(model, tmp_path, monkeypatch):
    conditions = {"none": [], "cut": [Ablate([COPIER])], "other": [Ablate([Head(1, 0)])]}
    whole = compare(model, TASK, conditions)
    plain, calls = HookedModel.generate_batch, []

    def generate_batch(self: HookedModel, batch, **options):
        calls.append(len(batch.samples))
        if len(calls) == 2:
            raise Killed
        return plain(self, batch, **options)

    monkeypatch.setattr(HookedModel, "generate_batch", generate_batch)
    make = {"command": "test", "config": {}}
    with pytest.raises(Killed), Run.create(tmp_path / "run", **make) as run:
        compare(model, TASK, conditions, run=run)
    assert run.cell_keys() == ("none",)
    assert run.facts["status"] == "failed"
    with Run.create(tmp_path / "run", resume=True, **make) as run:
        resumed = compare(model, TASK, conditions, run=run)
    assert len(calls) == 4  # one finished, one killed, and the two that were left
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    pd.testing.assert_frame_equal(resumed.families(), whole.families())


def test_conditions_that_cannot_be_told_apart_are_refused(model):
    with pytest.raises(UsageError, match="condition 'a' is given twice"):
        compare(model, TASK, [Condition("a"), Condition("b"), Condition("a")])
    with pytest.raises(UsageError, match="no condition given"):
        compare(model, TASK, {})


def test_prompts_longer_than_the_context_are_refused(model):
    with pytest.raises(UsageError, match=r"70 tokens .*64 tokens; ask for shorter lengths"):
        compare(model, Copying(lengths=(70,)), {"none": []})


# -- other models, plain text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parrot:
    """Scores whether the first word of an answer is the one that the model wrote unedited."""

    answers: tuple[str, ...]

    def samples(self, tokenizer: object) -> list[Sample]:
        return [Sample(sentence(8 + i, seed=i), answer) for i, answer in enumerate(self.answers)]

    def score(self, sample: Sample, answer: str) -> float:
        return exact_match(answer.split()[0], sample.target)


@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_a_toy_task_on_a_tiny_model(name):
    model = words_model(name)
    texts = [sample.prompt for sample in Parrot(("w",) * 6).samples(None)]
    task = Parrot(tuple(answer.text.split()[0] for answer in model.generate(texts, max_new_tokens=1)))
    heads = [Head(layer, head) for layer in (0, 1) for head in range(4)]
    found = compare(model, task, {"none": [], "no attention": [Ablate(heads)]}, max_new_tokens=2).summary()
    assert found["mean"].iloc[0] == 1
    assert found["mean"].iloc[1] < 0.5


def test_language_loss_is_the_cross_entropy_of_the_next_token():
    model = words_model()
    texts = [sentence(9, seed=1), sentence(5, seed=2)]
    cut = Ablate("L0H1, L1H2")
    losses = language_loss(model, texts, [Condition("none"), Condition("cut", (cut,), family="f")])
    assert losses["condition"].tolist() == ["none", "none", "cut", "cut"]
    assert losses["family"].tolist() == ["", "", "f", "f"]
    assert losses["text"].tolist() == [0, 1, 0, 1]
    for row in losses.itertuples():
        ids = model.tokens(texts[row.text]).ids
        with model.hooks(*([cut] if row.condition == "cut" else [])), torch.no_grad():
            chances = model.hf(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        by_hand = -sum(chances[i, ids[i + 1]].item() for i in range(len(ids) - 1)) / (len(ids) - 1)
        assert row.loss == pytest.approx(by_hand, rel=1e-5)
    assert losses["loss"].nunique() == 4
