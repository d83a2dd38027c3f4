"""Layouts made by hand: what each method answers can be worked out on paper."""

import math

import pytest
import torch

from headscope import UsageError
from headscope.images import ImageLayout
from headscope.images.views import Axis, View

NAN = math.nan


@pytest.fixture
def layout() -> ImageLayout:
    """A word, an 8 x 4 image as two cells side by side and once more whole, a word, and a 4 x 4 image in one cell.

    Rows of the first image end in a token: places 1, 2 show its halves, 3 ends the row, 5 is the whole of it.
    """
    boxes = [[0, 0, 4, 4], [4, 0, 8, 4], [NAN] * 4, [0, 0, 8, 4], [0, 0, 4, 4]]
    return ImageLayout(
        torch.tensor([1, 2, 3, 5, 8]),
        torch.tensor([0, 0, 0, 0, 1]),
        torch.tensor([1, 1, 1, 0, 0]),
        torch.tensor(boxes),
        ((8, 4), (4, 4)),
    )


def test_spans_are_runs_without_a_gap(layout: ImageLayout):
    assert layout.spans == (((1, 4), (5, 6)), ((8, 9),))


def test_a_pixel_is_shown_once_in_every_view(layout: ImageLayout):
    assert layout.at(3, 2).tolist() == [1, 5]
    assert layout.at(4, 0).tolist() == [2, 5]
    assert layout.at(0, 0, image=1).tolist() == [8]


def test_a_token_is_inside_if_its_centre_is(layout: ImageLayout):
    assert layout.inside((0, 0, 5, 4)).tolist() == [True, False, False, True, False]
    assert layout.inside((0, 0, 4, 4)).tolist() == [True, False, False, False, False]
    assert layout.inside((1, 1, 3, 3), image=1).tolist() == [False] * 4 + [True]


def test_the_grid_leaves_out_the_ends_of_rows(layout: ImageLayout):
    assert layout.grid(view=1).tolist() == [[0, 1]]
    assert layout.grid().tolist() == [[3]]
    assert layout.grid(image=1).tolist() == [[4]]


def test_heat_counts_every_view_the_same(layout: ImageLayout):
    """Left half: (1 + 10) / 2, right half: (3 + 10) / 2; the token that ends the row has no say."""
    heat = layout.heat(torch.tensor([1.0, 3.0, 1e6, 10.0, 7.0]))
    assert heat.shape == (4, 8)
    assert heat[:, :4].unique().tolist() == [5.5]
    assert heat[:, 4:].unique().tolist() == [6.5]


def test_heat_of_one_view_of_one_image(layout: ImageLayout):
    values = torch.tensor([1.0, 3.0, 1e6, 10.0, 7.0])
    assert layout.heat(values, views=[1])[0].tolist() == [1.0] * 4 + [3.0] * 4
    assert layout.heat(values, image=1).unique().tolist() == [7.0]
    assert layout.heat(values, image=1, views=[1]).isnan().all()


def test_a_pixel_shared_by_two_tokens_gets_the_mean_by_area():
    """The cut runs through the third pixel at a quarter of its width; half the fourth is shown by no token."""
    boxes = torch.tensor([[0.0, 0.0, 2.25, 1.0], [2.25, 0.0, 3.5, 1.0]])
    nothing = torch.tensor([0, 0])
    layout = ImageLayout(torch.tensor([0, 1]), nothing, nothing, boxes, ((5, 1),))
    heat = layout.heat(torch.tensor([4.0, 8.0]))[0]
    assert heat[:4].tolist() == [4.0, 4.0, 7.0, 8.0]
    assert heat[4].isnan()


def test_what_does_not_exist_is_named(layout: ImageLayout):
    with pytest.raises(UsageError, match=r"image 2 was asked for, but the sample has 2"):
        layout.at(0, 0, image=2)
    with pytest.raises(UsageError, match=r"pixel \(8, 0\) lies outside image 0, which is 8 wide and 4 high"):
        layout.at(8, 0)
    with pytest.raises(UsageError, match=r"image 0 has no view 2; its views are 0, 1"):
        layout.grid(view=2)
    with pytest.raises(UsageError, match=r"box \(4, 0, 4, 4\) is empty"):
        layout.inside((4, 0, 4, 4))
    with pytest.raises(UsageError, match=r"3 values were given for 5 image tokens"):
        layout.heat(torch.zeros(3))


# -- geometry --------------------------------------------------------------------------------------------------------


def test_a_cell_leads_back_to_the_pixels_it_shows():
    """100 pixels halved, the middle 40 of the 50 kept, cut in cells of 8: five, from pixel 10 in steps of 16."""
    assert Axis(100).resized(50).cropped(40).cells(8)[:, 0].tolist() == [10, 26, 42, 58, 74]


def test_padding_lies_outside_the_image():
    """An odd pixel of padding goes to the end, one of a crop that is too large to the beginning."""
    assert Axis(5).padded(8).cells(4).tolist() == [[-1, 3], [3, 7]]
    assert Axis(5).cropped(8).cells(4).tolist() == [[-2, 2], [2, 6]]


def test_a_rest_smaller_than_a_cell_is_seen_by_no_token():
    assert Axis(26).cells(4)[-1].tolist() == [20, 24]


def test_tokens_of_a_view_come_row_by_row():
    rows, columns = Axis(2).cells(1), Axis(3).cells(1)
    view = View(0, rows=rows, columns=columns, before=1, row_ends=True, after=1)
    boxes = view.boxes()
    nowhere = boxes.isnan().any(1)
    assert nowhere.nonzero().flatten().tolist() == [0, 4, 8, 9]
    assert boxes[~nowhere].tolist() == [[x, y, x + 1, y + 1] for y in range(2) for x in range(3)]
