"""Opens what a sample may hold as an image: a PIL image, a file, or an array of pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from headscope.errors import UsageError

Size = tuple[int, int]
"""Width and height in pixels."""


def open_image(source: Any) -> Image.Image:
    """An upright RGB copy of a PIL image, an image file (str or Path) or an array [height width 3] of uint8.

    Turned as its EXIF orientation says, so that left and top are those a viewer shows. Transparency is dropped.
    UsageError for anything else, and for a file that is missing, is no image or ends too early; it names the file.
    """
    if isinstance(source, Image.Image):
        return _upright(source, f"the image {source!r}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if not isinstance(source, str | Path):
        raise UsageError(
            f"{type(source).__name__} is not an image; give a PIL image, the path of an image file, or a numpy array "
            "[height, width, 3] of uint8"
        )
    path = Path(source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"image file {str(source)!r} {what}; give the path of an image file on this machine")
    try:
        image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{str(source)!r} cannot be read as an image ({error}); give a PNG or JPEG file") from error
    with image:
        return _upright(image, f"image file {str(source)!r}")


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UsageError(f"the pixels of {name} cannot be read ({error}); save or fetch it again") from error


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UsageError(
            f"an array of shape {pixels.shape} and type {pixels.dtype} is not an image; give [height, width, 3] of "
            "uint8, colours from 0 to 255"
        )
    return Image.fromarray(pixels)
