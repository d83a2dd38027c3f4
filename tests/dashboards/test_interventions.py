"""The page on interventions: answers by hand, divergences by hand, settings in the address, and what does not fit."""

import math
import shlex

import pytest
import torch

from dashboards.edited import divergences, step_table, word_table, write
from dashboards.intervention_recipe import intervention_recipe
from dashboards.operators import OPERATORS, SETTINGS, Count, Heads, Pick, about, written
from dashboards.prompts import examples
from experiments.cli import run as command
from headscope import HookedModel, UsageError
from interventions import Ablate, Scale
from interventions.named import INTERVENTIONS, parse_interventions
from tests.dashboards.conftest import MARKUP, Open
from tests.dashboards.test_views import charts, markup, sound


@pytest.fixture(scope="module")
def needle() -> HookedModel:
    return HookedModel.load("zoo:needle")


@pytest.fixture(scope="module")
def example(needle):
    return next(iter(examples(needle, None).values()))


def test_words_aligned_by_hand():
    table = word_table("a red cup and spoon.", "a blue cup and a spoon.")
    assert table.to_numpy().tolist() == [
        ["a", "a", "same"],
        ["red", "blue", "changed"],
        ["cup", "cup", "same"],
        ["and", "and", "same"],
        ["", "a", "added"],
        ["spoon.", "spoon.", "same"],
    ]
    assert set(word_table("a b", "")["change"]) == {"removed"}
    assert word_table("", "").empty


def test_divergence_by_hand():
    plain = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]]).log()
    edited = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]).log()
    found = divergences(plain, edited).tolist()
    assert found[0] == 0.0
    assert found[1] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(3))


def test_nothing_changes_without_an_edit(needle, example):
    before = write(needle, example.sample, new_tokens=12, stop=example.stop)
    noop = parse_interventions("Scale('L1H1', 1.0)")
    after = write(needle, example.sample, noop, new_tokens=12, stop=example.stop)
    forced = write(needle, example.sample, noop, new_tokens=len(before.steps), forced=before.tokens)
    assert after.text == forced.text == before.text
    assert after.ended == before.ended is True
    steps = step_table(needle, before, forced.steps)
    assert len(steps) == len(before.steps) >= len(before.tokens)
    assert steps["kl"].max() == 0.0
    assert (steps["plain"] == steps["edited"]).all()
    assert steps["plain"].min() > 0.1, "the tokens it wrote are those it expected"


def test_steps_stand_behind_the_plain_answer_in_decoding(needle, example):
    """Forced one by one: the second step under a decode-only edit is what a plain pass with that edit says there."""
    before = write(needle, example.sample, new_tokens=4, stop=example.stop)
    heads = [head for head in needle.heads() if head.layer in (1, 2)]
    decode = (Ablate(heads, phase="decode"),)
    forced = write(needle, example.sample, decode, new_tokens=len(before.steps), forced=before.tokens)
    assert forced.tokens[: len(before.tokens)] == before.tokens[: len(forced.tokens)]
    steps = step_table(needle, before, forced.steps)
    assert steps["kl"].max() > 0.1
    prefill = (Ablate(heads, phase="prefill"),)
    other = write(needle, example.sample, prefill, new_tokens=len(before.steps), forced=before.tokens)
    assert not torch.allclose(other.steps, forced.steps)


def test_hooks_of_others_do_not_count(needle, example):
    before = write(needle, example.sample, new_tokens=6)
    every = Scale(needle.heads(), 0.0)
    assert not write(needle, example.sample, (every,), new_tokens=6).steps.equal(before.steps)
    with needle.hooks(every):
        inside = write(needle, example.sample, new_tokens=6)
    assert inside.steps.equal(before.steps)


def test_too_long_is_refused(needle, example):
    with pytest.raises(UsageError, match="do not fit the context of 1024"):
        write(needle, example.sample, new_tokens=1000)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_can_be_written(name):
    first = {}
    for setting in SETTINGS[name]:
        if isinstance(setting, Heads):
            first[setting.name] = ("L1H2", "L0H3") if setting.needed else ()
        else:
            first[setting.name] = setting.options[0] if isinstance(setting, Pick) else setting.default
    (made,) = parse_interventions(written(name, first))
    assert type(made) is INTERVENTIONS[name]
    assert len(about(name)) > 20
    for setting in SETTINGS[name]:
        values = {Heads: ("L2H0",), Pick: "", Count: 12}.get(type(setting), 0.75)
        value = setting.options[-1] if isinstance(setting, Pick) else values
        (made,) = parse_interventions(written(name, first | {setting.name: value}))
        kept = getattr(made, setting.name)
        assert kept == (parse_interventions("Ablate('L2H0')")[0].heads if isinstance(setting, Heads) else value)


def test_operators_are_all_that_can_be_named():
    assert set(OPERATORS) == set(SETTINGS) == set(INTERVENTIONS)


