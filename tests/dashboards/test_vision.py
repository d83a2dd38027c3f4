"""The page on vision, and what it reads."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from dashboards import captions
from dashboards.captions import MEAN, TOKEN_VHD, Caption, first_telling, image_of, live_caption, said_of
from dashboards.judged import bars_of, judged_of, judged_runs
from dashboards.reading import open_run, run_cards
from dashboards.reproduce import command_of
from dashboards.vision_recipe import vision_recipe
from experiments.cli import run as command
from experiments.vhd_by_token import keep_by_token
from headscope import HookedModel
from headscope.errors import UsageError
from headscope.runs import Run
from headscope.zoo import zoo_names
from tasks.scenes import scene_captions
from tests.dashboards.conftest import MARKUP, Open, saved
from tests.dashboards.test_views import charts, markup, sound

pytestmark = pytest.mark.skipif("zoo:scenes" not in zoo_names(), reason="zoo:scenes is not trained")
KNOWN = Caption(
    (" a", " cup", " knife"),
    ("other", "correct", "hallucinated"),
    (1.0, 3.0, 2.0),
    "knife",
    torch.tensor([[[0.0, 1.0]], [[2.0, 4.0]], [[1.0, torch.nan]]]),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """Heads read on captions of scenes, captions judged, and a run on another model."""
    folder = tmp_path_factory.mktemp("vision") / "runs"
    looked = ("heads", "vision", "--limit=2", "--by-token=1", "--max-new-tokens=24", "--json")
    assert command([*looked, "--out", str(folder / "looked")]) == 0
    judged = ("eval", "chair", "--limit=2", "--draws=1", "--max-new-tokens=16", "--with", "VHR(alpha=2)", "--json")
    assert command([*judged, "--out", str(folder / "judged")]) == 0
    saved(folder, "other", model="m", kinds=("retrieval",))
    return folder


def card(runs: Path, name: str):
    return next(one for one in run_cards(runs) if one.name == name)


def judgement(folder: Path, name: str, task: str = "captions", metric: str = "CHAIR_S") -> Run:
    row = {"metric": metric, "condition": MARKUP, "kind": "treatment", "value": 0.5, "low": 0.4, "high": 0.6}
    with Run.create(folder / name, command="eval chair", config={"model": MARKUP}) as run:
        run.save_table("families", pd.DataFrame([{**row, "task": task}]))
    return run


def test_a_strip_is_coloured_by_what_is_asked_for():
    assert KNOWN.amounts(TOKEN_VHD).tolist() == [1.0, 3.0, 2.0]
    assert KNOWN.amounts(MEAN).tolist() == [0.5, 3.0, 1.0], "heads that do not exist do not count"
    assert KNOWN.amounts("L0H0").tolist() == [0.0, 2.0, 1.0]
    assert list(KNOWN.table("L0H0").columns) == ["token", "kind", "L0H0"]
    with pytest.raises(UsageError, match="no such head"):
        KNOWN.amounts("L7H0")
    assert KNOWN.choices == (TOKEN_VHD, MEAN, "L0H0", "L0H1"), "L0H1 is there, if not at every token"
    kept = Caption(KNOWN.tokens, KNOWN.kinds, KNOWN.token_vhd, "")
    assert kept.choices == (TOKEN_VHD,)
    with pytest.raises(UsageError, match="only Token-VHD was kept"):
        kept.amounts(MEAN)


def test_heads_that_do_not_exist_are_not_offered():
    vhd = torch.ones(3, 2, 2)
    vhd[:, 1, 1] = torch.nan
    assert replace(KNOWN, vhd=vhd).choices[2:] == ("L0H0", "L0H1", "L1H0")


def test_a_strip_in_words():
    said = said_of(KNOWN, TOKEN_VHD)
    assert "1 to 3; objects that are there: “cup”; made up: “knife”" in said
    assert "nothing is made up" in said_of(Caption((" a",), ("other",), (1.0,), ""), TOKEN_VHD)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "violating/0", "violating/0/0/1", MARKUP, "x" * 99]
)
def test_images_of_other_names_are_not_opened(name):
    assert image_of(name) is None


def test_the_image_is_that_of_the_caption():
    model = HookedModel.load("zoo:scenes")
    caption, image = live_caption(model, 3, violating=True)
    sample = scene_captions(4, seed=0).samples(model.processor)[3]
    assert image.tobytes() == sample.images[0].tobytes()
    again = image_of(sample.meta["image_id"])
    assert again is not None
    assert again.tobytes() == image.tobytes()
    other = image_of("violating/0/4")
    assert other is not None
    assert other.tobytes() != image.tobytes()
    assert caption.vhd is not None
    assert caption.vhd.shape == (len(caption.tokens), model.n_layers, model.n_heads)
    top = caption.vhd.topk(1, -1).values.sum((1, 2))
    assert caption.amounts(TOKEN_VHD).tolist() == pytest.approx(top.tolist(), rel=1e-5)
    named = {t.strip() for t, kind in zip(caption.tokens, caption.kinds, strict=True) if kind == "correct"}
    assert named <= set(sample.meta["truth"])
    assert named
    with pytest.raises(UsageError, match="from 0 to 63"):
        live_caption(model, 64, violating=True)


def test_saved_captions(found):
    run = open_run(found, "looked")
    table = captions.saved_captions(run)
    one = captions.saved_caption(run, table, 1)
    assert "".join(token if token.startswith(" ") else f" {token}" for token in one.tokens).split() == (
        table["caption"].iloc[1].split()
    )
    assert (one.vhd, one.choices) == (None, (TOKEN_VHD,))
    assert "caption 1 is not among the 1" in one.lacks
    with pytest.raises(UsageError, match="caption 99 has no tokens"):
        captions.saved_caption(run, table, 99)
    assert captions.saved_captions(open_run(found, "judged")).empty


def test_every_head_of_a_saved_caption(found):
    run = open_run(found, "looked")
    one = captions.saved_caption(run, captions.saved_captions(run), 0)
    assert one.lacks == ""
    assert one.vhd is not None
    assert one.vhd.topk(1, -1).values.sum((1, 2)).tolist() == pytest.approx(list(one.token_vhd), rel=1e-4)
    assert one.amounts("L5H1").mean().item() == pytest.approx(run.scores("vhd").samples[0, 5, 1].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ([], "keeps no VHD by token"),
        ([torch.rand(3, 2, 2)], "VHD of 3 tokens of a caption of 1"),
        ("torn", "cannot be read"),
    ],
)
def test_a_caption_without_its_heads_says_why(opened: Open, tmp_path, kept, says):
    run = saved(tmp_path / "runs", "seen", model="m")
    run.save_table("captions", pd.DataFrame({"image_id": ["a"], "caption": ["cup"], "invented": [""]}))
    token = {"sample": 0, "step": 0, "token": "cup", "kind": "correct", "token_vhd": 1.0}
    run.save_table("caption_tokens", pd.DataFrame([token]))
    if kept == "torn":
        (run.path / "tensors").mkdir()
        (run.path / "tensors" / "vhd_by_token.safetensors").write_bytes(b"\x08")
    elif kept:
        keep_by_token(run, kept)
    page = sound(opened("vision", tmp_path / "runs"))
    assert any("Token-VHD over" in said for said in charts(page, "plotly_chart"))
    assert any(says in one.value.replace("\\", "") for one in page.caption)
    assert page.selectbox(key="choice: caption-by").options == [TOKEN_VHD]


def test_a_saved_caption_is_coloured_by_a_head(opened: Open, found):
    page = sound(opened("vision", found, run="looked", caption="0"))
    page.selectbox(key="choice: caption-by").set_value("L5H1").run()
    assert page.query_params["caption-by"] == "L5H1"
    assert any(said.startswith("L5H1 over") for said in charts(sound(page), "plotly_chart"))
    again = sound(opened("vision", found, **page.query_params))
    assert any(said.startswith("L5H1 over") for said in charts(again, "plotly_chart")), "a shared link shows the same"
    again.selectbox(key="choice: caption").set_value("1").run()
    assert any("caption-by" in one.value for one in again.warning), "no single heads are kept of this one"
    assert any("Token-VHD over" in said for said in charts(sound(again), "plotly_chart"))


def test_captions_and_judgements_with_gaps(tmp_path):
    run = saved(tmp_path, "gaps", model="m")
    run.save_table("captions", pd.DataFrame({"image_id": ["a"], "caption": ["x"], "invented": [None]}))
    run.save_table("caption_tokens", pd.DataFrame({"sample": [0]}))
    with pytest.raises(UsageError, match="have gaps"):
        captions.saved_captions(run)
    row = {
        "condition": "none",
        "kind": "none",
        "metric": "accuracy",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "task": "t",
    }
    run.save_table("families", pd.DataFrame([row]).iloc[:0])
    run.save_table("judged_families", pd.DataFrame([row | {"task": None}]))
    with pytest.raises(UsageError, match="no rows, or gaps"):
        judged_of(run)


def test_the_telling_caption_makes_something_up():
    assert first_telling(pd.DataFrame({"invented": ["", "cup", "key"]})) == 1
    assert first_telling(pd.DataFrame({"invented": ["", ""]})) == 0


def test_judgements(found, tmp_path):
    assert judged_runs(found, run_cards(found), card(found, "looked")) == ("judged",)
    assert judged_runs(found, run_cards(found), card(found, "other")) == ()
    table = judged_of(open_run(found, "judged"))
    bars = bars_of(table, "captions", "CHAIR_S")
    assert {"none", "treatment", "control"} == set(bars["kind"])
    assert bars["mean"].tolist() == table.loc[table["metric"] == "CHAIR_S", "value"].tolist()
    with pytest.raises(UsageError, match="has no value"):
        bars_of(table, "captions", "none")
    with pytest.raises(UsageError, match="judged no answers"):
        judged_of(open_run(found, "looked"))


def test_a_run_is_shown(opened: Open, found):
    page = sound(opened("vision", found, run="looked", caption="1"))
    assert [one.value for one in page.error] == []
    maps = charts(page)
    for part in ("VHD", "attention of the text to the image", "share of object words located"):
        assert any(part in said for said in maps), part
    drawn = charts(page, "plotly_chart")
    assert any("Token-VHD over" in said for said in drawn)
    assert any("CHAIR_S" in said and "random for" in said for said in drawn), "controls stand beside"
    assert [one.proto.alt for one in page.dataframe if not one.proto.alt] == []
    assert page.selectbox(key="choice: caption").value == "1"
    assert page.expander[-1].label == "Reproduce this"


def test_a_judged_run_is_shown(opened: Open, found):
    page = sound(opened("vision", found, run="judged"))
    assert [one.value for one in page.error] == []
    page.selectbox(key="choice: judged-metric").set_value("recall").run()
    assert page.query_params["judged-metric"] == "recall"
    assert any(said.startswith("recall") for said in charts(sound(page), "plotly_chart"))


def test_other_runs_name_those_that_looked(opened: Open, found):
    page = sound(opened("vision", found, run="other"))
    assert list(page.dataframe[0].value["run"]) == ["looked"]


def test_a_scene_is_read_only_when_asked(opened: Open, empty):
    page = sound(opened("vision", empty, scene="3"))
    assert page.code[0].value.startswith("headscope heads vision")
    assert charts(page, "plotly_chart") == [], "nothing is read unasked"
    page.button(key="live scene: read").click().run()
    assert any("Token-VHD over" in said for said in charts(sound(page), "plotly_chart"))
    page.selectbox(key="choice: by").set_value("L5H1").run()
    assert page.query_params["by"] == "L5H1"
    assert any(said.startswith("L5H1 over") for said in charts(sound(page), "plotly_chart"))
    page.number_input(key="choice: scene").set_value(4).run()
    assert charts(sound(page), "plotly_chart") == [], "another scene is another request"


@pytest.mark.parametrize("name", ["caption", "caption-by", "by", "prior", "judged", "judged-task"])
def test_an_address_that_asks_for_what_is_not_there(opened: Open, found, name):
    page = opened("vision", found, **{"run": "looked", "scene": "-5", name: f"../{MARKUP}"})
    if name == "by":
        page.button(key="live scene: read").click().run()
    assert any("is not here" in one.value for one in sound(page).warning)
    assert markup(page) == ""


def test_markup_is_shown_as_text(opened: Open, tmp_path):
    folder = tmp_path / "runs"
    run = saved(folder, "<b onclick=alert(1)>", model=MARKUP)
    said = {"image_id": [MARKUP], "caption": [MARKUP], "invented": [MARKUP]}
    run.save_table("captions", pd.DataFrame(said))
    token = {"sample": 0, "step": 0, "token": MARKUP, "kind": MARKUP, "token_vhd": 1.0}
    run.save_table("caption_tokens", pd.DataFrame([token]))
    judgement(folder, "judged", task=MARKUP, metric=MARKUP)
    page = sound(opened("vision", folder, run="<b onclick=alert(1)>"))
    assert [one.value for one in page.error] == []
    assert markup(page) == ""


def test_damaged_tables_leave_the_maps(opened: Open, tmp_path):
    run = saved(tmp_path / "runs", "cut", model="m")
    run.save_table("captions", pd.DataFrame({"image_id": ["a"], "caption": ["b"], "invented": [""]}))
    run.save_table("caption_tokens", pd.DataFrame({"sample": [0], "step": [0]}))
    page = sound(opened("vision", tmp_path / "runs"))
    assert [one.value for one in page.error] == ["The captions of this run cannot be shown."]
    assert any("VHD" in said for said in charts(page))


def test_the_python_runs(found, capsys):
    run = open_run(found, "looked")
    exec(compile(vision_recipe(run.path, run.facts, (3, True)).python, "recipe", "exec"), {})
    assert "the image shows" in capsys.readouterr().out
    assert vision_recipe(None, {}, None).command.startswith("headscope heads vision")
    assert vision_recipe(run.path, run.facts, None).command == command_of(run.facts) != ""
    older = {"command": "heads vision", "seeds": [0], "config": {"model": "zoo:scenes", "task": "CHAIR()"}}
    assert vision_recipe(run.path, older, None).command == ""
