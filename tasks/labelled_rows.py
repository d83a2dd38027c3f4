"""The lines of a file of labelled prompts, checked one by one; what is wrong is told with the number of its line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from headscope.encoding import placeholder_of
from headscope.errors import UsageError
from headscope.images.opening import open_image
from headscope.prompts import asked
from headscope.samples import Sample, Span

Label = str | int | float


@dataclass(frozen=True)
class Row:
    """One line, its fields of the right types."""

    place: str
    """The file and the number of the line."""
    prompt: str
    label: Label
    group: str | None
    images: tuple[str, ...]
    marks: Mapping[str, str | Span]
    chat: bool
    """Whether the prompt was written by a chat template already."""

    def sample(self, processor: Any, folder: Path, *, anywhere: bool, chat: bool) -> Sample:
        """The sample, its images as the paths of files that have been opened once.

        A prompt with images is put into the processor's chat template (see `headscope.prompts.asked`), unless it holds
        placeholders of its own; one without only with `chat`. UsageError names the line.
        """
        try:
            images = tuple(_image(name, folder, anywhere=anywhere) for name in self.images)
            text, templated = self._prompt(processor, chat=chat)
            return Sample(text, marks=self._marks(text), images=images, chat=templated)
        except UsageError as error:
            raise UsageError(f"{self.place}: {error}") from error

    def _prompt(self, processor: Any, *, chat: bool) -> tuple[str, bool]:
        placeholder = placeholder_of(processor)
        count = 0 if placeholder is None else self.prompt.count(placeholder)
        if count and count != len(self.images):
            raise UsageError(
                f"the prompt has {count} image placeholders ({placeholder}) and there are {len(self.images)} images; "
                "give as many of one as of the other, or leave the placeholders out"
            )
        if self.chat or count or not (chat or self.images):
            return self.prompt, self.chat
        return asked(processor, self.prompt, images=len(self.images))

    def _marks(self, text: str) -> dict[str, str | Span]:
        """The marks in the prompt as it is written; spans of characters move along."""
        start = text.find(self.prompt)
        if start < 0 and any(isinstance(mark, tuple) for mark in self.marks.values()):
            raise UsageError("the chat template changes the prompt, so spans lose their place; give marks as texts")
        moved = {
            name: mark if isinstance(mark, str) else (start + mark[0], start + mark[1])
            for name, mark in self.marks.items()
        }
        for name in moved:
            Sample(text, marks=moved).characters(name)
        return moved


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSONL file; blank lines are passed over. UsageError for a file without any."""
    try:
        lines = Path(path).read_text("utf-8").split("\n")  # not splitlines: JSON holds U+2028 and its like as they are
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give a JSONL file in UTF-8, one object a line") from error
    rows = [_row(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise UsageError(f"{path} holds no sample; give an object with prompt and label on each line")
    return rows


def _row(place: str, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: this is not JSON ({error}); write one object a line") from error
    missing = [name for name in ("prompt", "label") if not isinstance(row, dict) or name not in row]
    if missing:
        raise UsageError(f"{place}: {missing[0]!r} is missing; give prompt and label, and a group if there are any")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise UsageError(f"{place}: prompt is {row['prompt']!r}; give a text")
    if not isinstance(row["label"], str | int | float):
        raise UsageError(f"{place}: label is {row['label']!r}; give a text or a number")
    if not isinstance(row.get("chat", False), bool):
        raise UsageError(f"{place}: chat is {row['chat']!r}; give true for a prompt that a chat template has written")
    group = str(row["group"]) if "group" in row else None
    return Row(
        place, row["prompt"], row["label"], group, _images(place, row), _marks(place, row), row.get("chat", False)
    )


def _images(place: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    if "image" in row and "images" in row:
        raise UsageError(f"{place}: both image and images are given; give one, or a list of all as images")
    named: Sequence[Any] = [row["image"]] if "image" in row else row.get("images", [])
    if not isinstance(named, list) or not all(isinstance(one, str) and one.strip() for one in named):
        raise UsageError(f"{place}: images is {named!r}; give the path of a file as image, or a list of such as images")
    return tuple(named)


def _marks(place: str, row: Mapping[str, Any]) -> dict[str, str | Span]:
    given = row.get("marks", {})
    found = {name: _mark(mark) for name, mark in given.items()} if isinstance(given, dict) else {"": None}
    if None in found.values():
        raise UsageError(
            f'{place}: marks is {given!r}; give for example {{"name": "text"}}, or a span of characters [start, end] '
            "for the text"
        )
    return {name: mark for name, mark in found.items() if mark is not None}


def _mark(mark: Any) -> str | Span | None:
    if isinstance(mark, list) and len(mark) == 2 and all(type(end) is int for end in mark):
        return mark[0], mark[1]
    return mark if isinstance(mark, str) and mark else None


def _image(name: str, folder: Path, *, anywhere: bool) -> Path:
    """The file of an image; UsageError for one that lies outside of the folder, is missing or cannot be read."""
    leaves = any(
        path.is_absolute() or path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))
    )
    folder = folder.resolve()
    try:
        path = (folder / name).resolve()
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have, links that go in circles
        raise UsageError(f"image {name!r} cannot be read ({error}); give the path of an image file") from error
    if anywhere or (path.is_relative_to(folder) and not leaves):
        open_image(path)
        return path
    raise UsageError(
        f"image {name!r} leads out of {folder}, the folder of the file; put it there and give its path from there, or "
        "let images lie anywhere (anywhere=True, --images-anywhere on the command line)"
    )
