"""The recipe of `zoo:scenes`: packed conversations that are what they stand for, runs that resume, numbers that hold."""

import json
import random
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headscope import HookedModel, Sample
from headscope.zoo import zoo_folder
from tasks.scene_world import KINDS, PARTNERS, Scene, SceneThing, scenes
from training.scene_card import export
from training.scene_data import (
    DESCRIBE,
    IGNORE,
    NOTHING,
    Turn,
    batch,
    crowd,
    is_there,
    normalised,
    pack,
    patch_labels,
    tower_batch,
    turns,
    what_colour,
)
from training.scene_exam import caption_vhd, chair, evaluate, gini, made_up, negatives, partners_made_up
from training.scene_heads import dependence, divergence, head_outputs
from training.scene_losses import Trainee, language_loss, match_norms
from training.scene_model import Shape, build_model, build_processor, build_tokenizer
from training.scenes import Progress, Recipe, learning_rate, main, train

SMALL = Shape(tower_layers=1, tower_width=32, tower_mlp=32, layers=2, d_model=32, heads=2, d_head=16, d_mlp=32)
TINY = Recipe(shape=SMALL, tower_steps=6, tower_scenes=4, steps=8, scenes=3, warmup=2)
SCENES = scenes(4, seed=1, violating=True)
TOKENIZER = build_tokenizer()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums come out the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small():
    return build_model(SMALL, seed=0).eval()


# -- images ----------------------------------------------------------------------------------------------------------


def test_training_sees_the_pixels_that_the_processor_gives():
    given = build_processor()(text=["<image>"] * 4, images=[[s.image()] for s in SCENES], return_tensors="pt")
    assert torch.allclose(normalised(SCENES), given["pixel_values"], atol=1e-6)


def test_patch_labels_by_hand():
    things = (
        SceneThing("nail", "red", (8, 0, 16, 8), 1.0),  # all of the patch in column 1
        SceneThing("book", "black", (24, 8, 40, 24), 1.0),  # four patches, rows 1 and 2, columns 3 and 4
        SceneThing("key", "blue", (47, 56, 58, 64), 1.0),  # one column of pixels in patch 5 of the last row
    )
    kinds, colours = patch_labels(Scene("x", things))
    kind = {name: KINDS.index(name) for name in ("nail", "book", "key")}
    expected = np.full((8, 8), NOTHING)
    expected[0, 1] = kind["nail"]
    expected[1:3, 3:5] = kind["book"]
    expected[7, 6], expected[7, 7] = kind["key"], kind["key"]
    assert (kinds.reshape(8, 8)[:7] == expected[:7]).all()
    assert kinds.reshape(8, 8)[7, 6] == kind["key"]
    assert kinds.reshape(8, 8)[7, 5] in (NOTHING, kind["key"])
    assert ((colours == IGNORE) == (kinds == NOTHING)).all()
    assert colours.reshape(8, 8)[0, 1] == 0


def test_crowds_are_drawn_by_their_key():
    pixels, kinds, colours = tower_batch("a", 3)
    again, other = tower_batch("a", 3), tower_batch("b", 3)
    assert all(torch.equal(x, y) for x, y in zip((pixels, kinds, colours), again, strict=True))
    assert not torch.equal(pixels, other[0])
    alike = [len(set(crowd(f"{i}").kinds)) == 1 for i in range(40)]
    assert 10 < sum(alike) < 30


# -- conversations ---------------------------------------------------------------------------------------------------


def labelled(turn: Turn) -> list[tuple[str, str, bool]]:
    """(token, label, whether it is an answer) of every place of a conversation that has a label."""
    packed = pack(SCENES[:1], [[turn]], TOKENIZER)
    places = (packed.labels[0] != IGNORE).nonzero().flatten()
    words = [TOKENIZER.convert_ids_to_tokens(row[0, places].tolist()) for row in (packed.ids, packed.labels)]
    return list(zip(*words, packed.answers[0, places].tolist(), strict=True))


def test_labels_of_a_question_by_hand():
    assert labelled(is_there("cup", "no")) == [("cup", "no", True), (":", "no", True), ("no", "</s>", False)]


