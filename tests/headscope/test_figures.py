"""Figures show the numbers they are given, and reports stand alone and escape what they are given."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from headscope import figures
from headscope.errors import UsageError
from headscope.figures.layout import number, scale
from headscope.scores import HeadScores

EVIL = "</script><img src=x onerror=alert(1)>"


def of(values, n=4, model="toy", metric="score") -> HeadScores:
    return HeadScores(torch.tensor(values).expand(n, -1, -1).clone(), metric, {"model": model})


@pytest.fixture
def scores():
    samples = torch.tensor([[[0.0, 0.9], [0.5, 0.0]], [[0.2, 1.0], [0.6, 0.0]]])
    return HeadScores(samples, "retrieval score", {"model": "toy"})


@pytest.fixture
def summary():
    rows = [
        ("random 2, seed 0", "control", 0.9, 0.8, 1.0, 20),
        ("top 2", "treatment", 0.05, 0.0, 0.2, 20),
        ("none", "none", 0.95, 0.9, 1.0, 20),
    ]
    return pd.DataFrame(rows, columns=["condition", "kind", "mean", "low", "high", "n"])


def test_head_map_shows_means_and_marks_strong_heads(scores):
    figure = scores.plot(threshold=0.55)
    heat, dots = figure.data
    np.testing.assert_allclose(heat.z, [[0.1, 0.95], [0.55, 0.0]], atol=1e-6)
    assert heat.text[0][1] == "<b>L0H1</b> 0.95 [0.90, 1.00], n = 2, active in 100 %"
    assert heat.text[0][0].endswith("active in 50 %")
    assert list(zip(dots.y, dots.x, strict=True)) == [(0, 1), (1, 0)]
    assert figure.layout.title.text == "retrieval score"
    assert figure.layout.title.subtitle.text == "toy, n = 2; dots: 2 of 4 heads at 0.55 or more"
    assert figure.layout.yaxis.range == (-0.5, 1.5)  # layer 0 at the bottom
    assert (heat.zmin, heat.colorscale[0][1]) == (0, "#440154")


def test_heads_that_do_not_exist_are_blank():
    heat = figures.head_map(of([[0.5, float("nan")]])).data[0]
    assert np.isnan(heat.z[0][1])
    assert heat.text[0][1] == ""


def test_signed_scores_diverge_around_zero():
    heat = figures.head_map(of([[0.5, -2.0]])).data[0]
    assert (heat.zmin, heat.zmax) == (-2, 2)


@pytest.mark.parametrize(("values", "high"), [([0.0, 0.0], 1.0), ([0.0, 0.4], 0.4), ([3.0], 3.0)])
def test_scale_starts_at_zero_and_is_never_empty(values, high):
    found = scale(np.array(values))
    assert (found["zmin"], found["zmax"]) == (0, high)


@pytest.mark.parametrize(("value", "text"), [(0.944, "0.94"), (0.0, "0.00"), (0.05, "0.05"), (0.00423, "0.0042")])
def test_numbers_keep_two_digits(value, text):
    assert number(value) == text


def test_length_depth_map_averages_cells_and_counts_them():
    table = pd.DataFrame({"length": [512, 256, 256, 512], "depth": [0.0, 0.0, 0.0, 1.0], "score": [1.0, 0.0, 0.5, 0.2]})
    figure = figures.length_depth_map(table)
    heat, text = figure.data
    np.testing.assert_array_equal(heat.z, [[0.25, 1.0], [np.nan, 0.2]])
    np.testing.assert_array_equal(heat.customdata, [[2, 1], [np.nan, 1]])
    assert (heat.x, heat.y) == (("256", "512"), ("0", "1"))
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert text.text == ("0.25", "1.00", "0.20")
    assert text.textfont.color == ("white", "black", "white")
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.title.subtitle.text == "n = 4, 1 to 2 in a cell"


def test_length_depth_map_names_what_is_missing():
    with pytest.raises(UsageError, match="no column 'depth'; it needs length, depth, score and has length, score"):
        figures.length_depth_map(pd.DataFrame({"length": [1], "score": [1.0]}))
    with pytest.raises(UsageError, match="no rows"):
        figures.length_depth_map(pd.DataFrame({"length": [], "depth": [], "score": []}))


def test_causal_bars_put_the_baseline_first_and_colour_by_kind(summary):
    figure = figures.causal_bars(summary)
    assert figure.layout.yaxis.categoryarray == ("none", "random 2, seed 0", "top 2")
    assert figure.layout.yaxis.range == (2.5, -0.5)  # the first on top
    assert [bar.name for bar in figure.data] == ["nothing edited", "treatment", "control"]
    assert len({bar.marker.color for bar in figure.data}) == 3
    treatment = figure.data[1]
    assert treatment.x == (0.05,)
    assert treatment.error_x.array == pytest.approx((0.15,))
    assert treatment.error_x.arrayminus == pytest.approx((0.05,))
    assert treatment.customdata == ("[0.00, 0.20], n = 20",)
    assert [(note.y, note.text) for note in figure.layout.annotations] == [
        ("none", "0.95"),
        ("random 2, seed 0", "0.90"),
        ("top 2", "0.05"),
    ]
    assert figure.layout.shapes[0].x0 == 0.95


def test_causal_bars_refuse_an_unknown_kind(summary):
    with pytest.raises(UsageError, match="'placebo' is not a kind of condition"):
        figures.causal_bars(summary.assign(kind="placebo"))


def test_histogram_bins_are_closed_below():
    bars = figures.score_histogram(of([[0.0, 0.05, 0.1, 0.49], [0.5, 1.2, 0.0, float("nan")]])).data[0]
    assert bars.customdata == (2, 1, 2, 2)
    assert bars.text == ("28.6 %", "14.3 %", "28.6 %", "28.6 %")
    signed = figures.score_histogram(of([[-0.2, 0.2]])).data[0]
    assert signed.customdata == (1, 0, 1, 0)
    assert signed.x[0] == "0 or less"


def test_frequency_scatter_sets_share_of_samples_against_mean(scores):
    figure = figures.frequency_scatter(scores)
    points, names = figure.data
    assert points.x == pytest.approx((0.1, 0.95, 0.55, 0.0))
    assert points.y == (0.5, 1, 1, 0)
    assert points.customdata == ("L0H0", "L0H1", "L1H0", "L1H1")
    assert names.text == ("L0H1", "L1H0", "L0H0", "L1H1")


def test_score_scatter_has_r_in_its_title_and_the_models_on_its_axes():
    a, b = of([[1.0, 2.0, 3.0, float("nan")]], model="base"), of([[1.0, 3.0, 2.0, 5.0]], model="<chat>")
    figure = figures.score_scatter(a, b)
    assert figure.layout.title.text == "score, r = 0.50"
    assert figure.data[0].customdata == ("L0H0", "L0H1", "L0H2")
    assert figure.layout.xaxis.title.text == "base"
    assert figure.layout.yaxis.title.text == "&lt;chat&gt;"


def test_neighbours_have_their_names_on_different_sides():
    names = figures.frequency_scatter(of([[0.9, 0.92]])).data[1]
    assert dict(zip(names.text, names.textposition, strict=True)) == {"L0H1": "top center", "L0H0": "bottom center"}


def test_a_single_head_can_be_drawn():
    only = of([[0.5]])
    for draw in (figures.head_map, figures.score_histogram, figures.frequency_scatter):
        assert draw(only).data


def every_figure(scores, summary):
    table = pd.DataFrame({"length": [1, 2], "depth": [0.0, 0.5], "score": [0.1, 0.2]})
    return [
        scores.plot(),
        figures.score_histogram(scores),
        figures.frequency_scatter(scores),
        figures.score_scatter(scores, scores),
        figures.length_depth_map(table),
        figures.causal_bars(summary, title=EVIL),
    ]


def test_every_figure_has_the_same_layout_and_a_readable_size(scores, summary):
    for figure in every_figure(scores, summary):
        assert figure.layout.font.size >= 13
        assert figure.layout.xaxis.tickfont.size >= 13
        assert figure.layout.height >= 200
        assert figure.layout.width is None  # as wide as the page


def test_report_stands_alone_and_holds_plotly_once(scores, summary):
    drawn = [(f"figure {i}", figure) for i, figure in enumerate(every_figure(scores, summary))]
    page = figures.report("A report", drawn)
    assert page.count("plotly.js v") == 1
    assert page.split("<body>")[1].count("Plotly.newPlot(") == len(drawn)
    assert not re.search(r"<(script|img|link|iframe)[^>]+(src|href)=", page)
    assert "default-src 'none'" in page
    assert page.count('<div id="figure-') == len(drawn)
    assert "prefers-color-scheme: dark" in page
    assert '<meta name="viewport"' in page


def test_report_without_figures_is_small():
    page = figures.report("Text", [("One", "First.\n\nSecond.\n\n\n")])
    assert len(page) < 5000
    assert page.count("<p>") == 2
    assert "<script" not in page


def test_report_escapes_everything(summary):
    evil = of([[0.5, 0.1]], model=EVIL, metric=EVIL)
    sections = [(EVIL, EVIL), ("table", pd.DataFrame({EVIL: [EVIL]})), ("map", evil.plot())]
    sections += [
        ("scatter", figures.score_scatter(evil, evil)),
        ("bars", figures.causal_bars(summary.assign(condition=EVIL))),
    ]
    page = figures.report(EVIL, sections)
    assert "<img" not in page.replace("plotly", "").split("</head>", 1)[1]
    assert "<title>&lt;/script&gt;&lt;img" in page
    for section in sections[2:]:
        assert "<img" not in section[1].to_json().encode().decode("unicode_escape")
