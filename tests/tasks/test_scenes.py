"""Tasks on scenes: what is asked agrees with the scene, whatever the seed, and the prior is what adversarial asks for."""

import pytest

from tasks.scene_world import COLOURS, KINDS, PARTNERS, scenes
from tasks.scenes import scene_captions, scene_colours, scene_pope
from tests.tasks.pictures import metrics_of, processor

N = 40


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
@pytest.mark.parametrize("violating", [True, False])
def test_questions_agree_with_the_scenes(split, violating):
    world = {scene.id: scene for scene in scenes(N, seed=3, violating=violating)}
    samples = scene_pope(N, split, seed=3, violating=violating).samples(processor())
    assert len(samples) == 4 * N
    for sample in samples:
        scene = world[sample.meta["image_id"]]
        assert (sample.meta["category"] in scene.kinds) == (sample.target == "yes")
        assert set(sample.meta["boxes"]) == set(scene.kinds)
        assert sample.meta["question"] == f"Is there a {sample.meta['category']} in the image?"
    assert {sample.target for sample in samples} == {"yes", "no"}


def test_adversarial_negatives_are_usual_partners():
    partners = {}
    for split in ("random", "adversarial"):
        samples = scene_pope(N, split, seed=1).samples(processor())
        pairs = zip(samples[::2], samples[1::2], strict=True)
        partners[split] = [PARTNERS[a.meta["category"]] == b.meta["category"] for a, b in pairs]
    assert all(partners["adversarial"])
    assert sum(partners["random"]) < N / 2


def test_things_asked_about_are_not_the_best_visible_ones():
    world = {scene.id: {t.kind: t.contrast for t in scene.things} for scene in scenes(400, seed=0, violating=True)}
    task = scene_pope(400, seed=0)
    asked = [world[image.id][kind] for image in task.asked for kind in image.categories[:2]]
    others = [world[image.id][kind] for image in task.asked for kind in image.categories[2:]]
    assert sum(asked) / len(asked) == pytest.approx(sum(others) / len(others), abs=0.08)


def test_the_words_of_the_questions_are_known_to_the_scenes_tokenizer():
    tasks = (scene_pope(N), scene_captions(N), scene_colours(N))
    for sample in [sample for task in tasks for sample in task.samples(processor())[:8]]:
        ids = processor().tokenizer(f"{sample.prompt} {sample.target}").input_ids
        assert processor().tokenizer.unk_token_id not in ids


def test_right_captions_are_judged_right_and_partners_told():
    task, world = scene_captions(N, seed=2), scenes(N, seed=2, violating=True)
    right = metrics_of(task, [scene.caption() for scene in world])
    assert (right["CHAIR_S"], right["CHAIR_I"], right["recall"], right["F1"]) == (0, 0, 1, 1)
    habit = metrics_of(task, [f"{scene.caption()[:-1]} and a {PARTNERS[scene.kinds[0]]}." for scene in world])
    assert (habit["CHAIR_S"], habit["partner_share"], habit["recall"]) == (1, 1, 1)
    strange = [f"a {next(kind for kind in KINDS if not {kind, PARTNERS[kind]} & set(scene.kinds))}" for scene in world]
    found = metrics_of(task, strange)
    assert (found["CHAIR_I"], found["partner_share"], found["recall"]) == (1, 0, 0)


def test_colours():
    task = scene_colours(N, seed=5)
    samples, world = task.samples(processor()), {scene.id: scene for scene in scenes(N, seed=5, violating=True)}
    assert len(samples) == sum(len(scene.things) for scene in world.values())
    for sample in samples:
        (thing,) = (t for t in world[sample.meta["image_id"]].things if t.kind == sample.meta["category"])
        assert (sample.target, sample.meta["contrast"]) == (thing.colour, thing.contrast)
    other = [next(colour for colour in COLOURS if colour != sample.target) for sample in samples]
    for answers, expected in (
        ([f"It is {sample.target.upper()}." for sample in samples], 1),
        (other, 0),
        ([f"{a} or {sample.target}" for a, sample in zip(other, samples, strict=True)], 0),
        ([""] * len(samples), 0),
    ):
        assert metrics_of(task, answers)["accuracy"] == expected


def test_the_seed_decides():
    for make in (scene_pope, scene_captions, scene_colours):
        first, again, other = (
            [(s.meta["image_id"], s.target, s.images[0].tobytes()) for s in make(3, seed=seed).samples(processor())]
            for seed in (0, 0, 1)
        )
        assert first == again
        assert first != other