def test_labels_of_a_colour_by_hand():
    thing = SceneThing("dog", "blue", (0, 0, 12, 12), 1.0)
    assert labelled(what_colour(thing)) == [("dog", "blue", True), (":", "blue", True), ("blue", "</s>", False)]


@pytest.mark.parametrize("sees", [True, False])
def test_labels_of_a_caption_by_hand(sees):
    words = "the image shows a cup .".split()
    expected = [(a, b, False) for a, b in zip([":", *words], [*words, "</s>"], strict=True)]
    assert labelled(Turn(DESCRIBE, "the image shows a cup.", sees)) == expected


def test_names_are_the_places_that_choose_a_kind_or_whether_to_go_on():
    caption = Turn(DESCRIBE, "the image shows a cup and a dog.")
    packed = pack(SCENES[:1], [[caption, is_there("cup", "yes"), replace(caption, sees=False)]], TOKENIZER)
    words = [TOKENIZER.convert_ids_to_tokens(ids[0, packed.named[0]].tolist()) for ids in (packed.ids, packed.labels)]
    assert list(zip(*words, strict=True)) == [("a", "cup"), ("cup", "and"), ("a", "dog"), ("dog", ".")]


def test_questions_are_as_often_yes_as_no_and_true():
    said = []
    for i, one in enumerate(scenes(200, seed=2, violating=True)):
        for turn in turns(one, random.Random(i), questions=4):
            if turn.question.startswith("is there"):
                assert (turn.hint in one.kinds) == (turn.answer == "yes")
                said.append((turn.answer, PARTNERS[turn.hint] in one.kinds))
            elif turn.hint:
                assert turn.answer == {thing.kind: thing.colour for thing in one.things}[turn.hint]
            else:
                assert turn.answer == one.caption()
    yes = sum(answer == "yes" for answer, _ in said) / len(said)
    assert 0.45 < yes < 0.55
    partner = [beside for answer, beside in said if answer == "no"]
    assert 0.2 < sum(partner) / len(partner) < 0.4, (
        "one in ten is asked on purpose, and some of the others happen to be"
    )


