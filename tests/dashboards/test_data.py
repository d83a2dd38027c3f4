"""What views are made of, on cases known by hand."""

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO

import pandas as pd
import pytest
import torch

from dashboards import cached
from dashboards.atlas import map_caption, map_table
from dashboards.comparing import agreement, differing, flat_facts
from dashboards.export import as_csv, as_html, as_parquet
from dashboards.head_facts import removal_rows, runs_of_model, score_rows, table_rows
from dashboards.listing import matching, run_table
from dashboards.reading import RunCard, open_run, run_cards, run_scores, stamp, table_columns
from dashboards.retrieval_data import answers_of, causal_runs, families_of, with_head
from dashboards.theme import PALETTES, repainted
from headscope.errors import UsageError
from headscope.figures import causal_bars
from headscope.heads import Head
from headscope.runs import Run
from headscope.scores import HeadScores
from tests.dashboards.conftest import MARKUP


def scores(*values: float) -> HeadScores:
    """Two samples of one layer, a little below and above these means."""
    means = torch.tensor(values)
    return HeadScores(torch.stack([means - 0.1, means + 0.1])[:, None], "known")


def test_a_map_is_ranked():
    table = map_table(scores(0.5, 2.0, 1.0))
    assert list(table["name"]) == ["L0H1", "L0H2", "L0H0"]
    assert list(table["rank"]) == [1, 2, 3]
    assert "1 layers by 3 heads" in map_caption("known", table)
    assert "highest are L0H1 2, L0H2 1, L0H0 0.5" in map_caption("known", table)


def test_equal_heads_share_a_rank():
    table = map_table(scores(0.5, 2.0, 2.0))
    assert list(table["rank"]) == [1, 1, 3]


def test_the_largest_are_named_by_size_where_some_are_below_0():
    said = map_caption("effect", map_table(scores(0.5, -2.0, 1.0, -0.7)))
    assert "largest by size are L0H1 -2, L0H2 +1, L0H3 -0.7" in said


def test_heads_that_do_not_exist_are_left_out():
    samples = torch.rand(3, 2, 2)
    samples[:, 0, 1] = torch.nan
    assert set(map_table(HeadScores(samples, "gaps"))["name"]) == {"L0H0", "L1H0", "L1H1"}


def test_cards_are_newest_first_and_damaged_ones_last(runs):
    cards = run_cards(runs)
    whole = [card for card in cards if not card.problem]
    assert [card.created for card in whole] == sorted((card.created for card in whole), reverse=True)
    assert [card.name for card in cards[len(whole) :]] == ["newer", "torn"]
    scored = next(card for card in cards if card.name == "scored")
    assert (scored.command, scored.model, scored.status) == ("heads retrieval", "zoo:needle", "finished")
    assert scored.scores == ("retrieval",)


def test_cards_need_a_folder(tmp_path):
    with pytest.raises(UsageError, match="headscope demo"):
        run_cards(tmp_path / "gone")


def test_strange_facts_are_no_reason_to_stop(tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text(json.dumps({"schema": 1, "model": [1], "wall_s": "x", "command": {}}))
    (card,) = run_cards(tmp_path)
    assert (card.model, card.seconds, card.problem) == ("", None, "")


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "1"}', "\xff"])
def test_a_run_that_is_none(tmp_path, text):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_bytes(text.encode("latin-1"))
    (card,) = run_cards(tmp_path)
    assert card.problem


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 1, "wall_s": 1' + "0" * 400 + "}",
        '{"schema": 1, "wall_s": NaN}',
        '{"schema": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"schema": 1, "command": "\\udcff", "model": {"name": "\\udcff"}}',
    ],
    ids=["huge", "nan", "deep", "not UTF-8"],
)
def test_hostile_facts_are_no_reason_to_stop(tmp_path, text):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "run.json").write_text(text)
    (card,) = run_cards(tmp_path)
    assert card.seconds is None
    "".join((card.command, card.model, card.problem)).encode()


def test_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = os.fsencode(tmp_path) + b"/run\xff"
    os.mkdir(folder)
    with open(folder + b"/run.json", "w") as file:
        file.write('{"schema": 1}')
    (card,) = run_cards(tmp_path)
    assert card.name == "run?"
    assert "rename" in card.problem
    assert cached.cards(tmp_path) == (card,)


