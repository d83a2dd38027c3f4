"""Sinks of texts: planted ones are found where they are, heads without any have none, and nothing n x n is made."""

import jaxtyping
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from head_analysis import SinkRule, TextSinks, text_sinks
from head_analysis.sink_rules import KeyFacts
from head_analysis.text_sink_tables import LATER, START
from headscope import Head, HookedModel, Sample, UsageError
from headscope.figures import norm_lines
from tests.head_analysis.test_sinks import llama
from tests.headscope.test_hooks import sentence, word_tokenizer, words_model
from tests.interventions.sinking import HEADS, LAYERS, SINK, sinking
from tests.tiny import BOS, VOCAB, WINDOW

OWN = [Head(layer, 0) for layer in range(LAYERS)]
"""Heads with a planted sink."""


def text(place: int, words: int = 58, *, first: int = 0) -> str:
    """Filler with the planted word at a place among the tokens, `<s>` being at 0."""
    filler = [f"f{(first + i) % 20}" for i in range(words)]
    return " ".join([*filler[: place - 1], SINK, *filler[place:]])


TEXTS = [text(4), text(9, 50, first=3), text(15, first=7), text(6, 54, first=11)]


def sinking_at_start() -> HookedModel:
    """The planted model, but for the word its heads look for, which is `<s>`."""
    model = sinking(6.0)
    with torch.no_grad():
        for block in model.hf.transformer.h:
            weight = block.attn.c_attn.weight
            weight[0, 64], weight[model.tokenizer.convert_tokens_to_ids(SINK), 64] = weight[:, 64].max().clone(), 0
    return model


@pytest.fixture(scope="module")
def later() -> TextSinks:
    return text_sinks(sinking(5.0), TEXTS)


@pytest.fixture(scope="module")
def start() -> TextSinks:
    return text_sinks(sinking_at_start(), TEXTS)


# -- the rule, by hand -----------------------------------------------------------------------------------------------


def sinks_of(pattern: torch.Tensor, rule: SinkRule) -> list[int]:
    """Places of the sinks of one causal pattern."""
    n = len(pattern)
    seen = torch.arange(n, 0, -1.0)
    even = (1 / torch.arange(1.0, n + 1)).flip(0).cumsum(0).flip(0)
    return rule.sinks(pattern.sum(0)[None], seen[None], even[None])[0].nonzero().flatten().tolist()


def even_rows(n: int) -> torch.Tensor:
    return torch.ones(n, n).tril() / torch.arange(1.0, n + 1)[:, None]


def test_a_head_that_attends_evenly_has_sinks_by_the_papers_rule_alone():
    assert sinks_of(even_rows(220), SinkRule("paper")) == [0]
    assert sinks_of(even_rows(221), SinkRule("paper")) == [0, 1]
    for n in (20, 221, 2000):
        assert sinks_of(even_rows(n), SinkRule()) == []
        assert sinks_of(even_rows(n), SinkRule(alpha=0.99))[:2] == [0, 1]


def test_a_head_that_attends_to_the_previous_token_has_none_either():
    pattern = torch.zeros(100, 100)
    pattern[0, 0] = 1
    pattern[range(1, 100), range(99)] = 1
    assert sinks_of(pattern, SinkRule("paper", min_queries=8)) == list(range(81, 93))  # 1 / 19 > 5 / 100, ... 1 / 8
    assert sinks_of(pattern, SinkRule()) == []


def test_a_share_of_every_row_is_a_sink_from_the_limit_on():
    for rule, limit in [(SinkRule("released"), 0.1), (SinkRule("paper"), 0.05)]:
        for share, expected in [(limit + 1e-3, [10]), (limit - 1e-3, [])]:
            pattern = torch.zeros(100, 100)  # what else there is falls on no key
            pattern[10:, 10] = share
            assert sinks_of(pattern, rule) == expected
    by_hand = 5 * sum(1 / (q + 1) for q in range(10, 100)) / 90  # five times the even share of place 10
    for share, expected in [(by_hand + 1e-3, [10]), (by_hand - 1e-3, [])]:
        pattern = torch.zeros(100, 100)
        pattern[10:, 10] = share
        assert sinks_of(pattern, SinkRule()) == expected


def test_a_key_that_few_queries_see_is_no_sink():
    pattern = torch.zeros(50, 50)
    pattern[42:, 42] = pattern[43:, 43] = 1  # seen by 8 queries and by 7
    for variant in ("paper", "released", "above_even"):
        assert sinks_of(pattern, SinkRule(variant)) == [42]
    assert sinks_of(pattern, SinkRule(min_queries=7)) == [42, 43]
    assert sinks_of(pattern, SinkRule(min_queries=9)) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"alpha": 0}, "alpha 0, threshold 0.1 and min_queries 8 were given; alpha is above 0"),
        ({"threshold": 0}, "threshold 0 and"),
        ({"threshold": 1.5}, "at most 1"),
        ({"min_queries": 0}, "min_queries at least 1"),
        ({"variant": "papers"}, "'papers'; use one of above_even, paper, released"),
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=says):
        SinkRule(**wrong)


