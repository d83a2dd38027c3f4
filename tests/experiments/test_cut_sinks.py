"""Cutting a sink that a model needs costs what it should, other tokens cost nothing, and what is cut is what is said."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from experiments.sinks.removal import CutKeys, Removal, removal_cost, sink_removal
from head_analysis import TextSinks, text_sinks
from headscope import Head, HookedModel, Record, Sample, UsageError
from headscope.figures import causal_bars
from headscope.runs import Run
from tests.headscope.test_hooks import sentence, words_model
from tests.interventions.sinking import MISLEADING, RIGHT, SINK, WRONG, misled, sinking

NEEDED = [Sample(" ".join(["f1"] * before + [MISLEADING, *["f2 n0"] * 3, *[WRONG] * 45])) for before in (1, 2, 3, 4)]
"""The word behind which the misled model expects n0, and many times n0."""


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return misled()


@pytest.fixture(scope="module")
def found(model) -> TextSinks:
    return text_sinks(model, NEEDED)


@pytest.fixture(scope="module")
def removed(model, found) -> Removal:
    return sink_removal(model, NEEDED, found, draws=3)


def of(table: pd.DataFrame, condition: str) -> pd.Series:
    (row,) = [row for _, row in table.iterrows() if row["condition"].startswith(condition)]
    return row


# -- what is cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_rows_without_a_key_sum_to_one_over_the_others(name):
    model = words_model(name)
    sample = sentence(20)
    plain = model.record([sample], "pattern")[0]
    hidden = torch.zeros(model.n_layers, model.n_heads, 21, dtype=torch.bool)
    hidden[0, 1, [0, 5]] = True
    seen = Record("pattern")
    with model.hooks(CutKeys(hidden), seen):
        model.forward([sample])
    (cut,) = seen.seen[0]
    expected = plain[0, 1].clone()
    whole = expected.sum(-1, keepdim=True)
    for key in (0, 5):
        expected[key + 1 :, key] = 0
    left = expected.sum(-1, keepdim=True) + 1 - whole  # in gpt_oss a learned sink has what is missing from 1
    torch.testing.assert_close(cut[0, 1], expected / left, atol=1e-5, rtol=1e-4)
    assert cut[0, 1, 0, 0] == plain[0, 1, 0, 0]  # the first token still sees itself
    torch.testing.assert_close(cut[0, [0, 2, 3]], plain[0, [0, 2, 3]])


def test_zeroed_keys_leave_a_gap():
    model = words_model()
    sample = sentence(20)
    plain = model.record([sample], "pattern")[0]
    hidden = torch.zeros(2, 4, 21, dtype=torch.bool)
    hidden[0, 2, 3] = True
    seen = Record("pattern")
    with model.hooks(CutKeys(hidden, "zeroed"), seen):
        model.forward([sample])
    cut, expected = seen.seen[0][0][0], plain[0].clone()
    expected[2, 4:, 3] = 0
    torch.testing.assert_close(cut, expected)


# -- what it does ----------------------------------------------------------------------------------------------------


def test_the_planted_sink_is_worth_what_other_tokens_are_not(found, removed):
    assert {Head(*pair) for pair in zip(found.pairs["layer"], found.pairs["head"], strict=True)} >= {Head(2, 0)}
    table = removed.families()
    own = of(table, "later sinks cut, own heads")
    assert own["difference_low"] > 0.1
    assert own["p"] == 0.125  # the least that four texts can give
    many = of(table, "as many others for later sinks cut, own heads")
    assert abs(many["difference"]) < 0.1 * own["difference"]
    assert many["tokens"] == own["tokens"]
    assert many["mass"] < own["mass"] / 3
    contrasts = removed.contrasts().set_index("control")
    against = contrasts.loc["as many others for later sinks cut, own heads"]
    assert against["low"] > 0
    assert against["more"] == pytest.approx(own["difference"] - many["difference"])
    assert removed.families("kl")["mean"].iloc[0] == 0
    assert of(removed.families("kl"), "later sinks cut, own heads")["mean"] > 0.01


def test_tokens_with_as_much_attention_have_as_much(removed):
    table = removed.table
    for _, part in table.groupby("sample"):
        own = of(part, "later sinks cut, own heads")
        much = part[part["family"] == "as much attention for later sinks cut, own heads"]
        assert len(much) == 3
        assert (much["heads"] == own["heads"]).all()
        assert (much["tokens"] >= own["tokens"]).all()
        reached = (much["mass"] >= own["mass"]) | (much["tokens"] > 40)  # or all there are
        assert reached.all()


def test_all_heads_lose_the_sinks_of_some(removed, model):
    wide = of(removed.families(), "later sinks cut, all heads")
    assert wide["heads"] == len(model.heads())
    others = of(removed.families(), "as many others for later sinks cut, all heads")
    assert others["tokens"] == wide["tokens"]
    assert wide["difference"] > 3 * abs(others["difference"])


def test_a_sink_that_says_nothing_matters_masked_but_not_zeroed():
    model = sinking(5.0)
    with torch.no_grad():
        for block in model.hf.transformer.h:
            block.attn.c_attn.weight[:, 128 : 128 + 16] *= 30  # what head 0 hands on
            block.attn.c_attn.weight[model.tokenizer.convert_tokens_to_ids(SINK), 128:] = 0
    texts = [Sample(" ".join([*["f1", "f2", "f3"][:more], "f4", "f8", SINK, *["f5 f6 f7"] * 15])) for more in (2, 3)]
    found = text_sinks(model, texts)
    found = replace(found, pairs=found.pairs[found.pairs["layer"] == 0])  # above it the stream is not the word alone
    masked, zeroed = (
        of(sink_removal(model, texts, found, how=how, draws=1).families("kl"), "later sinks cut, own heads")["mean"]
        for how in ("masked", "zeroed")
    )
    assert zeroed < masked / 20


def test_the_first_token_is_a_part_of_its_own(model):
    found = text_sinks(model, NEEDED)
    start = found.pairs[["sample"]].drop_duplicates().assign(layer=2, head=3, place=0, mass=0.0, received=0.0)
    both = replace(found, pairs=pd.concat([found.pairs, start], ignore_index=True))
    names = set(sink_removal(model, NEEDED[:2], both, draws=1).table["condition"])
    assert {"first token cut, own heads", "first token cut, all heads", "later sinks cut, own heads"} <= names
    assert len(names) == 11


def test_without_sinks_there_is_nothing_to_cut():
    """The control: random weights."""
    model = words_model()
    texts = [Sample(sentence(40)), Sample(sentence(40, seed=1))]
    found = text_sinks(model, texts)
    quiet = replace(found, pairs=found.pairs.iloc[:0])
    removed = sink_removal(model, texts, quiet)
    assert removed.table["condition"].tolist() == ["none", "none"]
    assert removed.table["kl"].tolist() == [0, 0]
    assert removed.contrasts().empty
    loss = torch.nn.functional.cross_entropy(
        model.forward(texts[:1]).of_sample(0)[:-1], torch.tensor(model.tokens(texts[0]).ids[1:])
    )
    assert removed.table["loss"].iloc[0] == pytest.approx(float(loss), rel=1e-5)


# -- keeping it ------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped(model, found, removed, tmp_path, monkeypatch):
    with Run.create(tmp_path / "run", command="test", config={}) as run:
        sink_removal(model, NEEDED[:2], found, draws=3, run=run)
        assert run.cell_keys() == ("removal, text 0", "removal, text 1")
        again = sink_removal(model, NEEDED, found, draws=3, run=run)
        pd.testing.assert_frame_equal(again.table, removed.table)  # also: draws are those of another process
        monkeypatch.setattr(HookedModel, "forward", lambda *_, **__: pytest.fail("computed again"))
        sink_removal(model, NEEDED, found, draws=3, run=run)


def test_other_texts_than_those_looked_at_are_refused(model, found):
    with pytest.raises(UsageError, match=r"2 samples were given that are not the first of the 4 .*same order"):
        sink_removal(model, [Sample(f"{RIGHT} {WRONG}")] * 2, found)


def test_the_cost_grows_with_draws_and_length(model):
    short, more = removal_cost(model, NEEDED[:2]), removal_cost(model, NEEDED[:2], draws=10)
    assert more.forwards > 1.8 * short.forwards
    assert removal_cost(model, NEEDED).bytes > short.bytes
    with pytest.raises(UsageError, match="only 1 text was given to cut sinks in; intervals over texts need at least 2"):
        removal_cost(model, NEEDED[:1])


def test_changes_are_drawn_with_their_controls(removed):
    rows = removed.families()
    assert len(causal_bars(rows).data) == 3
