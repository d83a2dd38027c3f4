"""Synthetic scenes with a strong habit: a cup comes with a spoon, a knife with a fork, unless the habit is broken.

Objects are small and some can hardly be seen, most of all in fog, so that whoever describes a scene has to lean on what
usually goes together. In a scene that violates the prior no object's usual partner is there, and an object that is named
without being there can be told to come from the habit.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headscope.errors import UsageError
from tasks.annotated import AnnotatedImage, Thing
from tasks.scene_glyphs import GLYPHS

SIZE = 64
"""Width and height of every scene in pixels."""

KINDS: tuple[str, ...] = tuple(GLYPHS)
"""Kinds of object in the order in which captions name them; usual partners are neighbours."""

PARTNERS: Mapping[str, str] = MappingProxyType({kind: KINDS[i ^ 1] for i, kind in enumerate(KINDS)})
"""Kind -> the kind that is usually there as well."""

PALETTE: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.9, 0.1, 0.1),
        "green": (0.1, 0.7, 0.15),
        "blue": (0.1, 0.25, 0.9),
        "yellow": (0.95, 0.9, 0.1),
        "purple": (0.6, 0.1, 0.7),
        "black": (0.03, 0.03, 0.03),
    }
)
"""Colour -> red, green and blue between 0 and 1."""

COLOURS: tuple[str, ...] = tuple(PALETTE)

_CELL, _STEP = 20, 4  # things stand in three by three cells, so that none covers another, in steps of a few pixels
_SIZES = (12, 16)
_NOISE = 0.04
_FOGGY, _SWALLOWED, _HIDDEN = 0.23, 0.55, 0.05


@dataclass(frozen=True)
class SceneThing:
    """An object as it is drawn: in a colour, in a box, more or less visible."""

    kind: str
    colour: str
    box: tuple[int, int, int, int]
    contrast: float
    """1 is opaque; below about 0.05 the object cannot be told from the noise."""
    covered: float = 0.0
    """Share of the box that a strip of background hides, from the left."""

    def mask(self) -> NDArray[np.bool_]:
        """Which pixels of the scene show it [y x]."""
        left, top, right, bottom = self.box
        glyph = GLYPHS[self.kind]
        rows = np.arange(bottom - top) * glyph.shape[0] // (bottom - top)
        columns = np.arange(right - left) * glyph.shape[1] // (right - left)
        mask = np.zeros((SIZE, SIZE), bool)
        mask[top:bottom, left:right] = glyph[np.ix_(rows, columns)]
        mask[top:bottom, left : left + round(self.covered * (right - left))] = False
        return mask


@dataclass(frozen=True)
class Scene:
    """Objects on a noisy background of `SIZE` x `SIZE` pixels; equal scenes have equal pixels."""

    id: str
    things: tuple[SceneThing, ...]
    foggy: bool = False
    violating: bool = False
    """Whether objects were chosen against the habit, so that no usual partner is there."""
    kinds: tuple[str, ...] = field(init=False)
    """Kinds that are there, in the order of captions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(sorted({t.kind for t in self.things}, key=KINDS.index)))

    def pixels(self) -> NDArray[np.uint8]:
        """Red, green and blue [y x 3]."""
        rng = np.random.default_rng(list(self.id.encode()))
        canvas = _background(rng, foggy=self.foggy)
        for thing in self.things:
            mask, colour = thing.mask(), np.array(PALETTE[thing.colour], np.float32)
            canvas[mask] += thing.contrast * (colour - canvas[mask])
        canvas += _NOISE * rng.standard_normal(canvas.shape, np.float32)
        return (canvas.clip(0, 1) * 255).round().astype(np.uint8)

    def image(self) -> Image.Image:
        """The scene as a PIL image in RGB."""
        return Image.fromarray(self.pixels())

    def caption(self) -> str:
        """One sentence that names every kind that is there, in the order of `KINDS`, and nothing else."""
        return f"the image shows {' and '.join(f'a {kind}' for kind in self.kinds)}."

    def annotated(self) -> AnnotatedImage:
        """The scene as vision tasks take it; `meta` holds colours, visibility and usual partners."""
        return AnnotatedImage(
            self.id,
            self.image(),
            tuple(Thing(thing.kind, _box(thing)) for thing in self.things),
            (self.caption(),),
            {
                "colours": {thing.kind: thing.colour for thing in self.things},
                "contrasts": {thing.kind: thing.contrast for thing in self.things},
                "partners": {thing.kind: PARTNERS[thing.kind] for thing in self.things},
                "foggy": self.foggy,
                "violating": self.violating,
            },
        )