# -- what keys get ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_who_sees_a_key_is_what_the_mask_says(name):
    """In a full causal layer and in a sliding window, padded and not."""
    model = words_model(name)
    texts = [sentence(30), sentence(17, seed=1)]
    facts = KeyFacts()
    with model.hooks(facts):
        model.forward(texts)
    for i, n in enumerate((31, 18)):
        for layer in model.layers():
            seen, even, _ = facts.of_sample(i, layer)
            place = torch.arange(n)
            near = name == "mistral" or (name == "gemma3" and layer == 0)
            visible = (place[:, None] >= place) & (place[:, None] - place < (WINDOW if near else n))
            torch.testing.assert_close(seen[0], visible.sum(0).float())
            torch.testing.assert_close(even[0], (visible / visible.sum(1, keepdim=True)).sum(0))


def test_scores_are_those_of_the_whole_pattern():
    model, rule = words_model(), SinkRule("paper", alpha=2)
    sample = sentence(40)
    found = text_sinks(model, [sample], rule=rule)
    pattern = model.record([sample], "pattern")[0]  # layer head query key
    mean = pattern.sum(2) / torch.arange(41, 0, -1)
    sink = (mean > 2 / 41) & (torch.arange(41, 0, -1) >= 8)
    torch.testing.assert_close(found.first.samples[0], pattern[..., 0].mean(-1))
    sink[..., 0] = False
    assert sink.any()
    torch.testing.assert_close(found.later.samples[0], (pattern.mean(2) * sink).sum(-1))
    torch.testing.assert_close(found.later_count.samples[0], sink.sum(-1).float())
    rows = found.pairs[found.pairs["place"] > 0]
    assert list(zip(rows["layer"], rows["head"], rows["place"], strict=True)) == list(
        map(tuple, sink.nonzero().tolist())
    )
    assert rows["received"].tolist() == pytest.approx(mean[sink].tolist(), rel=1e-4)


def test_a_padded_batch_equals_one_text_at_a_time():
    model, rule = words_model("mistral"), SinkRule("paper", alpha=1.5)
    texts = [sentence(20), sentence(44, seed=1), sentence(33, seed=2)]
    together = text_sinks(model, texts, rule=rule)
    alone = [text_sinks(model, [one], rule=rule) for one in texts]
    for name in ("first", "later", "first_is_sink", "later_count"):
        expected = torch.cat([getattr(one, name).samples for one in alone])
        torch.testing.assert_close(getattr(together, name).samples, expected, atol=1e-5, rtol=1e-4)
    assert together.pairs["place"].tolist() == [place for one in alone for place in one.pairs["place"]]
    for column in ("residual", "value"):
        expected = [value for one in alone for value in one.norms[column]]
        assert together.norms[column].tolist() == pytest.approx(expected, rel=1e-4, nan_ok=True)


# -- planted sinks ---------------------------------------------------------------------------------------------------


def test_a_planted_later_sink_is_found_in_its_heads_and_nowhere_else(later):
    assert not later.first_is_sink.samples.any()
    assert (later.later_count.samples[..., 0] == 1).all()
    assert (later.later_count.samples[..., 1:] == 0).all()
    assert later.later.values[:, 0].min() > 0.5
    assert set(map(tuple, later.pairs[["sample", "place"]].values)) == {(0, 4), (1, 9), (2, 15), (3, 6)}
    tokens = later.by_token()
    assert tokens[["token", "n", "as_sink", "heads"]].values.tolist() == [[SINK, 4, 4, 1 / HEADS]]
    places = later.by_place()
    assert sorted(places["place"]) == [4, 6, 9, 15]
    assert set(places["token"]) == {SINK}
    assert places["heads"].tolist() == [1 / HEADS / 4] * 4  # one text of four, one head of four
    assert later.by_head()["name"].head(LAYERS).tolist() == sorted(
        later.by_head()["name"].head(LAYERS), key=lambda name: -later.later.values[Head.parse(name)]
    )
    assert {Head.parse(name) for name in later.by_head()["name"].head(LAYERS)} == set(OWN)
    assert later.by_layer()["later sinks"].tolist() == [1 / HEADS] * LAYERS


