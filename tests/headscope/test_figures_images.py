"""Figures of images show the numbers at the pixels that they belong to, and refuse what does not fit."""

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from headscope import UsageError, figures
from headscope.figures.images import _GLOW
from headscope.images import ImageLayout

EVIL = "<img src=x onerror=alert(1)>"


def layout(side: int = 8, cells: int = 2) -> ImageLayout:
    """A square image in a square of cells, and one token that shows nothing."""
    step = side / cells
    boxes = [[x * step, y * step, (x + 1) * step, (y + 1) * step] for y in range(cells) for x in range(cells)]
    boxes.append([torch.nan] * 4)
    zeros = torch.zeros(len(boxes), dtype=torch.long)
    return ImageLayout(torch.arange(len(boxes)) + 3, zeros, zeros, torch.tensor(boxes), ((side, side),))


def image(side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), (10, 200, 30))


VALUES = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.4])


def test_heat_lies_over_the_pixels_of_each_token():
    figure = figures.attention_overlay(image(), layout(), VALUES, title="L3H1")
    (heat,) = figure.data
    assert heat.z.shape == (8, 8)
    np.testing.assert_allclose(heat.z[[0, 0, 7, 7], [0, 7, 0, 7]], [0.1, 0.2, 0.3, 0.0])
    np.testing.assert_allclose(heat.z[:4, :4], 0.1)
    assert (heat.x[0], heat.x[-1], heat.y[-1]) == (0.5, 7.5, 7.5)
    assert figure.layout.yaxis.range == (8, 0)  # the first row on top
    assert figure.layout.yaxis.scaleanchor == "x"
    (picture,) = figure.layout.images
    assert (picture.sizex, picture.sizey, picture.layer) == (8, 8, "below")
    assert picture.source.startswith("data:image/png;base64,")
    assert figure.layout.title.text == "L3H1"
    assert figure.layout.title.subtitle.text == "1.00 in all, over 5 image tokens"
    assert heat.colorscale[0][1] == _GLOW[0][1]  # clear where nobody looks


def test_large_images_are_drawn_in_few_cells():
    figure = figures.attention_overlay(image(800), layout(800), VALUES)
    heat = figure.data[0]
    assert max(heat.z.shape) <= 192
    expected = {(True, True): 0.1, (True, False): 0.2, (False, True): 0.3, (False, False): 0.0}
    for row, y in enumerate(heat.y):
        for column, x in enumerate(heat.x):
            assert heat.z[row][column] == pytest.approx(expected[bool(y < 400), bool(x < 400)])


def test_sinks_are_crossed_and_objects_framed():
    sinks = torch.tensor([False, True, False, False, True])
    figure = figures.attention_overlay(image(), layout(), VALUES, sinks=sinks, boxes={EVIL: [(1, 2, 5, 6)]})
    _, dark, bright, names, crosses = figure.data
    assert (crosses.x, crosses.y) == ((6.0,), (2.0,))  # a sink without a place is counted and not drawn
    assert bright.x == dark.x == (1, 5, 5, 1, 1, None)
    assert bright.y == (2, 2, 6, 6, 2, None)
    assert names.text == ("&lt;img src=x onerror=alert(1)&gt;",)
    assert figure.layout.title.subtitle.text.replace("<br>", " ").endswith("crosses: 2 sinks")


def test_a_grid_shows_all_in_one_scale():
    values = {"L0H0": VALUES, "L0H1": 2 * VALUES, "L1H0": 0 * VALUES}
    figure = figures.overlay_grid(image(), layout(), values, columns=2)
    assert [trace.xaxis for trace in figure.data] == ["x", "x2", "x3"]
    assert {(trace.zmin, round(trace.zmax, 6)) for trace in figure.data} == {(0, 0.6)}
    assert [trace.showscale for trace in figure.data] == [True, False, False]
    assert [note.text for note in figure.layout.annotations] == list(values)
    assert len(figure.layout.images) == 3
    assert figure.layout.xaxis.domain[1] < figure.layout.xaxis2.domain[0]
    assert figure.layout.yaxis3.domain[1] < figure.layout.yaxis.domain[0]


def test_negative_values_diverge():
    heat = figures.attention_overlay(image(), layout(), VALUES - 0.2).data[0]
    assert heat.zmin == -heat.zmax
    assert heat.opacity == 0.6


def test_tokens_are_laid_out_as_they_are_read():
    kinds = ["other", "other", "hallucinated", "other", "correct"]
    figure = figures.token_map(["a", " red", " <b>", " ", "cup"], torch.arange(5.0), kinds=kinds, columns=3)
    heat, invented, there = figure.data
    np.testing.assert_array_equal(heat.z, [[0, 1, 2], [3, 4, np.nan]])
    assert heat.text.tolist() == [["a", "red", "&lt;b&gt;"], ["␣", "cup", ""]]
    assert heat.customdata[1][1] == "<b>cup</b> 4.00, token 4, correct"
    assert (invented.name, min(invented.x[:5]), max(invented.y[:5])) == ("hallucinated object", 1.53, 0.45)
    assert (there.name, min(there.x[:5]), max(there.y[:5])) == ("correct object", 0.53, 1.45)
    assert figure.layout.title.subtitle.text == "5 tokens; framed: 1 hallucinated, 1 correct"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


def test_without_kinds_nothing_is_framed():
    figure = figures.token_map(["a", "b"], torch.ones(2))
    assert len(figure.data) == 1
    assert figure.layout.title.subtitle.text == "2 tokens"


def test_figures_stand_in_a_page_that_fetches_nothing():
    page = figures.report("t", [("one", figures.attention_overlay(image(), layout(), VALUES))])
    assert 'aria-label="one"' in page
    assert "data:image/png;base64," in page
    assert "img-src data:" in page  # the policy lets the picture in


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((image(9), layout(), VALUES), {}, "9 x 9 pixels, but the layout was made for one of 8 x 8"),
        ((image(), layout(), VALUES[:3]), {}, "3 values of '' were given for 5 image tokens"),
        ((image(), layout(), VALUES), {"sinks": torch.tensor([True])}, "1 values of 'sinks' were given for 5"),
        ((image(), layout(), VALUES.log()), {}, "some values are not finite"),
        ((image(), layout(), VALUES), {"number_of_image": 1}, "image 1 was asked for, but the layout has 1"),
        ((image(), layout(), VALUES), {"boxes": {"cup": [(4, 1, 2, 3)]}}, "box .* of 'cup' is empty"),
        (("/nowhere.png", layout(), VALUES), {}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse the shapes first
    with pytest.raises(UsageError, match=message):
        figures.attention_overlay(*arguments, **options)


def test_no_values_are_refused():
    with pytest.raises(UsageError, match="no values to draw"):
        figures.overlay_grid(image(), layout(), {})
    with pytest.raises(UsageError, match="2 tokens have 3 values and 2 kinds"):
        figures.token_map(["a", "b"], torch.ones(3))