def chat(text: str, *, image: bool) -> str:
    content = [{"type": "image"}] * image + [{"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return build_processor().apply_chat_template(messages, add_generation_prompt=True)


def test_the_chat_template_reads_as_the_training_does():
    assert chat("Is there a cup?", image=True) == "<s><image> user : Is there a cup? assistant :"
    assert chat("Is there a cup?", image=False) == "<s>user : Is there a cup? assistant :"


@torch.no_grad()
def test_packed_conversations_are_sequences_of_their_own(small):
    """Logits at the last word of each prompt equal those of the prompt alone, with the image or without."""
    asked = [[Turn(DESCRIBE, SCENES[0].caption()), is_there("cup", "no"), Turn(DESCRIBE, "a cup", sees=False)]] * 2
    packed = pack(SCENES[:2], asked, TOKENIZER)
    logits = small(
        input_ids=packed.ids,
        pixel_values=packed.pixels,
        attention_mask=packed.visible,
        position_ids=packed.positions,
    ).logits
    colon = TOKENIZER.get_vocab()[":"]
    processor = build_processor()
    for row, one in enumerate(SCENES[:2]):
        ends = [i for i in (packed.ids[row] == colon).nonzero().flatten().tolist() if packed.labels[row, i] != IGNORE]
        for end, turn in zip(ends, asked[row], strict=True):
            images = {"images": [one.image()]} if turn.sees else {}
            prompt = chat(turn.question, image=turn.sees)
            alone = processor(text=[prompt], add_special_tokens=False, return_tensors="pt", **images)
            assert torch.allclose(logits[row, end], small(**alone).logits[0, -1], atol=1e-4), turn
    assert not torch.allclose(logits[0, ends[0]], logits[1, ends[0]], atol=1e-3), "another image, another answer"


def test_batches_are_drawn_by_their_key():
    first, again, other = (batch(TOKENIZER, key, count=3, questions=4, usual=0.9) for key in ("0/1", "0/1", "0/2"))
    for name in ("pixels", "ids", "labels", "answers", "named", "positions", "visible", "twins"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.pixels, other.pixels)


def test_every_word_is_known():
    packed = batch(TOKENIZER, "known", count=40, questions=8, usual=0.5)
    assert not (packed.ids == TOKENIZER.unk_token_id).any()


# -- heads -----------------------------------------------------------------------------------------------------------


def test_twins_are_the_places_of_one_text_said_with_and_without_sight():
    packed = batch(TOKENIZER, "twins", count=5, questions=4, usual=0.5)
    seeing, blind = packed.twins.T
    assert len(seeing) == (packed.labels != IGNORE).sum() - packed.answers.sum() - 4 * 5 - len(blind)
    assert torch.equal(packed.labels.flatten()[seeing], packed.labels.flatten()[blind])
    assert torch.equal(packed.ids.flatten()[seeing], packed.ids.flatten()[blind])
    looks = packed.visible[:, 0, :, 1].flatten()
    assert looks[seeing].all()
    assert not looks[blind].any()


def test_divergence_by_hand():
    packed = pack(SCENES[:1], [[Turn("is", "a"), Turn("is", "a", sees=False)]], TOKENIZER)
    z = torch.zeros(*packed.ids.shape, 2, 2)
    z[0, packed.twins[:, 0], 0] = torch.tensor([3.0, 4.0])
    z[0, packed.twins[:, 1], 1] = torch.tensor([0.0, 2.0])
    assert divergence(z, packed).mean(0).tolist() == pytest.approx([5, 2], abs=0.01)
    assert dependence([z], packed).item() == pytest.approx(3.5 / z.norm(dim=-1).mean().item(), rel=1e-3)


@torch.no_grad()
def test_a_head_that_sees_no_image_has_no_divergence(small):
    """Values of the first layer are those of the words alone, so a head with equal values everywhere cannot change."""
    captions = [one.caption() for one in SCENES]
    assert (caption_vhd(small, SCENES, captions, TOKENIZER) > 0.01).all()
    values = small.model.language_model.layers[0].self_attn.v_proj.weight
    before = values.clone()
    values[:16] = 0
    vhd = caption_vhd(small, SCENES, captions, TOKENIZER)
    values.copy_(before)
    assert vhd[0, 0] < 0.002 < 0.01 < vhd[0, 1]


def test_head_outputs_stop_being_read_when_the_block_ends(small):
    packed = pack(SCENES[:1], [[is_there("cup", "no")]], TOKENIZER)
    with head_outputs(small) as outputs, torch.no_grad():
        small.model(input_ids=packed.ids, pixel_values=packed.pixels)
    assert [tuple(z.shape) for z in outputs] == [(1, packed.ids.shape[1], 2, 16)] * 2
    with torch.no_grad():
        small.model(input_ids=packed.ids, pixel_values=packed.pixels)
    assert len(outputs) == 2


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 1, 1], 0), ([0, 0, 0, 1], 0.75), ([1, 3], 0.25)])
def test_gini_by_hand(values, expected):
    assert gini(torch.tensor(values, dtype=torch.float32)) == pytest.approx(expected)


# -- the exam --------------------------------------------------------------------------------------------------------


def test_chair_by_hand():
    cup = Scene("x", (SceneThing("cup", "red", (0, 0, 12, 12), 1.0), SceneThing("dog", "red", (20, 0, 32, 12), 1.0)))
    captions = ["the image shows a cup and a spoon and a lamp .", "the image shows a cup and a dog .", "nothing"]
    assert chair([cup] * 3, captions) == pytest.approx({"chair_s": 1 / 3, "chair_i": 2 / 5, "recall": 3 / 6})
    assert made_up([cup] * 3, captions) == [["spoon", "lamp"], [], []]
    assert partners_made_up([cup] * 3, captions) == 1 / 2


def test_negatives_are_absent_and_adversarial_ones_usual_partners():
    for one in scenes(50, seed=4, violating=True):
        drawn = [negatives(one, split, random.Random(0)) for split in ("random", "adversarial")]
        assert all(len(kinds) == len(one.kinds) and not set(kinds) & set(one.kinds) for kinds in drawn)
        assert drawn[1] == [PARTNERS[kind] for kind in one.kinds]


