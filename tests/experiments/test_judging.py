"""Judgements: tables by hand, intervals over images, controls, resumption, the whole way on models of text and images."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from experiments import Condition, against_random, compare
from experiments.judging import JudgedTask, Judgement, judge
from headscope import HookedModel, UsageError
from headscope.clusters import Metric, ratio
from headscope.evidence import false_discovery
from headscope.runs import Run
from interventions import Ablate
from tasks.scenes import scene_captions, scene_colours, scene_pope
from tests.head_analysis.planted import BEFORE, COPIER, Copying, planted
from training.scene_model import Shape, build_model, build_processor

RATE = Metric("wrong", ("wrong", "items"), ratio)
WORDS = Metric("words", ("words", "items"), ratio, proportion=False)

# -- tables by hand --------------------------------------------------------------------------------------------------

WRONG = {  # condition, kind, family -> wrong of each of two items of four images
    ("none", "none", ""): ((1, 1), (1, 0), (1, 1), (0, 0)),
    ("cure", "treatment", ""): ((0, 0), (0, 0), (0, 0), (0, 0)),
    ("same", "treatment", ""): ((1, 1), (1, 0), (1, 1), (0, 0)),
    ("random, seed 0", "control", "random"): ((1, 1), (1, 0), (1, 1), (0, 0)),
    ("random, seed 1", "control", "random"): ((1, 1), (0, 0), (0, 0), (0, 0)),
    ("random, seed 2", "control", "random"): ((1, 1), (1, 0), (1, 1), (1, 1)),
}


def judgement(wrong: dict = WRONG, metrics: tuple[Metric, ...] = (RATE, WORDS)) -> Judgement:
    rows = [
        {
            "condition": name,
            "kind": kind,
            "family": family,
            "image_id": f"i{image}",
            "wrong": bad,
            "items": 1,
            "words": 2,
        }
        for (name, kind, family), images in wrong.items()
        for image, items in enumerate(images)
        for bad in items
    ]
    return Judgement(pd.DataFrame(rows), metrics)


def rates(frame: pd.DataFrame, metric: str = "wrong") -> pd.DataFrame:
    return frame[frame["metric"] == metric].set_index("condition")


def test_summary_by_hand():
    summary = judgement().summary()
    assert list(summary["metric"]) == ["wrong"] * 6 + ["words"] * 6
    found = rates(summary)
    assert list(found.index) == [name for name, *_ in WRONG]
    assert found["value"].tolist() == [0.625, 0, 0.625, 0.625, 0.25, 0.875]
    assert found["n"].tolist() == [8] * 6
    assert found["images"].tolist() == [4] * 6
    assert found["difference"].tolist()[1:] == [-0.625, 0, 0, -0.375, 0.25]
    # Three images get better by 2, 1 and 2, so that all must be kept or all exchanged: 2 of 8 ways.
    assert found.loc["cure", "p"] == 0.25
    same = found.loc["same", ["difference", "difference_low", "difference_high", "p"]].tolist()
    assert same == [0, 0, 0, 1]
    assert rates(summary, "words")["value"].eq(2).all()


def test_the_baseline_has_no_difference():
    for frame in (judgement().summary(), judgement().families()):
        columns = ["difference", "difference_low", "difference_high", "p"]
        assert frame[frame["kind"] == "none"][columns].isna().all(axis=None)
        assert frame[(frame["kind"] == "treatment")][columns].notna().all(axis=None)


def test_without_a_baseline_there_are_no_differences():
    alone = judgement({key: value for key, value in WRONG.items() if key[1] != "none"})
    assert alone.summary()[["difference", "p", "q"]].isna().all(axis=None)
    assert alone.families()["difference"].isna().all()


def test_q_corrects_over_the_conditions_of_a_metric():
    summary = judgement().summary()
    for metric in ("wrong", "words"):
        found = rates(summary, metric)
        np.testing.assert_allclose(found["q"], false_discovery(found["p"].to_numpy(float)))
    assert rates(summary)["q"].iloc[1] > rates(summary)["p"].iloc[1]


def test_a_family_is_one_row_with_its_lowest_and_highest_draw():
    families = rates(judgement().families())
    assert list(families.index) == ["none", "cure", "same", "random (3 draws)"]
    random = families.loc["random (3 draws)"]
    assert random["value"] == pytest.approx((0.625 + 0.25 + 0.875) / 3)
    assert (random["lowest"], random["highest"], random["n"], random["images"]) == (0.25, 0.875, 8, 4)
    assert random["difference"] == pytest.approx((0 - 0.375 + 0.25) / 3)
    assert random["low"] < random["value"] < random["high"]
    assert random["difference_low"] < random["difference"] < random["difference_high"]
    assert np.isnan(random["p"])
    assert families.loc[["none", "cure"], ["lowest", "highest"]].isna().all(axis=None)


def test_items_of_an_image_are_drawn_together():
    # Items of an image agree, so the same 400 items say less than if each came from an image of its own.
    bad = np.random.default_rng(0).integers(0, 2, 50)
    together = judgement({("none", "none", ""): [(b,) * 8 for b in bad]}, (RATE,)).summary().iloc[0]
    alone = judgement({("none", "none", ""): [(b,) for b in np.repeat(bad, 8)]}, (RATE,)).summary().iloc[0]
    assert together["value"] == alone["value"]
    assert (together["n"], together["images"], alone["images"]) == (400, 50, 400)
    assert (together["high"] - together["low"]) / (alone["high"] - alone["low"]) == pytest.approx(np.sqrt(8), rel=0.15)


def test_differences_pair_images_and_not_rows():
    whole = judgement().table
    backwards = Judgement(pd.concat([whole[whole["kind"] == "none"], whole[whole["kind"] != "none"][::-1]]), (RATE,))
    columns = ["difference", "difference_low", "difference_high", "p"]
    pd.testing.assert_series_equal(
        rates(backwards.summary()).loc["random, seed 1", columns],
        rates(judgement().summary()).loc["random, seed 1", columns],
    )


def test_conditions_asked_different_things_are_refused():
    whole = judgement().table
    less = whole[~((whole["condition"] == "cure") & (whole["image_id"] == "i0"))]
    with pytest.raises(UsageError, match="'cure' and 'none' were asked different things"):
        Judgement(less, (RATE,)).summary()
    item = whole.drop(index=whole.index[whole["condition"] == "same"][0])
    with pytest.raises(UsageError, match="'same' and 'none' were asked different things"):
        Judgement(item, (RATE,)).families()


def test_plot_shows_one_metric_of_every_family():
    found = judgement()
    for name, figure in (("wrong", found.plot()), ("words", found.plot("words"))):
        shown = str(figure.to_dict())
        assert all(text in shown for text in (f"{name} by condition", "none", "cure", "random"))
    with pytest.raises(UsageError, match="metric 'length' is not among those judged; choose one of wrong, words"):
        found.plot("length")


# -- judge -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copied(Copying):
    """Copying, several prompts to an `image` as if they were questions about one."""

    repeats: int = 4

    def samples(self, tokenizer):
        found = super().samples(tokenizer)
        return [replace(s, meta={**s.meta, "image_id": f"i{i // 2}"}) for i, s in enumerate(found)]

    def details(self, sample, answer):
        wrong = 1 - int(self.score(sample, answer))
        return {"image_id": sample.meta["image_id"], "wrong": wrong, "items": 1, "words": len(answer.split())}

    @property
    def metrics(self):
        return (RATE, WORDS)


TASK = Copied()


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return planted()


def test_the_copier_is_needed_and_random_others_are_not(model):
    assert isinstance(TASK, JudgedTask)
    conditions = [Condition("none"), *against_random(model, [COPIER], draws=2, phase="decode")]
    found = judge(model, TASK, conditions)
    families = rates(found.families())
    assert families["value"].to_dict() == {
        "none": 0,
        "without L1H2": 1,
        "random, same layers (2 draws)": 0,
        "random, any layer (2 draws)": 0,
    }
    assert families["images"].eq(6).all()
    assert families.loc["without L1H2", "p"] == 2 / 2**6
    assert 0 < families.loc["none", "high"] < 0.5  # none of 12 is no certainty
    assert {"item", "sample", "target", "answer", "score", "length"} <= set(found.table.columns)
    assert found.meta["task"] == repr(TASK)


def test_a_judgement_has_the_answers_of_a_comparison(model):
    conditions = {"none": [], "cut": [Ablate([BEFORE], phase="decode")]}
    judged, compared = judge(model, TASK, conditions, chunk=5).table, compare(model, TASK, conditions).table
    shared = ["sample", "condition", "kind", "family", "target", "answer", "score", "image_id"]
    pd.testing.assert_frame_equal(judged[shared], compared[shared])


class Killed(BaseException):
    """Stands for a signal."""


def test_a_killed_judgement_keeps_every_chunk(model, tmp_path, monkeypatch):
    conditions = {"none": [], "cut": [Ablate([COPIER])]}
    whole = judge(model, TASK, conditions, chunk=5)
    plain, calls = HookedModel.generate_batch, []

    def generate_batch(self: HookedModel, batch, **options):
        calls.append(len(batch.samples))
        if len(calls) == 5:
            raise Killed
        return plain(self, batch, **options)

    monkeypatch.setattr(HookedModel, "generate_batch", generate_batch)
    make = {"command": "test", "config": {}}
    with pytest.raises(Killed), Run.create(tmp_path / "run", **make) as run:
        judge(model, TASK, conditions, chunk=5, run=run)
    assert run.cell_keys() == ("cut, items 0-4", "none, items 0-4", "none, items 10-11", "none, items 5-9")
    with Run.create(tmp_path / "run", resume=True, **make) as run:
        resumed = judge(model, TASK, conditions, chunk=5, run=run)
    assert len(calls) == 5 + 2
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    pd.testing.assert_frame_equal(resumed.summary(), whole.summary())
    with pytest.raises(UsageError, match="holds answers to other items under 'none, items 0-4'"):
        judge(model, Copied(seed=1), conditions, chunk=5, run=run)


def test_tasks_without_counts_are_refused(model):
    with pytest.raises((UsageError, TypeError), match="Copying"):
        judge(model, Copying(), {"none": []})
    with pytest.raises(UsageError, match="chunk is 0"):
        judge(model, TASK, {"none": []}, chunk=0)
    with pytest.raises(UsageError, match="a and b both edit nothing"):
        judge(model, TASK, {"a": [], "b": []})


# -- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seeing() -> HookedModel:
    shape = Shape(tower_layers=1, tower_width=16, tower_mlp=16, layers=2, d_model=16, heads=2, d_head=8, d_mlp=16)
    return HookedModel(build_model(shape, seed=0).eval(), build_processor(), name="untrained")


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        (scene_pope(4), ["accuracy", "precision", "recall", "F1", "yes_ratio", "unparsed", "words"]),
        (scene_captions(3, answer_tokens=8), ["CHAIR_S", "CHAIR_I", "recall", "F1", "words", "partner_share"]),
        (scene_colours(3), ["accuracy", "words"]),
    ],
)
def test_scenes_the_whole_way_on_an_untrained_model(seeing, task, metrics):
    every = [Ablate(list(seeing.heads()))]
    found = judge(seeing, task, {"none": [], "no attention": every}, max_new_tokens=6, chunk=3)
    summary = found.summary(resamples=50)
    assert list(dict.fromkeys(summary["metric"])) == metrics
    assert found.table.groupby("condition").size().nunique() == 1
    assert found.table["answer"].str.len().gt(0).any()
    assert (summary["low"].isna() | (summary["low"] <= summary["value"])).all()
    assert found.table.groupby(["condition", "image_id"]).size().min() >= 1
    if metrics[0] == "accuracy":
        rate = found.table.groupby("condition", sort=False)["score"].mean().tolist()
        assert summary[summary["metric"] == "accuracy"]["value"].tolist() == pytest.approx(rate)


def test_the_first_metrics_list_length_recall_and_yes_beside_hallucination():
    listed = [{metric.name for metric in task.metrics} for task in (scene_pope(2), scene_captions(2))]
    assert {"recall", "yes_ratio", "words"} <= listed[0]
    assert {"recall", "words"} <= listed[1]
