"""Every view as a reader meets it: full, empty, on damaged runs, and from an address that means harm."""

import re
import shlex
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from headscope.zoo import zoo_names
from tests.dashboards.conftest import MARKUP, Open, saved

VIEWS = ("runs", "atlas", "head", "attention", "retrieval")
OF_RUNS = ("runs", "atlas", "head", "retrieval")


def all_said(page: AppTest) -> str:
    """Everything that Markdown is read in."""
    kinds = (page.markdown, page.caption, page.error, page.warning, page.info, page.title, page.header, page.subheader)
    return "\n".join(str(one.value) for kind in kinds for one in kind)


def markup(page: AppTest) -> str:
    """What Markdown would take for a tag, a link, an image or a formula in what a page says."""
    return re.sub(r"[^<>$\[\]!]", "", re.sub(r"\\.", "", all_said(page)))


def sound(page: AppTest) -> AppTest:
    assert [one.message for one in page.exception] == []
    return page


def charts(page: AppTest, kind: str = "vega_lite_chart") -> list[str]:
    """What the charts of a page are called by those who cannot see them."""
    return [one.proto.alt for one in page.get(kind)]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_a_run(opened: Open, runs, view):
    page = sound(opened(view, runs, run="scored"))
    assert [one.value for one in page.error] == []
    assert page.query_params["run"] == "scored"
    assert len(page.title) == 1
    drawn = [*charts(page), *charts(page, "plotly_chart")]
    assert drawn or view == "runs"
    assert all(len(said) > 20 for said in drawn), "a figure without a description"
    assert page.expander[0].label == "Reproduce this"
    assert all(one.proto.alt for one in page.dataframe)


@pytest.mark.parametrize("view", OF_RUNS)
def test_an_empty_folder_says_what_to_run(opened: Open, empty, view):
    page = sound(opened(view, empty))
    assert "no runs here yet" in page.info[0].value
    assert page.code[0].value == f"headscope demo --out {empty / 'demo'}"


def test_attention_needs_no_run(opened: Open, empty):
    page = sound(opened("attention", empty, model="zoo:needle"))
    assert list(page.error) == []
    assert any("attention on needle" in said for said in charts(page))


def test_a_folder_that_is_gone(opened: Open, tmp_path):
    page = sound(opened("runs", tmp_path / "gone"))
    assert "does not exist" in page.info[0].value
    assert "headscope demo" in page.code[0].value


@pytest.mark.parametrize(("name", "says"), [("torn", "is not JSON"), ("newer", "schema 99")])
@pytest.mark.parametrize("view", OF_RUNS)
def test_a_damaged_run_says_what_to_do_and_leaves_the_others(opened: Open, runs, view, name, says):
    page = sound(opened(view, runs, run=name))
    assert "cannot be read" in page.error[0].value
    assert any(says in one.value for one in page.text)
    page.sidebar.selectbox(key="choice: run").set_value("scored").run()
    assert list(sound(page).error) == []
    assert page.query_params["run"] == "scored"


def test_damaged_runs_stand_in_the_list(opened: Open, runs):
    table: pd.DataFrame = opened("runs", runs).dataframe[0].value
    assert set(table["run"]) == {"scored", "removed", "seen", "torn", "newer", "cut"}
    problems = table.set_index("run")["problem"]
    assert "update headscope" in problems["newer"]
    assert "is not JSON" in problems["torn"]
    assert problems["scored"] == ""


def test_one_damaged_score_leaves_the_others(opened: Open, runs):
    page = sound(opened("atlas", runs, run="cut", score="vhd"))
    assert len(page.error) == 1
    assert "cut short" in page.text[0].value
    assert any("vhd (test)" in said for said in charts(page))
    page = sound(opened("atlas", runs, run="cut", score="broken"))
    assert "cannot be shown" in page.error[0].value


def test_a_damaged_table(opened: Open, runs):
    page = sound(opened("runs", runs, run="cut"))
    assert any("whole parquet file" in one.value for one in page.text)


