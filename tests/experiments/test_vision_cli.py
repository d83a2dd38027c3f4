"""Commands that look at images: on zoo:scenes, on a user's own images, and on what cannot be judged."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from experiments.cli import run
from headscope.runs import Run
from tasks.scene_world import scenes
from tests.experiments.test_cli import printed

QUICK = ("--limit", "3", "--draws", "1", "--json")


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> tuple[str, str]:
    """Annotations in COCO's format, and the folder with the images: three scenes under names of COCO's categories."""
    folder = tmp_path_factory.mktemp("coco")
    names = {"cup": 1, "spoon": 2, "clock": 3, "bed": 4, "car": 5, "bicycle": 6, "dog": 7, "cat": 8}
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": name} for name, i in names.items()]
    for i, scene in enumerate(scenes(3, seed=5, violating=True)):
        scene.image().save(folder / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        for j, category in enumerate(list(names.values())[i : i + 3]):
            box = [4.0 * j, 4.0, 16.0, 16.0]
            content["annotations"].append({"id": 10 * i + j, "image_id": i, "category_id": category, "bbox": box})
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return str(path), str(folder)


def test_pope_on_scenes_compares_with_controls_and_keeps_its_items(out, capsys):
    argv = ["eval", "pope", "--split", "adversarial", "--with", "VHR(alpha=2)", "--out", out, *QUICK]
    assert run(argv) == 0
    found = printed(capsys)["conditions"]
    assert {row["condition"] for row in found} == {"none", "VHR(alpha=2)", "random for VHR(alpha=2) (1 draws)"}
    assert {"accuracy", "F1", "yes_ratio", "unparsed"} <= {row["metric"] for row in found}
    kept = Run.open(out)
    answers = kept.table("answers")
    assert len(answers) == 3 * 12  # two objects that are there and two that are not, three images, three conditions
    assert set(answers["task"]) == {"adversarial"}
    manifest = Path(out) / "manifest.json"
    assert len(json.loads(manifest.read_text())["items"]) == 12
    assert "adversarial: accuracy" in (Path(out) / "report.html").read_text()


def test_a_manifest_holds_another_run_to_the_same_items(out, capsys, refused, tmp_path):
    argv = ["eval", "pope", "--split", "random", *QUICK]
    assert run([*argv, "--out", out]) == 0
    manifest = str(Path(out) / "manifest.json")
    assert run([*argv, "--out", str(tmp_path / "same"), "--manifest", manifest]) == 0
    capsys.readouterr()
    other = [*argv, "--seed", "1", "--out", str(tmp_path / "other"), "--manifest", manifest]
    refused(other, 2, "is not the one of the manifest")
    every = ["eval", "pope", *QUICK, "--out", str(tmp_path / "all"), "--manifest", manifest]
    refused(every, 2, "say which with --split")


def test_answers_already_given_are_not_asked_for_again(out, capsys, monkeypatch):
    argv = ["eval", "chair", "--with", "Scale('L3H1', 2)", "--out", out, *QUICK]
    assert run(argv) == 0
    first = printed(capsys)
    monkeypatch.setattr("headscope.model.HookedModel.generate", lambda *_, **__: pytest.fail("asked again"))
    assert run([*argv, "--resume"]) == 0
    assert printed(capsys) == first


def test_captions_of_a_users_own_images(coco, out, capsys):
    annotations, images = coco
    argv = ["eval", "chair", "--annotations", annotations, "--images", images, "--max-new-tokens", "24"]
    assert run([*argv, "--out", out, *QUICK]) == 0
    found = {row["metric"]: row["value"] for row in printed(capsys)["conditions"]}
    assert {"CHAIR_S", "CHAIR_I", "recall", "F1", "words"} == set(found)
    assert found["words"] > 1


def test_questions_about_a_users_own_images(coco, out, capsys):
    annotations, images = coco
    argv = ["eval", "pope", "--annotations", annotations, "--images", images, "--split", "popular", "--per-image", "2"]
    assert run([*argv, "--out", out, *QUICK]) == 0
    assert {row["n"] for row in printed(capsys)["conditions"]} == {12}


def test_what_every_head_does_with_the_image(out, capsys):
    assert run(["heads", "vision", "--limit", "5", "--out", out, "--json"]) == 0
    found = printed(capsys)
    assert {"vhd", "text_to_image", "image_to_image", "image_centric", "sink_mass"} <= set(found)
    kept = Run.open(out)
    assert len(kept.scores("vhd").heads) == 48
    assert set(kept.table("captions")) == {"image_id", "caption", "invented"}
    tokens = kept.table("caption_tokens")
    assert (tokens["token_vhd"] > 0).all()
    report = (Path(out) / "report.html").read_text()
    for heading in ("VHD of every head", "Attention sinks", "Does Token-VHD tell words apart?"):
        assert heading in report


def test_the_vision_demo_from_start_to_end(out, capsys):
    assert run(["demo", "--vision", "--images", "4", "--draws", "1", "--out", out, "--json"]) == 0
    found = printed(capsys)
    assert set(found["conditions"]) == {"POPE, adversarial", "captions"}
    named = {row["condition"] for row in found["conditions"]["captions"]}
    assert {"none", "VHR(alpha=2)", "VAR()", "VAR(), VHR(alpha=2)"} <= named
    assert isinstance(Run.open(out).table("judged_families"), pd.DataFrame)
    assert "What helps against made-up objects?" in (Path(out) / "report.html").read_text()


def test_a_question_about_an_image_with_and_without_an_operator(tmp_path, capsys):
    file = tmp_path / "scene.png"
    scenes(1, seed=1, violating=True)[0].image().save(file)
    argv = ["generate", "What colour is the cup?", "--model", "zoo:scenes", "--image", str(file)]
    assert run([*argv, "--with", "VHR(alpha=2)", "--with", "KnockOut()", "--json"]) == 0
    answers = printed(capsys)["answers"]
    assert set(answers) == {"none", "VHR(alpha=2)", "KnockOut()"}
    assert all(answers.values())


# -- bad input ---------------------------------------------------------------------------------------------------------

EVAL = ["eval", "chair", *QUICK]


def test_bad_images_are_named(coco, out, refused, tmp_path, capsys):
    generate = ["generate", "What is this?", "--model", "zoo:scenes"]
    refused([*generate, "--image", str(tmp_path / "none.png")], 2, "none.png")
    text = tmp_path / "text.png"
    text.write_text("no image")
    refused([*generate, "--image", str(text)], 2, "text.png")
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-400])
    refused([*generate, "--image", str(cut)], 2, "cut.jpg")
    refused(["generate", "<image> <image> what?", "--model", "zoo:scenes", "--image", str(whole)], 2, "2", "1")


def test_a_text_model_is_no_place_for_images_or_their_operators(tmp_path, refused, out):
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    refused(["generate", "what?", "--image", str(file)], 2, "needs a model with image tokens")
    refused(["generate", "what?", "--with", "VAR()"], 2, "VAR needs a model with image tokens")
    refused([*EVAL, "--model", "zoo:needle", "--out", out], 2, "takes text only")


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        ("VAR(rho_nonsink=1.5)", "rho_nonsink is 1.5"),
        ("VHR(alpha=two)", "cannot be read"),
        ("Wizardry()", "known are"),
        ("VHR(strength=2)", "it takes"),
        ("Head(1, 2)", "edits nothing by itself"),
        ("Ablate('L9H0')", "L9H0"),
        ("__import__('os').system('true')", "cannot be read"),
    ],
)
def test_bad_operators_are_refused_before_anything_runs(operator, says, refused, out):
    refused([*EVAL, "--with", operator, "--out", out], 2, says)
    assert not Path(out).exists()


def test_bad_annotations_are_refused(coco, refused, out, tmp_path):
    annotations, images = coco
    refused([*EVAL, "--annotations", annotations, "--out", out], 2, "without --images")
    broken = tmp_path / "broken.json"
    content = json.loads(Path(annotations).read_text())
    del content["annotations"][0]["bbox"]
    broken.write_text(json.dumps(content))
    refused([*EVAL, "--annotations", str(broken), "--images", images, "--out", out], 2, "bbox")
    refused([*EVAL, "--annotations", str(tmp_path / "no.json"), "--images", images, "--out", out], 2, "no.json")