def test_a_planted_first_token_is_found_and_told_apart(start):
    assert (start.first_is_sink.samples[..., 0] == 1).all()
    assert (start.first_is_sink.samples[..., 1:] == 0).all()
    assert not start.later_count.samples.any()
    assert start.first.values[:, 0].min() > 0.5 > start.first.values[:, 1:].max()
    assert start.by_token()[["token", "n", "as_sink", "place"]].values.tolist() == [["<s>", 4, 4, 0]]
    assert start.sameness()["jaccard"].isna().all()


def test_heads_without_a_sink_have_none():
    """The controls: the same model without the plant, and random weights, by the rule that even heads do not pass."""
    assert text_sinks(sinking(0.0), TEXTS).pairs.empty
    found = text_sinks(llama(128), [sentence(60, seed=seed) for seed in range(4)])
    assert found.pairs.empty
    assert found.by_token().empty
    assert (found.by_layer()[["first token", "later sinks"]] == 0).all(axis=None)


def test_the_same_word_is_the_sink_of_all_texts_at_other_places(later):
    same = later.sameness().set_index("same")
    assert same.loc["token", "jaccard"] == 1
    assert same.loc["token", "chance"] < 0.3
    assert same.loc["place", "jaccard"] == 0
    steady = later.stability(LAYERS).set_index("attention on")
    assert steady.loc[LATER, "overlap"] == 1
    assert steady.loc[LATER, "overlap by chance"] == 1 / HEADS


# -- what sinks look like --------------------------------------------------------------------------------------------


def test_norms_are_those_of_the_states():
    model = llama(128, huge=(7,))
    samples = [sentence(50)]
    found = text_sinks(model, samples)
    assert found.dimensions.dims == (7,)
    norms = model.hf.get_input_embeddings().weight.detach()[list(model.tokens(samples[0]).ids)].norm(dim=-1)
    table = found.by_norm().set_index(["layer", "tokens"])
    assert table.loc[(0, START), "residual"] == pytest.approx(float(norms[0] / norms.median()), rel=1e-4)
    assert table.loc[(0, START), "residual"] > 1.3
    assert table.loc[(0, START), "n"] == 0  # large, but no head's sink
    assert table["value"].isna().all()
    with pytest.raises(UsageError, match="no kind of token has a value norm"):
        norm_lines(found.by_norm(), "value")


def test_small_values_of_a_sink_are_seen_in_its_heads(later):
    model = sinking(5.0)
    with torch.no_grad():
        for block in model.hf.transformer.h:
            block.attn.c_attn.weight[model.tokenizer.convert_tokens_to_ids(SINK), 128:] *= 0.01
    found = text_sinks(model, TEXTS)
    values = model.record([TEXTS[0]], "v")[0].norm(dim=-1)[:, :, 0]  # of head 0: layer key
    by_hand = (values[:, 4] / values.median(1).values).tolist()
    mine = found.norms[(found.norms["sample"] == 0) & (found.norms["tokens"] == LATER)]
    assert mine["value"].tolist() == pytest.approx(by_hand, rel=1e-3)
    assert max(by_hand) < 0.5 < later.norms[later.norms["tokens"] == LATER]["value"].min()
    figure = norm_lines(found.by_norm(), "value", title="values")
    assert [line.name for line in figure.data] == [LATER]
    assert list(figure.data[0].x) == list(range(LAYERS))
    with pytest.raises(UsageError, match="no column 'size'"):
        norm_lines(found.by_norm(), "size")


# -- long texts ------------------------------------------------------------------------------------------------------


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and one.untyped_storage().nbytes():
                self.elements = max(self.elements, one.untyped_storage().nbytes() // one.element_size())
        return made


def test_long_texts_take_no_square_of_memory():
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=BOS,
    )
    model = HookedModel(LlamaForCausalLM(config).eval(), word_tokenizer(), name="long")
    with _Largest() as largest:
        found = text_sinks(model, [sentence(2200)])
    assert found.first.n == 1
    assert largest.elements < 2200**2 / 4  # of a single head; a block is 2**19 elements for each thread
    with pytest.raises(UsageError, match="a text of 4201 tokens does not fit the context of long, 4096 tokens"):
        text_sinks(model, [sentence(4200)])


def test_what_cannot_be_read_is_refused():
    model = words_model()
    with pytest.raises(UsageError, match="no texts to look for sinks in"):
        text_sinks(model, [])
    with pytest.raises(UsageError, match="text 1 has a single token"):
        text_sinks(model, [sentence(5), Sample("w20", chat=True)])
    with pytest.raises(UsageError, match="came without a tokenizer"):
        text_sinks(HookedModel(model.hf, name="mute"), ["w20 w21"])
    with pytest.raises(UsageError, match="1 sample cannot be split"):
        text_sinks(model, [sentence(30)]).stability()