def test_a_self_check_of_another_kind(opened: Open, tmp_path):
    run = saved(tmp_path / "odd", "run", model="m")
    run.update(self_check=[{"check": "a", "passed": True}, {"check": "b", "passed": []}])
    page = sound(opened("runs", tmp_path / "odd"))
    (table,) = (one.value for one in page.dataframe if "passed" in one.value)
    assert list(table["passed"]) == ["ok", "noted"]


def test_damaged_scores_leave_the_page_on_attention(opened: Open, tmp_path):
    run = saved(tmp_path / "cut", "run", model="zoo:needle", kinds=("vhd",))
    (run.path / "vhd.safetensors").write_bytes(b"\x08")
    page = sound(opened("attention", tmp_path / "cut", run="run"))
    assert list(page.error) == []
    assert charts(page)


@pytest.mark.parametrize(("view", "head"), [("retrieval", "L0H0"), ("head", "L1H2")])
def test_commands_that_are_suggested_name_the_model_and_are_quoted(opened: Open, tmp_path, view, head):
    model = "org/x; rm -rf ~"
    saved(tmp_path / "my runs", "a; reboot", model=model, kinds=("retrieval",))
    page = sound(opened(view, tmp_path / "my runs", head=head))
    words = shlex.split(next(one.value for one in page.code if one.value.startswith("headscope ablate heads")))
    assert words[words.index("--model") + 1] == model
    out = Path(words[words.index("--out") + 1])
    assert out.parent == tmp_path / "my runs"
    if view == "retrieval":
        assert words[words.index("--from") + 1] == str(tmp_path / "my runs" / "a; reboot")


@pytest.mark.parametrize("name", ["../scored", "/etc", "nothing"])
def test_an_address_cannot_leave_the_folder(opened: Open, runs, name):
    page = sound(opened("runs", runs, run=name))
    assert "is not here" in page.warning[0].value
    assert page.query_params["run"] in {"scored", "removed", "seen", "cut"}


def test_a_link_out_of_the_folder_is_not_followed(opened: Open, runs, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / "away").symlink_to(runs / "scored")
    page = sound(opened("atlas", folder, run="away"))
    assert any("leads out" in one.value for one in page.text)
    assert charts(page) == []


@pytest.mark.parametrize("head", ["L99H0", "<script>alert(1)</script>", "L1H"])
def test_a_head_that_does_not_exist(opened: Open, runs, head):
    page = sound(opened("head", runs, run="seen", score="vhd", head=head))
    assert "is not here" in page.warning[0].value
    assert page.header[0].value == "L1H2", "the best head instead"
    assert markup(page) == ""


@pytest.mark.parametrize("written", ["0.3", "l0h3"])
def test_a_head_as_people_write_it(opened: Open, runs, written):
    page = sound(opened("head", runs, run="seen", head=written))
    assert page.header[0].value == "L0H3"
    assert page.query_params["head"] == "L0H3"


@pytest.mark.parametrize("view", OF_RUNS)
def test_markup_is_shown_as_text(opened: Open, hostile, view):
    page = sound(opened(view, hostile))
    assert markup(page) == ""
    for one in page.markdown:
        assert not one.allow_html


def test_markup_in_a_prompt_is_shown_as_text(opened: Open, empty):
    page = opened("attention", empty, model="zoo:needle", prompt="my own", text=f"the secret {MARKUP}")
    assert markup(sound(page)) == ""
    assert any("at token" in said for said in charts(page))


def test_a_model_that_only_an_address_names(opened: Open, runs):
    page = sound(opened("attention", runs, model="/etc"))
    assert "is not here" in page.warning[0].value
    assert page.query_params["model"] in zoo_names()


def test_a_model_of_a_run_is_not_loaded_by_an_address_alone(opened: Open, tmp_path):
    saved(tmp_path / "hub", "run", model="org/model")
    page = sound(opened("attention", tmp_path / "hub", model="org/model"))
    assert page.button[0].label.startswith("Load ")
    assert charts(page) == []


