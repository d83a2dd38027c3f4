"""Whatever a sample holds as an image is opened upright and in colour, or refused by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headscope import UsageError
from headscope.images import open_image

ORIENTATION = 0x0112


@pytest.fixture
def corner() -> Image.Image:
    """6 x 4, black but for a red pixel at the top left."""
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    return image


def test_path_text_and_array_give_the_same_pixels(corner: Image.Image, tmp_path: Path):
    path = tmp_path / "corner.png"
    corner.save(path)
    for source in (corner, path, str(path), np.asarray(corner)):
        opened = open_image(source)
        assert (opened.mode, opened.size) == ("RGB", (6, 4))
        assert opened.tobytes() == corner.tobytes()


def test_a_photograph_is_turned_upright(corner: Image.Image, tmp_path: Path):
    """Orientation 6 asks for a quarter turn clockwise: the top left goes to the top right."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / "turned.png"
    corner.save(path, exif=exif)
    opened = open_image(path)
    assert opened.size == (4, 6)
    assert opened.getpixel((3, 0)) == (255, 0, 0)


def test_the_image_given_is_left_as_it_is(corner: Image.Image):
    before = corner.tobytes()
    open_image(corner).putpixel((1, 1), (9, 9, 9))
    assert corner.tobytes() == before


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode: str, corner: Image.Image):
    assert open_image(corner.convert(mode)).mode == "RGB"


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"image file '.*cat\.png' does not exist; give the path"):
        open_image(tmp_path / "cat.png")


def test_a_folder_is_no_image(tmp_path: Path):
    with pytest.raises(UsageError, match="is a folder"):
        open_image(tmp_path)


def test_an_address_is_no_file():
    with pytest.raises(UsageError, match="on this machine"):
        open_image("https://example.org/cat.png")


def test_a_file_of_text_is_named(tmp_path: Path):
    path = tmp_path / "notes.png"
    path.write_text("not an image")
    with pytest.raises(UsageError, match=r"'.*notes\.png' cannot be read as an image"):
        open_image(path)


@pytest.mark.parametrize("name", ["noise.png", "noise.jpg"])
def test_a_file_cut_short_is_named(name: str, tmp_path: Path):
    path = tmp_path / name
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=rf"the pixels of image file '.*{name}' cannot be read"):
        open_image(path)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_of_another_kind_is_described(pixels: np.ndarray):
    with pytest.raises(
        UsageError, match=r"an array of shape \(.*\) and type \w+ is not an image; give \[height, width"
    ):
        open_image(pixels)


def test_another_type_is_named():
    with pytest.raises(UsageError, match="bytes is not an image; give a PIL image"):
        open_image(b"\x89PNG")