def test_both_answers_are_shown(opened: Open, runs):
    page = sound(opened("interventions", runs, run="scored", model="zoo:needle"))
    assert list(page.error) == []
    assert page.code[0].value.startswith("Ablate(heads='L")
    assert [one.value for one in page.subheader] == [
        "Plain",
        "With operators",
        "Word by word",
        "In what is expected next",
    ]
    assert all(len(said) > 20 for said in charts(page, "plotly_chart"))
    assert [one.label for one in page.expander] == ["The prompt", "Reproduce this"]
    assert "Question: What are the secret words of" in page.expander[0].text[0].value
    assert all(one.proto.alt for one in page.dataframe)
    assert {"operators", "Ablate.heads", "tokens", "prompt", "model"} <= set(page.query_params)


def test_words_that_differ_are_marked(opened: Open, empty):
    address = {"operators": "Ablate", "Ablate.heads": "L0H6,L0H1"}
    page = sound(
        opened("interventions", empty, model="zoo:needle", prompt="needle 0, length 64, depth 0.00", **address)
    )
    plain, edited = (one.value.split() for one in page.code[1:3])
    assert plain != edited
    (shown,) = [one.value for one in page.markdown if "-background[" in one.value]
    for one in set(plain) - set(edited):
        assert f":red-background[~~{one}~~]" in shown
    for one in set(edited) - set(plain):
        assert f":green-background[**{one}**]" in shown
    assert page.dataframe[0].value["kl"].max() > 1


def test_needs_no_run(opened: Open, empty):
    page = sound(opened("interventions", empty))
    assert list(page.error) == []
    assert len(page.subheader) == 4


def test_settings_stand_in_the_address(opened: Open, empty):
    address = {"operators": "Scale,TopKeys", "Scale.heads": "L1H2,0.3", "Scale.factor": "0.5", "TopKeys.k": "4"}
    page = sound(opened("interventions", empty, model="zoo:needle", **address))
    assert page.code[0].value == "Scale(heads='L1H2, L0H3', factor=0.5), TopKeys(k=4)"
    page.slider(key="choice: Scale.factor").set_value(3.0).run()
    assert page.query_params["Scale.factor"] == "3"
    assert "factor=3.0" in sound(page).code[0].value
    page.multiselect(key="choice: operators").set_value([]).run()
    assert page.query_params["operators"] == "-"
    assert "no operator is chosen" in sound(page).text[-1].value


def test_operators_written_by_hand(opened: Open, empty):
    text = "Ablate('L1H1', mode='uniform', phase='decode')"
    page = sound(opened("interventions", empty, model="zoo:needle", **{"by-hand": "1", "with": text}))
    assert page.code[0].value == text
    assert len(page.subheader) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__import__('os').abort()", "not a call of a name"),
        ("Ablate('L99H0')", "L99H0"),
        ("VHR(alpha=2)", "image"),
        ("Scale('L1H1')", "factor"),
        ("Head(1, 2)", "edits nothing"),
        ("Scale('L2H0', 1e38)", "overflow"),
        (MARKUP, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_said(opened: Open, empty, text, says):
    page = sound(opened("interventions", empty, model="zoo:needle", **{"by-hand": "1", "with": text}))
    assert "cannot be written" in page.error[0].value
    assert says in page.text[-1].value
    assert markup(page) == ""


def test_an_address_that_means_harm(opened: Open, empty):
    harm = {"operators": f"Ablate,{MARKUP}", "Ablate.heads": "L99H9", "tokens": "99999999", "Ablate.mode": "<b>"}
    page = sound(opened("interventions", empty, model="zoo:needle", **harm))
    assert len(page.warning) == 3
    assert page.number_input(key="choice: tokens").value == 128
    assert markup(page) == "" or set(markup(page)) <= set("[]")


@pytest.mark.parametrize("value", ["nan", "inf", "-3", "x"])
def test_a_slider_keeps_to_its_ends(opened: Open, empty, value):
    address = {"operators": "Scale", "Scale.factor": value}
    page = sound(opened("interventions", empty, model="zoo:needle", **address))
    assert 0.0 <= page.slider(key="choice: Scale.factor").value <= 4.0


def test_with_an_image(opened: Open, empty):
    page = sound(opened("interventions", empty, model="zoo:scenes", tokens="6"))
    assert list(page.error) == []
    assert page.code[0].value == "VHR(alpha=2.0)"
    assert len(page.subheader) == 4


def test_the_recipe_is_true(needle, example, capsys):
    recipe = intervention_recipe("zoo:needle", example, "Ablate('L1H1')", 12)
    exec(compile(recipe.python, "recipe", "exec"), {})
    plain, edited = capsys.readouterr().out.splitlines()
    assert plain == write(needle, example.sample, new_tokens=12, stop=example.stop).text
    operators = parse_interventions("Ablate('L1H1')")
    assert edited == write(needle, example.sample, operators, new_tokens=12, stop=example.stop).text
    words = shlex.split(recipe.command)
    assert words[0] == "headscope"
    assert command([*words[1:]]) == 0
    assert "none: " in capsys.readouterr().out
