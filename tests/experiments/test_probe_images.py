"""Files with images, and captions in another order, in `headscope probe`: what is there is read, the rest is not."""

import json
from pathlib import Path

import pytest

from experiments.cli import run
from headscope.runs import Run
from tasks.scene_world import scenes
from tests.experiments.test_cli import printed

QUICK = ("--draws", "19", "--folds", "3", "--baselines", "none", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Is there a cup: asked of scenes, half of which have one, and of one and the same scene."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "pictures").mkdir()
    seen, blind = [], []
    for scene in scenes(160, seed=3, violating=True):
        there = [thing.contrast for thing in scene.things if thing.kind == "cup"]
        label = "yes" if there and there[0] > 0.5 else "no"
        if (there and label == "no") or sum(row["label"] == label for row in seen) == 20:
            continue
        name = f"pictures/{len(seen)}.png"
        scene.image().save(folder / name)
        row = {"prompt": "Is there a cup in the image?", "label": label, "group": scene.id}
        seen.append(row | {"image": name})
        blind.append(row | {"image": "pictures/0.png"})
    assert [sum(row["label"] == label for row in seen) for label in ("yes", "no")] == [20, 20]
    for name, rows in (("seen", seen), ("blind", blind), ("away", [row | {"image": "../x.png"} for row in seen])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_what_a_picture_shows_is_read_and_nothing_where_all_are_one(folder, out, capsys):
    files = [word for name in ("seen", "blind") for word in ("--set", str(folder / f"{name}.jsonl"))]
    assert run(["probe", "--model", "zoo:scenes", *files, "--layers", "5", "--out", out, *QUICK]) == 0
    found = printed(capsys)
    (seen,), (blind,) = (found["probes"][f"{name} resid_post seed 0"] for name in ("seen", "blind"))
    assert seen["found"]
    assert seen["accuracy"] > 0.8
    assert not blind["found"]
    assert blind["accuracy"] <= 0.5
    assert found["notes"] == {}
    config = Run.open(out).facts["config"]
    assert config["images_anywhere"] is False
    assert config["asked"] == files[1::2]


def test_images_outside_of_the_folder_are_refused_by_line(folder, out, refused, capsys):
    argv = ["probe", "--model", "zoo:scenes", "--set", str(folder / "away.jsonl"), "--layers", "5", "--out", out]
    refused(argv, 2, "line 1: image '../x.png' leads out of")
    refused([*argv, "--images-anywhere"], 2, "does not exist")
    refused(["probe", "--set", str(folder / "seen.jsonl"), "--out", out], 2, "needs a model with image tokens")
    assert not Path(out).exists()


def test_order_of_words_is_read_but_not_ownership_without_order(out, capsys):
    sets = ("--set", "word-order", "--set", "ownership-shuffled", "--limit", "24")
    assert run(["probe", "--model", "zoo:scenes", *sets, "--layers", "4", "--out", out, *QUICK]) == 0
    found = printed(capsys)
    ((ordered,), (control,)) = found["probes"].values()
    assert ordered["accuracy"] > 0.75
    assert ordered["found"]
    assert not control["found"]
    assert control["accuracy"] < 0.65
    assert {row["kind"] for row in found["shares"]["word-order"]} == {"true", "swapped", "joined", "shuffled"}


def test_a_control_of_time_runs_on_zoo_needle(out, capsys):
    argv = ["probe", "--set", "daytime-shuffled", "--limit", "48", "--layers", "3", "--draws", "3", "--folds", "3"]
    assert run([*argv, "--baselines", "none", "--out", out]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "with 3 draws of the control for each layer, p is at least 0.25, so no layer can be found" in said
    page = (Path(out) / "report.html").read_text()
    assert "daytime-shuffled resid_post seed 0: too few draws" in page
    assert "With 3 draws of the control" in page
    (row,) = Run.open(out).table("probes").to_dict("records")
    assert not row["found"]