def test_a_file_that_vanishes_while_a_run_is_looked_at(tmp_path, monkeypatch):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        pass
    whole = stamp(run.path)
    scan = os.scandir

    def vanishing(path):
        (run.path / "gone.part").touch()
        entries = list(scan(path))
        (run.path / "gone.part").unlink()
        return nullcontext(entries)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert stamp(run.path) >= whole


def test_scores_without_their_facts_are_damaged(tmp_path):
    from safetensors.torch import save_file

    with Run.create(tmp_path / "run", command="x", config={}) as run:
        save_file({"samples": torch.rand(2, 2, 2)}, run.path / "odd.safetensors", {"headscope": "{}"})
    with pytest.raises(UsageError, match=r"'odd' in .* is damaged"):
        run_scores(run, "odd")


def test_the_stamp_tells_a_new_file(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        before = stamp(run.path)
        run.save_cell("one", pd.DataFrame({"a": [1]}))
        assert stamp(run.path) > before


def test_a_head_stands_where_its_mean_puts_it(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.save_scores("known", scores(0.5, 2.0, 1.0))
    row = score_rows(run, Head(0, 2)).iloc[0]
    assert (row["rank"], row["of"], row["n"]) == (2, 3, 2)
    assert row["value"] == pytest.approx(1.0)
    assert row["low"] <= row["value"] <= row["high"]
    assert score_rows(run, Head(5, 0)).empty


def test_rows_about_a_head_are_found_in_tables(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.save_table("by_place", pd.DataFrame({"layer": [0, 1], "head": [2, 2], "x": [1, 2]}))
        run.save_table("by_name", pd.DataFrame({"unit": ["L1H2", "L0H0"], "effect": [3, 4]}))
        run.save_table("other", pd.DataFrame({"text": ["L1H2"]}))
    found = table_rows(run, Head(1, 2))
    assert set(found) == {"by_place", "by_name"}
    assert list(found["by_place"]["x"]) == [2]
    assert list(found["by_name"]["effect"]) == [3]


def test_columns_are_read_without_the_table(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.save_table("some", pd.DataFrame({"a": [1], "b": ["x"]}))
        (run.path / "cut.parquet").write_bytes(b"PAR1")
    assert table_columns(run, "some") == ("a", "b")
    with pytest.raises(UsageError, match=r"'cut' in .* is damaged"):
        table_columns(run, "cut")


@pytest.mark.parametrize("odd", [{"layer": ["x"], "head": ["y"]}, {"name": [1.5]}, {"name": [None]}])
def test_tables_that_name_heads_oddly_hold_no_row(tmp_path, odd):
    with Run.create(tmp_path / "run", command="x", config={}) as run:
        run.save_table("odd", pd.DataFrame(odd))
        run.save_table("good", pd.DataFrame({"name": pd.Categorical(["L1H2", "L0H0"]), "x": [1, 2]}, index=[7, 9]))
    found = table_rows(run, Head(1, 2))
    assert set(found) == {"good"}
    assert list(found["good"]["x"]) == [1]


def test_conditions_of_another_kind_are_no_removal(tmp_path):
    with Run.create(tmp_path / "run", command="x", config={"heads": ["L1H2"]}) as run:
        run.save_table("families", pd.DataFrame({"condition": ["a"], "kind": ["none"], "value": [0.5]}))
    assert removal_rows(run, Head(1, 2)).empty


def test_runs_of_one_model():
    cards = (RunCard("a", model="m"), RunCard("b", model="n"), RunCard("c", model="m"), RunCard("d"), RunCard("e"))
    assert runs_of_model(cards, "c") == ("c", "a")
    assert runs_of_model(cards, "d") == ("d",), "runs without a model are not on the same one"


def test_removals_are_those_of_the_head(runs):
    removed = open_run(runs, "removed").facts["config"]["heads"]
    table = removal_rows(open_run(runs, "removed"), Head.parse(removed[0]))
    assert set(table["how"]) == {"zero ablation, prefill and decode"}
    assert set(table["run"]) == {"removed"}
    assert {"none", "treatment", "control"} == set(table["kind"])
    assert removal_rows(open_run(runs, "removed"), Head(0, 0)).empty
    assert removal_rows(open_run(runs, "scored"), Head.parse(removed[0])).empty


def test_what_differs_between_runs():
    first = {"command": "a", "config": {"seed": 0, "n": 1}, "self_check": [1]}
    second = {"command": "a", "config": {"seed": 1, "n": 1}, "extra": None}
    table = differing(first, second, ("x", "y"))
    assert table.to_dict("list") == {"fact": ["config.seed", "extra"], "x": ["0", ""], "y": ["1", "null"]}
    assert "self_check" not in flat_facts(first)


def test_agreement():
    a, b = scores(1.0, 2.0, 3.0), scores(3.0, 2.0, 1.0)
    assert agreement(a, a, 1) == {"r": pytest.approx(1.0), "overlap": 1.0}
    assert agreement(a, b, 1) == {"r": pytest.approx(-1.0), "overlap": 0.0}
    with pytest.raises(UsageError, match="k from 1 to 3"):
        agreement(a, b, 4)


def test_the_list_is_filtered():
    cards = (
        RunCard("one", "heads retrieval", "zoo:needle", status="finished"),
        RunCard("two", "ablate", status="failed"),
    )
    assert [card.name for card in matching(cards, "NEEDLE heads", "", "")] == ["one"]
    assert [card.name for card in matching(cards, "", "ablate", "")] == ["two"]
    assert matching(cards, "", "ablate", "finished") == ()
    assert "problem" not in run_table(cards)
    assert list(run_table((*cards, RunCard("bad", problem="why")))["problem"]) == ["", "", "why"]


def test_a_time_that_is_none_is_left_open():
    assert run_table((RunCard("odd", created="yesterday-ish"),))["created"].isna().all()
    times = ("2026-01-02", "2026-01-02T03:04:05.678+00:00", "2026-01-02T03:04:05+00:00", "odd")
    table = run_table([RunCard(str(i), created=time) for i, time in enumerate(times)])
    assert list(table["created"].isna()) == [False, False, False, True], "however exactly each is told"


def test_answers_stand_beside_scores(runs):
    run = open_run(runs, "scored")
    name, answers = answers_of(run)
    found = run_scores(run, "retrieval")
    beside = with_head(answers, found, Head(0, 1))
    assert name == "answers"
    assert list(beside["L0H1"]) == pytest.approx(found.samples[:, 0, 1].tolist())
    with pytest.raises(UsageError, match="cannot be put side by side"):
        with_head(answers.iloc[1:], found, Head(0, 1))


def test_runs_without_answers(runs):
    for name in ("seen", "removed"):
        with pytest.raises(UsageError, match="no answers by length and depth"):
            answers_of(open_run(runs, name))


def test_runs_with_controls(runs):
    cards = run_cards(runs)
    named = {card.name: card for card in cards}
    assert causal_runs(runs, cards, named["scored"]) == ("removed",)
    assert causal_runs(runs, cards, named["removed"]) == ("removed",)
    assert causal_runs(runs, cards, named["seen"]) == ()
    nameless = [replace(card, model="") for card in cards]
    assert causal_runs(runs, nameless, replace(named["scored"], model="")) == (), "no model is not the same model"


def test_figures_are_repainted_and_left_as_they_were(runs):
    drawn = causal_bars(families_of(open_run(runs, "removed")))
    before = drawn.to_dict()
    painted = repainted(drawn, "dark")
    assert painted.layout.font.color == PALETTES["dark"].ink
    assert {trace.error_x.color for trace in painted.data if trace.type == "bar"} == {PALETTES["dark"].ink}
    assert drawn.to_dict() == before


def test_files_hold_the_table():
    table = pd.DataFrame({"token": [MARKUP, "b"], "value": [0.1, 2.0]})
    pd.testing.assert_frame_equal(pd.read_csv(BytesIO(as_csv(table))), table)
    pd.testing.assert_frame_equal(pd.read_parquet(BytesIO(as_parquet(table))), table, check_dtype=False)
    page = as_html(MARKUP, [("Table", table)]).decode()
    assert "<img" not in page
    assert "&lt;img" in page
