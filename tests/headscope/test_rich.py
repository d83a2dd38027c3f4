"""What notebooks show of results: every text is text, whatever stands in a prompt, a token or a model's name."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import Comparison, HeadFilter, Judgement, PositionScores, Sweep, Unit
from head_analysis import (
    VHD,
    ImageAttention,
    Localisation,
    Retrieval,
    Separation,
    SinkReport,
    SinkRule,
    TextSinks,
    sink_report,
    text_sinks,
)
from headscope import Head, HookedModel, Sample, UsageError
from headscope.check import CheckRow, SelfCheck
from headscope.clusters import Metric, ratio
from headscope.generation import Generation
from headscope.runs import Run
from headscope.scores import HeadScores
from tasks.backcopy import chain, written

EVIL = "<script>alert('x')</script><img src=x onerror=y>"
META = {"model": EVIL, "variant": "paper", "min_recall": None}


def scores(metric: str = EVIL) -> HeadScores:
    generator = torch.Generator().manual_seed(0)
    return HeadScores(torch.rand(6, 2, 3, generator=generator), metric, META)


def comparison() -> Comparison:
    names = {"none": "none", EVIL: "treatment"}
    rows = [
        {"sample": i, "score": i % 2, "condition": name, "kind": kind, "family": ""}
        for name, kind in names.items()
        for i in range(4)
    ]
    return Comparison(pd.DataFrame(rows), META)


def judgement() -> Judgement:
    rows = [
        {"condition": name, "kind": kind, "family": "", "image_id": i, "right": right, "asked": 1}
        for name, kind in (("none", "none"), (EVIL, "treatment"))
        for i, right in enumerate((1, 0, 1, 1))
    ]
    return Judgement(pd.DataFrame(rows), (Metric(EVIL, ("right", "asked"), ratio),), META)


def sweep(name: str = "L0H0", *, missing: tuple[str, ...] = ()) -> Sweep:
    heads = (Head(0, 0),) if name == "L0H0" else (Head(0, 0), Head(0, 1))
    table = pd.DataFrame({"unit": name, "sample": range(4), "clean": 1.0, "value": [0.1, 0.2, 0.1, 0.3]})
    return Sweep(table.assign(effect=table["value"] - 1), (Unit(name, heads),), "probability", META, 2, missing)


def positions() -> PositionScores:
    return PositionScores(torch.rand(4, 2, 2), (0, 1), (EVIL, 3), EVIL, META)


def retrieval(*, kept: bool = True) -> Retrieval:
    answers = pd.DataFrame({"score": [1.0, 0.0], "kept": kept, "answer": EVIL})
    return Retrieval(answers, torch.rand(2, 2, 3), META)


def vhd() -> VHD:
    answer = Generation(Sample(EVIL), EVIL, (1, 2), "length")
    return VHD((torch.rand(2, 2, 3),), (answer,), (((0, 3), (3, 5)),), META)


def localisation() -> Localisation:
    words = pd.DataFrame({"sample": [0, 1], "category": EVIL, "chance": [0.2, 0.3]})
    return Localisation(words, torch.rand(2, 2, 3).round(), torch.rand(2, 2, 3), META)


def head_filter() -> HeadFilter:
    gains = np.random.default_rng(0).normal(size=(2, 8))
    return HeadFilter((Head(0, 0), Head(0, 1)), {EVIL: gains})


def generation() -> Generation:
    return Generation(Sample(f"{'word ' * 200}{EVIL}"), EVIL, (1, 2, 3), "stop")


def self_check() -> SelfCheck:
    return SelfCheck(EVIL, (CheckRow(EVIL, 0.5, "<= 1e-4", False, EVIL), CheckRow("told", 1.0, "", None)))


SHOWN: Mapping[str, Callable[[], Any]] = {
    "HeadScores": scores,
    "Comparison": comparison,
    "Judgement": judgement,
    "Sweep": sweep,
    "Sweep of groups": lambda: sweep(EVIL),
    "PositionScores": positions,
    "Retrieval": retrieval,
    "VHD": vhd,
    "ImageAttention": lambda: ImageAttention(scores(), scores(), scores()),
    "Localisation": localisation,
    "HeadFilter": head_filter,
    "Generation": generation,
    "SelfCheck": self_check,
}
WITHOUT_FIGURE = ("HeadFilter", "Generation", "SelfCheck")


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_no_markup_of_ours_is_text(name: str) -> None:
    html = SHOWN[name]()._repr_html_()
    assert not re.search(r"<(script|img)|onerror=y>", html)
    assert EVIL in unescape(html)
    assert set(re.findall(r"<(\w+)", html)) <= set("table caption thead tbody tr th td p b small div".split())


@pytest.mark.parametrize("name", [name for name in SHOWN if name not in WITHOUT_FIGURE])
def test_figures_show_text_as_text(name: str) -> None:
    drawn = SHOWN[name]().plot().to_json()
    assert "<img" not in drawn
    assert "<script" not in drawn
    assert "\\u003cscript" not in drawn


@pytest.mark.parametrize("name", SHOWN)
def test_no_colour_is_set_so_that_light_and_dark_pages_both_can_be_read(name: str) -> None:
    assert not re.search(r"(?<!text-align)(colou?r|background)\s*[:=]", SHOWN[name]()._repr_html_())


@pytest.mark.parametrize("name", [name for name in SHOWN if name not in ("Generation", "SelfCheck")])
def test_in_a_terminal_a_result_takes_a_line_or_two_and_no_tensor(name: str) -> None:
    text = repr(SHOWN[name]())
    assert len(text) < 400
    assert "tensor(" not in text
    assert "\n" not in text


def test_a_generation_shows_the_end_of_its_prompt_and_why_it_ended() -> None:
    html = generation()._repr_html_()
    assert html.count("word ") <= 80
    assert "… " in html
    assert "3 tokens, it ended by itself" in html
    whole = Generation(Sample("a  b"), " c", (1,), "length")._repr_html_()
    assert "a  b<b> c</b>" in whole
    assert "…" not in whole
    assert "cut off at max_new_tokens" in whole


def test_a_run_with_markup_in_its_settings_shows_it_as_text(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", command="heads", config={"model": EVIL}, model=EVIL) as run:
        run.save_scores("retrieval", scores())
    html = run._repr_html_()
    assert "<script" not in html
    assert EVIL in unescape(html)
    assert "retrieval" in html


def test_a_sweep_that_is_not_whole_says_so_instead_of_a_ranking() -> None:
    part = sweep(missing=("a cell",))
    assert "1 of 2 cells are still missing" in part._repr_html_()
    assert "L0H0" not in part._repr_html_()
    with pytest.raises(UsageError, match="still missing"):
        part.plot()


def test_a_retrieval_that_kept_nothing_still_shows_its_answers() -> None:
    nothing = Retrieval(retrieval(kept=False).answers, torch.rand(2, 2, 3), META | {"min_recall": 0.5})
    html = nothing._repr_html_()
    assert ">0.5000<" in html
    assert "top" not in html


def test_a_failed_check_is_seen_at_a_glance() -> None:
    assert "FAILED" in self_check()._repr_html_().split("</caption>")[0]
    passed = SelfCheck("model", (CheckRow("fact", 0.0, "= 0", True),))
    assert "self-check of model: passed" in passed._repr_html_()


def test_a_map_of_positions_holds_the_values_where_they_belong() -> None:
    values = torch.tensor([[[0.0, 1.0], [0.25, 0.5]]]).repeat(3, 1, 1)
    found = PositionScores(values, (2, 5), ("S2", "END"), "effect", {"model": "tiny"})
    (heat,) = found.plot().data
    assert heat.z.tolist() == [[0.0, 1.0], [0.25, 0.5]]
    assert list(heat.x) == ["S2", "END"]
    assert list(heat.y) == ["2", "5"]
    assert "layer 5, END: <b>0.50</b> [0.50, 0.50], n = 3" in heat.text[1][1]
    assert "<td" in found._repr_html_()


def test_a_separation_is_one_row_with_its_control() -> None:
    html = Separation(0.75, 0.6, 0.9, 0.5, 0.4, 0.6, 0.01, 20, 30, 10)._repr_html_()
    assert html.count("<tr>") == 2
    assert all(word in html for word in ("auc", "shuffled", "0.7500"))


@pytest.mark.slow
def test_sinks_of_a_real_model_are_shown_and_drawn() -> None:
    model = HookedModel.load("zoo:sinks")
    model.name = EVIL
    texts = [written(chain(random.Random(seed), 100)) for seed in range(2)]
    sinks: TextSinks = text_sinks(model, texts, rule=SinkRule("above_even"))
    report: SinkReport = sink_report(model, texts)
    for found in (sinks, report):
        html = found._repr_html_()
        assert "<script" not in html
        assert "<script" not in found.plot().to_json()
    renamed = replace(sinks, texts=tuple((EVIL,) * len(text) for text in sinks.texts))
    tokens = renamed._repr_html_().split("most often a sink")[1]
    assert "<script" not in tokens
    assert EVIL in unescape(tokens)
    assert "the first token is a sink in every sample" in report._repr_html_()
