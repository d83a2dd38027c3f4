"""Tables show their text as it is and can be read aloud."""

import pandas as pd
import pytest

from headscope.tables import html_table


def test_all_text_is_escaped():
    html = html_table(pd.DataFrame({"<b>": ["<script>alert('x')</script>"]}), caption="a & <i>")
    assert "<script" not in html
    assert "<b>" not in html
    assert "<caption>a &amp; &lt;i&gt;</caption>" in html


def test_numbers_are_short_and_missing_values_are_dashes():
    table = pd.DataFrame({"x": [0.123456, float("nan")], "n": [12345678, 2], "name": ["a", None], "ok": [True, False]})
    html = html_table(table)
    assert '<td style="text-align:right">0.1235</td>' in html
    assert '<td style="text-align:right">12345678</td>' in html
    assert html.count("–</td>") == 2
    assert '<th scope="col" style="text-align:left">name</th>' in html
    assert '<td style="text-align:left">True</td>' in html


@pytest.mark.parametrize(
    ("value", "text"), [(0.4, "0.4000"), (1234.0, "1234"), (54321.9, "54322"), (1e-7, "1.000e-07"), (-2.0, "-2.000")]
)
def test_floats_have_four_digits(value, text):
    assert f">{text}</td>" in html_table(pd.DataFrame({"x": [value]}))