def test_choices_go_into_the_address_and_come_back(opened: Open, runs):
    page = opened("atlas", runs, run="seen", score="vhd")
    page.selectbox(key="choice: score").set_value("sink_mass").run()
    page.selectbox(key="choice: head").set_value("L2H0").run()
    assert {"run": "seen", "score": "sink_mass", "head": "L2H0"}.items() <= page.query_params.items()
    again = sound(opened("atlas", runs, **page.query_params))
    assert again.selectbox(key="choice: head").value == "L2H0"
    assert again.selectbox(key="choice: score").value == "sink_mass"


def test_a_head_goes_along_to_the_next_page(opened: Open, runs):
    page = opened("atlas", runs, run="seen", head="L2H1")
    page.query_params.clear()  # what going to another page does
    page.switch_page("views/head.py").run()
    assert sound(page).header[0].value == "L2H1"


def test_the_page_of_a_head_holds_what_all_runs_know(opened: Open, runs):
    page = sound(opened("head", runs, run="scored"))
    best = page.header[0].value
    scores = page.dataframe[0].value
    assert list(scores["run"]) == ["scored"]
    assert list(scores["rank"]) == [1]
    assert any(f"without {best}" in said for said in charts(page, "plotly_chart"))
    seen = sound(opened("head", runs, run="seen", head="L1H2")).dataframe[0].value
    assert {("seen", "vhd"), ("seen", "sink_mass"), ("cut", "vhd")} == set(zip(seen["run"], seen["score"], strict=True))


def test_runs_are_filtered(opened: Open, runs):
    page = opened("runs", runs, find="needle retrieval")
    assert list(page.dataframe[0].value["run"]) == ["scored"]
    page = sound(opened("runs", runs, find="nothing like it"))
    assert "No run matches" in page.info[0].value


def test_two_runs_are_compared(opened: Open, runs):
    page = sound(opened("runs", runs, run="seen", other="cut"))
    assert any("r = 1.00" in said for said in charts(page, "plotly_chart"))


def test_the_answer_is_read_behind_the_prompt(opened: Open, runs):
    page = sound(opened("attention", runs, run="scored", model="zoo:needle"))
    before = page.number_input(key="choice: token").max
    page.toggle(key="choice: answer").set_value(True).run()
    assert page.query_params["answer"] == "1"
    assert sound(page).number_input(key="choice: token").max > before


@pytest.mark.parametrize("token", ["999999", "²", "9" * 5000])
def test_a_token_that_does_not_exist(opened: Open, runs, token):
    page = sound(opened("attention", runs, run="scored", token=token))
    shown = page.number_input(key="choice: token")
    assert shown.min <= shown.value <= shown.max


def test_an_image_is_shown_with_its_overlay(opened: Open, empty):
    page = sound(opened("attention", empty, model="zoo:scenes"))
    assert any("of its attention is on the image" in said for said in charts(page, "plotly_chart"))
    assert any("image ×64" in said for said in charts(page))


def test_an_image_of_ones_own(opened: Open, empty):
    page = sound(opened("attention", empty, model="zoo:scenes", prompt="my own", text="What is there?"))
    assert "needs an image" in page.text[0].value
    file = BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    page.file_uploader[0].set_value(("red.png", file.getvalue(), "image/png")).run()
    assert any("is on the image" in said for said in charts(sound(page), "plotly_chart"))
    page.file_uploader[0].set_value(("red.png", b"no image", "image/png")).run()
    assert "give a PNG, JPEG or WebP" in sound(page).text[0].value


@pytest.mark.parametrize("odd", [{"score": float("nan")}, {"score": "much", "kept": True}, {"length": None}])
def test_answers_that_are_damaged_leave_the_scores(opened: Open, tmp_path, odd):
    run = saved(tmp_path / "cut", "run", model="m", kinds=("retrieval",))
    run.save_table("answers", pd.DataFrame({"length": [64.0] * 6, "depth": 0.5, "score": 1.0}).assign(**odd))
    page = sound(opened("retrieval", tmp_path / "cut"))
    assert any("cannot be shown" in one.value for one in page.error)
    assert any("retrieval (test)" in said for said in charts(page))


def test_retrieval_of_a_run_without_it_names_those_that_have_it(opened: Open, runs):
    page = sound(opened("retrieval", runs, run="seen"))
    assert list(page.dataframe[0].value["run"]) == ["scored"]
    assert charts(page) == []
