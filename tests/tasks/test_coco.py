"""COCO's files read as they are, and what is wrong in them is named."""

import json
from pathlib import Path

import pytest
from PIL import Image

from headscope import UsageError
from tasks.annotated import Thing
from tasks.coco import read_coco


def content():
    return {
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "images": [
            {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 4, "file_name": "sub/a.png", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 2.5, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 18, "bbox": [5, 5, 0, 0], "iscrowd": 0},
        ],
    }


def captions():
    return {"annotations": [{"image_id": 4, "caption": "Nothing."}, {"image_id": 9, "caption": "A dog in a car."}]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("b.png", "sub/a.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / name)
    return tmp_path


def written(folder: Path, value: object, name: str = "instances.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def read(folder: Path, value: object, **options):
    return read_coco(written(folder, value), folder / "images", **options)


def test_images_objects_and_captions(folder):
    first, second = read(folder, content(), captions_json=written(folder, captions(), "captions.json"))
    assert (first.id, first.image) == ("9", folder / "images" / "b.png")
    assert first.things == (
        Thing("dog", (1.0, 2.5, 11.0, 22.5)),
        Thing("car", (0.0, 0.0, 40.0, 30.0)),
        Thing("dog", (5.0, 5.0, 5.0, 5.0)),
    )
    assert first.categories == ("dog", "car")
    assert first.captions == ("A dog in a car.",)
    assert first.meta == {"width": 40, "height": 30}
    assert (second.id, second.things, second.captions) == ("4", (), ("Nothing.",))


def test_limit_keeps_the_first_and_needs_no_other_image(folder):
    (folder / "images" / "sub" / "a.png").unlink()
    assert [image.id for image in read(folder, content(), limit=1)] == ["9"]
    with pytest.raises(UsageError, match=r"sub/a.png, named by images\[1\].file_name .* is not there"):
        read(folder, content())
    with pytest.raises(UsageError, match="limit is 0"):
        read(folder, content(), limit=0)


def changed(place: tuple, value: object):
    whole = content()
    record = whole
    for key in place[:-1]:
        record = record[key]
    if value is KeyError:
        del record[place[-1]]
    else:
        record[place[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images",), KeyError, "'images' is missing"),
        (("annotations",), {}, "'annotations' is not a list"),
        (("categories",), KeyError, "'categories' is missing"),
        (("images", 1, "id"), KeyError, r"images\[1\].id is missing; it must be an integer"),
        (("images", 1, "id"), 9, "2 images have only 1 different ids"),
        (("images", 0, "id"), True, r"images\[0\].id is True"),
        (("images", 0), "b.png", r"images\[0\].id is missing"),
        (("images", 0, "width"), "40", r"images\[0\].width is '40'; it must be an integer"),
        (("images", 0, "file_name"), KeyError, r"images\[0\].file_name is missing; it must be text"),
        (("images", 0, "file_name"), "c.png", r"c.png, named by images\[0\]"),
        (("categories", 0, "name"), KeyError, r"categories\[0\].name is missing"),
        (("annotations", 2, "image_id"), 5, r"annotations\[2\].image_id is 5, an id that no record has"),
        (("annotations", 1, "category_id"), 5, r"annotations\[1\].category_id is 5, an id that no record has"),
        (("annotations", 1, "category_id"), KeyError, r"annotations\[1\].category_id is missing"),
        (("annotations", 0, "bbox"), KeyError, r"annotations\[0\].bbox is missing; it must be a list"),
        (("annotations", 0, "bbox"), [1, 2, 3], r"annotations\[0\].bbox is \[1, 2, 3\]"),
        (("annotations", 0, "bbox"), [1, 2, -3, 4], r"it must be \[left, top, width, height\]"),
        (("annotations", 0, "bbox"), [1, 2, "3", 4], r"it must be \[left, top, width, height\]"),
        (("annotations", 0, "bbox"), [1, 2, float("nan"), 4], r"it must be \[left, top, width, height\]"),
    ],
)
def test_the_record_and_the_field_are_named(folder, place, value, message):
    with pytest.raises(UsageError, match=message):
        read(folder, changed(place, value))


@pytest.mark.parametrize(
    "name", ["../b.png", "sub/../../b.png", "/etc/hostname", "C:\\b.png", "..\\b.png", "\\b.png", ""]
)
def test_no_file_name_leaves_the_folder(folder, name):
    Image.new("RGB", (4, 4)).save(folder / "b.png")
    with pytest.raises(UsageError, match=r"images\[0\].file_name .* leaves the folder"):
        read(folder, changed(("images", 0, "file_name"), name))


def test_files_that_are_not_coco_are_refused(folder):
    with pytest.raises(UsageError, match=r"gone.json cannot be read \(No such file"):
        read_coco(folder / "gone.json", folder)
    with pytest.raises(UsageError, match="is not JSON"):
        read(folder, '{"images": [')
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not JSON"):
        read_coco(folder / "bytes.json", folder)
    with pytest.raises(UsageError, match="holds a list"):
        read(folder, [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"annotations": [{"image_id": 5, "caption": "x"}]}, r"captions.json: annotations\[0\].image_id is 5"),
        ({"annotations": [{"image_id": 9}]}, r"captions.json: annotations\[0\].caption is missing"),
        ({"images": []}, "captions.json: 'annotations' is missing"),
    ],
)
def test_captions_are_checked(folder, value, message):
    with pytest.raises(UsageError, match=message):
        read(folder, content(), captions_json=written(folder, value, "captions.json"))