def _box(thing: SceneThing) -> tuple[float, float, float, float]:
    left, top, right, bottom = thing.box
    return float(left), float(top), float(right), float(bottom)


def scenes(n: int, *, seed: int, violating: bool) -> list[Scene]:
    """`n` scenes of two to four objects, the same ones for the same seed; the first ones do not depend on `n`.

    Where the prior holds, usual partners come together, and of three objects one is without its partner. UsageError if
    n is not positive.
    """
    if n < 1:
        raise UsageError(f"{n} scenes were asked for; give at least 1")
    return [scene(f"{'violating' if violating else 'usual'}/{seed}/{i}", violating=violating) for i in range(n)]


def scene(key: str, *, violating: bool) -> Scene:
    """One scene, drawn by its key."""
    rng = random.Random(key)
    foggy = rng.random() < _FOGGY
    pairs = rng.sample(range(len(KINDS) // 2), 4)
    n = rng.randint(2, 4)
    if violating:
        kinds = [KINDS[2 * pair + rng.randrange(2)] for pair in pairs[:n]]
    else:
        kinds = [kind for pair in pairs[:2] for kind in KINDS[2 * pair : 2 * pair + 2]][:n]
        if n == 3 and rng.random() < 0.5:
            kinds[2] = PARTNERS[kinds[2]]
    rng.shuffle(kinds)
    cells = rng.sample(range(9), n)
    contrasts = [_contrast(rng, foggy=foggy, first=i == 0) for i in range(n)]
    things = tuple(
        placed(rng, kind, cell, contrast) for kind, cell, contrast in zip(kinds, cells, contrasts, strict=True)
    )
    return Scene(key, things, foggy, violating)


def placed(rng: random.Random, kind: str, cell: int, contrast: float) -> SceneThing:
    """An object somewhere in one of the nine cells, in any colour and size, one in eight partly covered."""
    size = rng.choice(_SIZES)
    left = _CELL * (cell % 3) + _STEP * rng.randint(0, (_CELL - size) // _STEP)
    top = _CELL * (cell // 3) + _STEP * rng.randint(0, (_CELL - size) // _STEP)
    covered = rng.uniform(0.15, 0.35) if rng.random() < 1 / 8 else 0.0
    return SceneThing(kind, rng.choice(COLOURS), (left, top, left + size, top + size), contrast, covered)


def _contrast(rng: random.Random, *, foggy: bool, first: bool) -> float:
    """Fog swallows most objects but one; elsewhere few are faint."""
    if first:
        return rng.uniform(0.6, 1.0)
    if rng.random() < (_SWALLOWED if foggy else _HIDDEN):
        return rng.uniform(0.0, 0.05)
    return rng.uniform(0.45, 1.0)


def _background(rng: np.random.Generator, *, foggy: bool) -> NDArray[np.float32]:
    """A plain wall with two patches on it, plain or striped; in fog pale and nearly without them."""
    level = rng.uniform(0.72, 0.82) if foggy else rng.uniform(0.3, 0.55)
    canvas = np.full((SIZE, SIZE, 3), level, np.float32)
    for _ in range(2):
        top, left = rng.integers(0, SIZE - 16, 2)
        height, width = rng.integers(12, 33, 2)
        patch = canvas[top : top + height, left : left + width]
        shade = rng.uniform(-0.12, 0.12, 3).astype(np.float32) * (0.25 if foggy else 1.0)
        stripes = np.arange(patch.shape[0]) // 3 % 2 if rng.random() < 0.5 else np.ones(patch.shape[0])
        patch += stripes[:, None, None].astype(np.float32) * shade
    return canvas
