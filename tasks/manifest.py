"""Frozen manifests: exactly which items a task asks, so that results can be told to be of the same ones."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from headscope.errors import UsageError
from headscope.files import json_text, write_new
from headscope.images import open_image
from headscope.samples import Sample, Task

_WHAT = ("image_id", "images", "question", "label")


def manifest(task: Task, processor: Any) -> dict[str, Any]:
    """The task in words, a row for each of its items, and the SHA-256 of all rows.

    A row has the id of the image, the SHA-256 of each image (of the file's bytes where it is a path, of size and pixels
    otherwise), the question (the prompt, where the task names no question) and the label. Questions do not depend on the
    model, so one manifest serves all. Costs reading every image once.
    """
    items = item_rows(task.samples(processor))
    return {"task": repr(task), "items": items, "sha256": digest(items)}


def item_rows(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """What tells each sample from all others; see `manifest`."""
    images = {id(image): image for sample in samples for image in sample.images}
    digests = {key: _image_digest(image) for key, image in images.items()}  # each once, however many questions it has
    return [
        {
            "image_id": sample.meta.get("image_id"),
            "images": [digests[id(image)] for image in sample.images],
            "question": sample.meta.get("question", sample.prompt),
            "label": sample.target,
        }
        for sample in samples
    ]


def digest(value: Any) -> str:
    """SHA-256 of a value made of text, numbers, lists and mappings; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def check_manifest(task: Task, frozen: Mapping[str, Any], processor: Any) -> None:
    """UsageError unless the task asks exactly the items of the manifest; it names the first item that differs."""
    rows = frozen.get("items")
    if not isinstance(rows, list) or frozen.get("sha256") != digest(rows):
        raise UsageError("the manifest's items do not agree with its sha256: it was changed or cut short; make it anew")
    for i, (then, now) in enumerate(zip_longest(rows, item_rows(task.samples(processor)))):
        if then is None or now is None:
            raise UsageError(
                f"the manifest has {len(rows)} items, the task {'more' if then is None else f'only {i}'}; ask the same "
                f"images with the same settings ({frozen.get('task')})"
            )
        for key in _WHAT:
            if then.get(key) != now[key]:
                raise UsageError(
                    f"item {i} (image {then.get('image_id')!r}) is not the one of the manifest: {key} was "
                    f"{then.get(key)!r} and is {now[key]!r}; ask the same images with the same settings "
                    f"({frozen.get('task')})"
                )


def save_manifest(frozen: Mapping[str, Any], path: str | Path) -> None:
    """A manifest as a new JSON file; UsageError if the file is there."""
    text = json_text(frozen, "manifest")
    write_new(Path(path), lambda file: _write(file, text))


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest in a file; UsageError if it cannot be read or is none."""
    try:
        frozen = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as a manifest ({error}); give a file that save_manifest wrote"
        ) from error
    if not isinstance(frozen, dict) or not {"items", "sha256"} <= set(frozen):
        raise UsageError(f"{path} holds no manifest: 'items' and 'sha256' are not both there; give one")
    return frozen


def _image_digest(image: Any) -> str:
    if isinstance(image, str | Path):
        return f"file:{_file_digest(Path(image))}"
    upright = open_image(image)
    return f"pixels:{hashlib.sha256(repr(upright.size).encode() + upright.tobytes()).hexdigest()}"


def _file_digest(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"image file {str(path)!r} cannot be read ({error.strerror}); put it back") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", "utf-8")
