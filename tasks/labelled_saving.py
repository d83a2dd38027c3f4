"""Labelled samples as a file of one's own, to be changed by hand or made elsewhere, and read again as they were."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from headscope.errors import UsageError
from headscope.files import write_new
from headscope.images.opening import open_image
from tasks.labelled import Labelled


def save_labelled(made: Labelled, path: str | Path) -> None:
    """A JSONL file as `LabelledFile` reads it, and its images as PNG in a folder beside it, `<name>-images`.

    Prompts, labels, groups, marks and pixels come back as they are; targets and `meta` are not kept. Prompts of images
    were written for one model and its placeholders. UsageError if the file or an image is there already, and for a name
    that does not end in .jsonl.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise UsageError(f"{path} does not end in .jsonl, by which a file of labelled prompts is known; rename it")
    if path.exists():
        raise UsageError(f"{path} exists and is never overwritten; give another name, or move it away first")
    names = _names([image for sample in made.samples for image in sample.images], f"{path.stem}-images")
    groups = made.groups or (None,) * len(made.samples)
    lines = []
    for sample, label, group in zip(made.samples, made.labels, groups, strict=True):
        row: dict[str, Any] = {"prompt": sample.prompt, "label": label}
        row |= {} if group is None else {"group": group}
        row |= {"images": [names[_key(image)][0] for image in sample.images]} if sample.images else {}
        row |= {"marks": dict(sample.marks)} if sample.marks else {}
        row |= {"chat": True} if sample.chat else {}
        lines.append(json.dumps(row, ensure_ascii=False))
    for name, image in names.values():
        write_new(path.parent / name, partial(open_image(image).save, format="PNG"))
    write_new(path, partial(_write, "\n".join(lines) + "\n"))


def _names(images: Iterable[Any], folder: str) -> dict[Any, tuple[str, Any]]:
    """The path, from the file's folder, of every image; one that several samples show has one."""
    found: dict[Any, tuple[str, Any]] = {}
    for image in images:
        found.setdefault(_key(image), (f"{folder}/{len(found):05}.png", image))
    return found


def _key(image: Any) -> Any:
    return image if isinstance(image, str | Path) else id(image)


def _write(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")
