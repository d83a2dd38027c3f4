"""Files of labelled prompts with images: which are shown, where they may lie, and what comes back of what was saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headscope import HookedModel, UsageError
from headscope.images.opening import open_image
from headscope.samples import Sample
from tasks.captions import CaptionChoices
from tasks.labelled import Labelled, LabelledFile
from tasks.labelled_saving import save_labelled
from tasks.needle import Needle
from tasks.scene_probes import SceneProbe


@pytest.fixture(scope="module")
def processor():
    return HookedModel.load("zoo:scenes").processor


@pytest.fixture
def folder(tmp_path):
    """A folder with pictures in it and below it, one outside, a link to that, and files that are no pictures."""
    inside = tmp_path / "inside"
    (inside / "below").mkdir(parents=True)
    for i, path in enumerate((inside / "red.png", inside / "below" / "green.png", tmp_path / "outside.png")):
        Image.new("RGB", (8, 8), tuple(200 * (i == c) for c in range(3))).save(path)
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    (inside / "round.png").symlink_to(inside / "round.png")
    (inside / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(inside / "cut.png")
    (inside / "cut.png").write_bytes((inside / "cut.png").read_bytes()[:1000])
    return inside


def file_of(folder: Path, *rows: object) -> LabelledFile:
    path = folder / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return LabelledFile(path)


def row(label, prompt="Is it red?", **more):
    return {"prompt": prompt, "label": label, **more}


def colours(sample: Sample) -> list[tuple[int, ...]]:
    return [open_image(image).getpixel((0, 0)) for image in sample.images]


def test_images_are_found_from_the_file(folder, processor, monkeypatch):
    rows = [row("yes", image="red.png"), row("no", images=["below/green.png", "red.png"]), row("no", images=[])]
    found = file_of(folder, *rows)
    assert found.sees_images
    monkeypatch.chdir(folder.parent)
    first, second, third = found.labelled(processor).samples
    assert colours(first) == [(200, 0, 0)]
    assert colours(second) == [(0, 200, 0), (200, 0, 0)]
    assert third.images == ()
    assert [one.prompt.count("<image>") for one in (first, second, third)] == [1, 2, 0]
    assert first.prompt.endswith("Is it red? assistant :")
    assert first.chat
    assert (third.prompt, third.chat) == ("Is it red?", False)
    assert replace(LabelledFile("inside/set.jsonl"), limit=1).labelled(processor).samples == (first,)
    assert not replace(found, path=file_of(folder, row("x"), row("y", image="red.png")).path, limit=1).sees_images


def test_prompts_with_placeholders_stand_as_they_are(folder, processor):
    written = "<image> what is <image> this"
    (sample,) = file_of(folder, row("x", written, images=["red.png", "red.png"])).labelled(processor).samples
    assert (sample.prompt, sample.chat) == (written, False)
    (sample,) = file_of(folder, row("x", written, images=["red.png"] * 2, chat=True)).labelled(processor).samples
    assert (sample.prompt, sample.chat) == (written, True)
    with pytest.raises(UsageError, match=r"line 1: the prompt has 2 image placeholders \(<image>\) and there are 1"):
        file_of(folder, row("x", written, image="red.png")).labelled(processor)


@pytest.mark.parametrize("name", ["../outside.png", "link.png", "below/../red.png", "C:\\red.png"])
def test_images_stay_in_the_folder_of_the_file(folder, processor, name):
    found = file_of(folder, row("x", image="red.png"), row("y", image=name))
    with pytest.raises(UsageError, match=r"line 2: image .* leads out of .*--images-anywhere"):
        found.labelled(processor)


def test_images_may_lie_anywhere_if_asked_for(folder, processor):
    outside = folder.parent / "outside.png"
    found = file_of(folder, *(row("x", image=name) for name in (str(outside), "../outside.png", "link.png")))
    with pytest.raises(UsageError, match=r"line 1: image .* leads out of"):
        found.labelled(processor)
    samples = replace(found, anywhere=True).labelled(processor).samples
    assert [colours(one) for one in samples] == [[(0, 0, 200)]] * 3


def test_a_name_that_looks_like_a_home_folder_is_no_home(folder, processor, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    file_of(folder, row("x", image="~/outside.png"))
    with pytest.raises(UsageError, match=r"line 1: image file .*does not exist"):
        LabelledFile("set.jsonl").labelled(processor)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"image": "none.png"}, "image file .*none.png' does not exist"),
        ({"image": "below"}, "is a folder"),
        ({"image": "text.png"}, "cannot be read as an image"),
        ({"image": "cut.png"}, "the pixels of .* cannot be read"),
        ({"image": "round.png"}, "cannot be read|does not exist"),
        ({"image": "a\0b.png"}, "cannot be read"),
        ({"image": "x" * 300 + ".png"}, "cannot be read|does not exist"),
        ({"image": 3}, r"images is \[3\]; give the path"),
        ({"image": " "}, r"images is \[' '\]"),
        ({"images": "red.png"}, "images is 'red.png'"),
        ({"image": "red.png", "images": []}, "both image and images"),
    ],
)
def test_what_is_wrong_with_an_image_is_told_by_line(folder, processor, more, says):
    found = file_of(folder, row("x", image="red.png"), row("y", **more))
    with pytest.raises(UsageError, match=f"set.jsonl, line 2: .*({says})"):
        found.labelled(processor)


def test_models_that_see_nothing_are_no_place_for_images(folder):
    tokenizer = HookedModel.load("zoo:needle").tokenizer
    with pytest.raises(UsageError, match=r"line 1: .*takes text only"):
        file_of(folder, row("x", image="red.png")).labelled(tokenizer)


def same(one: Sample, other: Sample) -> bool:
    marks = {name: one.prompt[slice(*one.characters(name))] for name in one.marks}
    there = {name: other.prompt[slice(*other.characters(name))] for name in other.marks}
    pixels = [[np.array(open_image(image)) for image in each.images] for each in (one, other)]
    return (one.prompt, one.chat, marks) == (other.prompt, other.chat, there) and all(
        np.array_equal(a, b) for a, b in zip(*pixels, strict=True)
    )


@pytest.mark.parametrize("made_by", [SceneProbe(4, "colour"), CaptionChoices(3)])
def test_scenes_come_back_as_they_were_saved(made_by, processor, tmp_path):
    made = made_by.labelled(processor)
    save_labelled(made, tmp_path / "scenes.jsonl")
    found = LabelledFile(tmp_path / "scenes.jsonl").labelled(processor)
    assert (found.labels, found.groups) == (made.labels, made.groups)
    assert all(same(one, other) for one, other in zip(made.samples, found.samples, strict=True))
    pictures = len(list((tmp_path / "scenes-images").glob("*.png")))
    assert pictures == len({id(one.images[0]) for one in made.samples}) < len(made.samples)
    with pytest.raises(UsageError, match="never overwritten"):
        save_labelled(made, tmp_path / "scenes.jsonl")
    with pytest.raises(UsageError, match=r"does not end in \.jsonl"):
        save_labelled(made, tmp_path / "scenes.txt")


@pytest.mark.parametrize("labels", [("a", "ä\u2028\n"), (1, 0), (0.1 + 0.2, 1.0)])
def test_texts_come_back_as_they_were_saved(labels, tmp_path):
    tokenizer = HookedModel.load("zoo:needle").tokenizer
    samples = tuple(Needle(lengths=(64,), depths=2, repeats=1).samples(tokenizer))
    made = Labelled(samples, labels)
    save_labelled(made, tmp_path / "texts.jsonl")
    found = LabelledFile(tmp_path / "texts.jsonl").labelled(tokenizer)
    assert (found.labels, found.groups) == (labels, ())
    assert samples[0].marks
    assert all(same(one, other) for one, other in zip(samples, found.samples, strict=True))
    assert not (tmp_path / "texts-images").exists()