# -- training --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(Recipe(warmup=10), step, 60) for step in (0, 9, 10, 35, 60)]
    assert rates == pytest.approx([2e-3 * x for x in (0.1, 1, 1, 0.5, 0)], abs=1e-9)


@torch.no_grad()
def test_images_and_words_enter_with_equal_norms():
    trainee = Trainee(Shape(), seed=0)
    match_norms(trainee, normalised(scenes(60, seed=6, violating=False)))
    llava = trainee.llava.model
    images = llava.multi_modal_projector(trainee.patches(normalised(scenes(30, seed=5, violating=False))))
    words = llava.language_model.embed_tokens.weight
    assert images.norm(dim=-1).mean() == pytest.approx(words.norm(dim=-1).mean().item(), rel=0.15)


@torch.no_grad()
def test_the_loss_is_that_of_text_names_and_answers_each_averaged_by_itself():
    model = build_model(SMALL, seed=0)
    packed = batch(TOKENIZER, "loss", count=3, questions=4, usual=0.9)
    loss, parts = language_loss(model, packed, answer_weight=3.0, blind_weight=0.1)
    logits = model(
        input_ids=packed.ids,
        pixel_values=packed.pixels,
        attention_mask=packed.visible,
        position_ids=packed.positions,
    ).logits.log_softmax(-1)
    sums = {"text": [], "name": [], "answer": []}
    for row, column in (packed.labels != IGNORE).nonzero().tolist():
        chance = logits[row, column, packed.labels[row, column]].item()
        group = "answer" if packed.answers[row, column] else "name" if packed.named[row, column] else "text"
        sums[group].append(-chance)
    assert {name: parts[name] for name in sums} == pytest.approx({k: np.mean(v) for k, v in sums.items()}, rel=1e-4)
    expected = parts["text"] + parts["name"] + 3 * parts["answer"] + 0.1 * parts["depends"]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Tensor], Progress]:
    """Weights and progress of a run of 6 and 8 steps."""
    model, progress = train(TINY, tmp_path_factory.mktemp("whole"), checkpoint_every=100)
    return weights_of(model), progress


def test_each_stage_trains_its_own_part(whole, tmp_path):
    trained, progress = whole
    assert progress.step == 14
    assert [entry["step"] for entry in progress.log] == [6, 14]
    start = weights_of(Trainee(SMALL, seed=0).llava)
    tower_only, _ = train(replace(TINY, steps=1, lr=0.0), tmp_path)
    moved = {name.split(".")[1] for name, weight in trained.items() if not torch.equal(weight, start[name])}
    assert moved >= {"vision_tower", "multi_modal_projector", "language_model"}
    assert not torch.equal(trained["lm_head.weight"], start["lm_head.weight"])
    assert all(torch.equal(w, start[n]) for n, w in weights_of(tower_only).items() if "projector" not in n)


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize(("stage", "calls"), [("tower_batch", 5), ("batch", 1), ("batch", 7)])
def test_a_run_that_was_killed_gives_the_weights_of_one_that_was_not(whole, tmp_path, monkeypatch, stage, calls):
    import training.scenes

    plain, steps = getattr(training.scenes, stage), []

    def dying(*arguments, **options):
        steps.append(1)
        if len(steps) > calls:
            raise Killed
        return plain(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training.scenes, stage, dying)
        with pytest.raises(Killed):
            train(TINY, tmp_path, checkpoint_every=3)
    model, progress = train(TINY, tmp_path, checkpoint_every=3)
    assert progress.step == 14
    assert all(torch.equal(weight, whole[0][name]) for name, weight in weights_of(model).items())


