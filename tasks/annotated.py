"""An image and what is in it: the form in which every vision task takes its images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Thing:
    """One object in an image; its box is (left, top, right, bottom) in pixels, right and bottom exclusive."""

    category: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image (PIL, or the path of a file) with every object that is in it, and what people or a program said of it."""

    id: str
    image: Any
    things: tuple[Thing, ...]
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def categories(self) -> tuple[str, ...]:
        """Each category once, in the order of the things."""
        return tuple(dict.fromkeys(thing.category for thing in self.things))
