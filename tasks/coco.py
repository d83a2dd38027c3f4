"""Annotated images in COCO's format: an instances file, perhaps a captions file, and a folder of images."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from headscope.errors import UsageError
from tasks.annotated import AnnotatedImage, Thing


def read_coco(
    instances_json: str | Path,
    images_folder: str | Path,
    *,
    captions_json: str | Path | None = None,
    limit: int | None = None,
) -> list[AnnotatedImage]:
    """The first `limit` images (all by default) in the order of the instances file, with their objects and captions.

    Things stand in the order of their annotations; crowds count as things, and an image may have none. Images are paths
    and not opened. Raises UsageError, naming the record and the field, for what the format does not allow: a field that
    is missing or of the wrong type, an id that is not known, a file name that leaves the folder, an image that is not
    there.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, which leaves no image; ask for at least 1")
    source, folder = Path(instances_json), Path(images_folder)
    content = _read(source)
    categories = {
        _field(record, "id", int, source, f"categories[{i}]"): _field(record, "name", str, source, f"categories[{i}]")
        for i, record in enumerate(_records(content, "categories", source))
    }
    images = _records(content, "images", source)
    names = {_field(record, "id", int, source, f"images[{i}]"): i for i, record in enumerate(images)}
    if len(names) < len(images):
        raise UsageError(f"{source}: {len(images)} images have only {len(names)} different ids; give each its own")
    things = _things(_records(content, "annotations", source), source, categories, names)
    captions = _captions(Path(captions_json), names) if captions_json is not None else {}
    return [
        AnnotatedImage(
            id=str(record["id"]),
            image=_image(record, folder, source, f"images[{i}]"),
            things=tuple(things.get(record["id"], ())),
            captions=tuple(captions.get(record["id"], ())),
            meta={key: _field(record, key, int, source, f"images[{i}]") for key in ("width", "height")},
        )
        for i, record in enumerate(images[:limit])
    ]


def _things(
    records: Sequence[Any], source: Path, categories: Mapping[int, str], images: Mapping[int, int]
) -> dict[int, list[Thing]]:
    found: dict[int, list[Thing]] = defaultdict(list)
    for i, record in enumerate(records):
        where = f"annotations[{i}]"
        image = _known(record, "image_id", images, source, where)
        category = _known(record, "category_id", categories, source, where)
        found[image].append(Thing(categories[category], _box(record, source, where)))
    return found


def _captions(source: Path, images: Mapping[int, int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for i, record in enumerate(_records(_read(source), "annotations", source)):
        where = f"annotations[{i}]"
        image = _known(record, "image_id", images, source, where)
        found[image].append(_field(record, "caption", str, source, where))
    return found


def _box(record: Any, source: Path, where: str) -> tuple[float, float, float, float]:
    box = _field(record, "bbox", list, source, where)
    numbers = [entry for entry in box if isinstance(entry, int | float) and math.isfinite(entry)]
    if len(box) != 4 or len(numbers) != 4 or min(numbers[2:]) < 0:
        raise UsageError(f"{source}: {where}.bbox is {box}; it must be [left, top, width, height] in pixels")
    left, top, width, height = map(float, numbers)
    return left, top, left + width, top + height


def _image(record: Any, folder: Path, source: Path, where: str) -> Path:
    name = _field(record, "file_name", str, source, where)
    if not name or any(
        path.is_absolute() or path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))
    ):
        raise UsageError(f"{source}: {where}.file_name {name!r} leaves the folder of images; give a path inside it")
    if not (folder / name).is_file():
        raise UsageError(f"{folder / name}, named by {where}.file_name in {source}, is not there; check images_folder")
    return folder / name


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); give an annotation file of COCO's format"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); give an annotation file of COCO's format") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} holds a {type(content).__name__}; COCO's format is a mapping with 'annotations' in it"
        )
    return content


def _records(content: Mapping[str, Any], key: str, source: Path) -> Sequence[Any]:
    records = content.get(key)
    if not isinstance(records, list):
        raise UsageError(f"{source}: {key!r} is {'missing' if records is None else 'not a list'}; is it COCO's format?")
    return records


def _field(record: Any, key: str, kind: type, source: Path, where: str) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        said = f"is {value!r}" if isinstance(record, dict) and key in record else "is missing"
        raise UsageError(f"{source}: {where}.{key} {said}; it must be {_KINDS[kind]}")
    return value


def _known(record: Any, key: str, known: Mapping[int, Any], source: Path, where: str) -> int:
    value = int(_field(record, key, int, source, where))
    if value not in known:
        raise UsageError(f"{source}: {where}.{key} is {value}, an id that no record has; repair the file")
    return value


_KINDS = {int: "an integer", str: "text", list: "a list"}