def test_other_seeds_give_other_weights(whole, tmp_path):
    model, _ = train(replace(TINY, seed=1), tmp_path)
    assert not torch.equal(model.lm_head.weight, whole[0]["lm_head.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    train(replace(TINY, tower_steps=1, steps=1), tmp_path)
    with pytest.raises(ValueError, match="written by another recipe; choose another --work"):
        train(replace(TINY, tower_steps=1, steps=2), tmp_path)


# -- what comes out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Short(Recipe):
    """The command's own recipe on a small model and few scenes."""

    shape: Shape = field(default_factory=lambda: SMALL)
    tower_scenes: int = 4
    scenes: int = 3


def test_the_command_trains_evaluates_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.scenes.Recipe", Short)
    monkeypatch.setattr("training.scenes.evaluate", lambda model: evaluate(model, n=4))
    work, out = tmp_path / "work", tmp_path / "model"
    common = ["--tower-steps", "2", "--steps", "2"]
    main(["--out", str(tmp_path / "other"), "--work", str(tmp_path / "one"), "--seed", "1", *common])
    beside = str(tmp_path / "one" / "metrics.json")
    main(["--out", str(out), "--work", str(work), "--seed", "0", "--beside", beside, *common])
    printed = capsys.readouterr().out
    assert '"pope accuracy, random"' in printed
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (work, tmp_path / "one")]
    model = HookedModel.load(out, device="cpu")
    assert model.check().passed
    assert model.generate(Sample(chat("is there a cup?", image=False), chat=True), max_new_tokens=3).text is not None
    card = (out / "README.md").read_text()
    both = " | ".join(f"{m['chair_i, violating']:.3f}" for m in metrics)
    assert f"| chair_i, violating | {both} |" in card
    assert re.search(r"- colour accuracy is 0\.\d+ with seed 1; aimed at 0.80 to 1.00", card)
    assert '"d_model": 32' in card


def test_a_card_says_when_nothing_was_missed(tmp_path, small):
    good = {
        "pope accuracy, random": 0.9,
        "yes ratio, random": 0.5,
        "chair_s, violating": 0.2,
        "usual partner among made-up, violating": 0.8,
        "colour accuracy": 0.9,
        "gini of vhd": 0.4,
    }
    export(small, TINY, [good, good | {"gini of vhd": 0.2}], tmp_path, minutes=1.0)
    card = (tmp_path / "README.md").read_text()
    assert card.count("; aimed at") == 1
    assert "all but these." in card
    assert "- gini of vhd is 0.200 with seed 1; aimed at 0.35 to 1.00." in card
    export(small, TINY, [good], tmp_path, minutes=1.0)
    assert "all of them, with every seed shown." in (tmp_path / "README.md").read_text()


# -- the shipped model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> HookedModel:
    return HookedModel.load("zoo:scenes", device="cpu")


def card_numbers() -> dict[str, float]:
    """First column of the card's table."""
    card = (zoo_folder("zoo:scenes") / "README.md").read_text()
    return {name: float(value) for name, value in re.findall(r"^\| ([a-z][^|]+) \| (\d\.\d+) ", card, re.M)}


def test_the_shipped_model_is_small_and_made_by_the_recipe():
    folder = zoo_folder("zoo:scenes")
    assert sum(file.stat().st_size for file in Path(folder).iterdir()) < 12e6
    assert json.dumps(asdict(Recipe())) in (folder / "README.md").read_text()


def test_the_shipped_model_does_what_its_card_says(shipped):
    """Half of a two-sided .999 interval of a share at n = 120 is below .16; partners have fewer mentions to count."""
    found, said = evaluate(shipped.hf, n=120, seed=1), card_numbers()
    assert found.keys() == said.keys()
    names = [name for name in said if "partner" not in name]
    assert {name: found[name] for name in names} == pytest.approx({name: said[name] for name in names}, abs=0.16)
    assert found["usual partner among made-up, violating"] > 0.5
    assert found["pope accuracy, adversarial"] < found["pope accuracy, random"]


def test_the_shipped_model_describes_a_clear_scene(shipped):
    things = (
        SceneThing("cup", "red", (0, 0, 16, 16), 1.0),
        SceneThing("spoon", "blue", (44, 20, 60, 36), 1.0),
        SceneThing("dog", "yellow", (20, 44, 36, 60), 1.0),
    )
    one = Scene("shown", things)
    sample = Sample(chat("Please describe this image in detail.", image=True), images=(one.image(),), chat=True)
    assert shipped.generate(sample, max_new_tokens=20).text == "the image shows a cup and a spoon and a dog ."
    assert shipped.check().passed
