"""Manifests: the same items pass, any other item is named."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from headscope import UsageError
from tasks.chair import CHAIR
from tasks.manifest import check_manifest, digest, manifest, read_manifest, save_manifest
from tasks.needle import Needle
from tasks.pope import POPE
from tests.tasks.pictures import picture, processor
from training.documents import build_tokenizer

IMAGES = (picture("a", "cup", "dog"), picture("b", "dog", "owl"))
TASK = POPE(IMAGES, per_image=1)


@pytest.fixture
def frozen():
    return manifest(TASK, processor())


def test_a_row_an_item(frozen):
    first, second, third, _ = frozen["items"]
    assert {key: first[key] for key in ("image_id", "question", "label")} == {
        "image_id": "a",
        "question": "Is there a cup in the image?",
        "label": "yes",
    }
    assert second["label"] == "no"
    assert first["images"] == second["images"] != third["images"]
    assert first["images"][0].startswith("pixels:")
    assert frozen["sha256"] == digest(frozen["items"])
    assert "POPE(split='random'" in frozen["task"]


def test_the_same_task_passes_on_disk_and_off(frozen, tmp_path):
    check_manifest(TASK, frozen, processor())
    save_manifest(frozen, tmp_path / "pope.json")
    assert read_manifest(tmp_path / "pope.json") == frozen
    check_manifest(replace(TASK), read_manifest(tmp_path / "pope.json"), processor())
    with pytest.raises(UsageError, match="never overwritten"):
        save_manifest(frozen, tmp_path / "pope.json")


def test_one_pixel_more_is_noticed(frozen):
    image = IMAGES[1].image.copy()
    image.putpixel((3, 3), (1, 2, 3))
    other = replace(TASK, images=(IMAGES[0], replace(IMAGES[1], image=image)))
    with pytest.raises(UsageError, match=r"item 2 \(image 'b'\) is not the one of the manifest: images was"):
        check_manifest(other, frozen, processor())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (replace(TASK, template="Do you see a {}?"), r"item 0 .*question was 'Is there a cup in the image\?'"),
        (replace(TASK, images=IMAGES[::-1]), "item 0 .*image_id was 'a' and is 'b'"),
        (replace(TASK, images=IMAGES[:1], reference=IMAGES), "the manifest has 4 items, the task only 2"),
        (replace(TASK, images=(*IMAGES, picture("c", "dog"))), "the manifest has 4 items, the task more"),
    ],
)
def test_other_items_are_named(frozen, task, message):
    with pytest.raises(UsageError, match=message):
        check_manifest(task, frozen, processor())


def test_another_label_is_named():
    task = CHAIR((picture("a", "cup"),))
    told = CHAIR((replace(task.images[0], captions=("A cup and a dog.",)),))
    with pytest.raises(UsageError, match=r"item 0 .*label was 'cup' and is 'cup, dog'"):
        check_manifest(told, manifest(task, processor()), processor())


def test_a_changed_manifest_is_refused(frozen):
    frozen["items"][0]["label"] = "no"
    with pytest.raises(UsageError, match="do not agree with its sha256"):
        check_manifest(TASK, frozen, processor())


def test_files_are_known_by_their_bytes(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    task = POPE((replace(IMAGES[0], image=path), replace(IMAGES[1], image=str(path))), per_image=1)
    frozen = manifest(task, processor())
    assert {row["images"][0][:5] for row in frozen["items"]} == {"file:"}
    Image.new("RGB", (8, 8), (0, 0, 1)).save(path)
    with pytest.raises(UsageError, match=r"item 0 \(image 'a'\)"):
        check_manifest(task, frozen, processor())
    path.unlink()
    with pytest.raises(UsageError, match=r"a.png' cannot be read"):
        check_manifest(task, frozen, processor())


def test_text_tasks_have_manifests_too():
    task, tokenizer = Needle(lengths=(128,), depths=2), build_tokenizer()
    frozen = manifest(task, tokenizer)
    assert [row["images"] for row in frozen["items"]] == [[], []]
    check_manifest(task, frozen, tokenizer)
    with pytest.raises(UsageError, match="item 0"):
        check_manifest(replace(task, seed=1), frozen, tokenizer)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"items": []})])
def test_files_that_are_no_manifest_are_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UsageError, match="manifest"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_manifest(tmp_path / "gone.json")
