"""The recipe of `zoo:sinks`: rows that hold what they say, runs that resume, and an exam that finds planted sinks."""

import json
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import training.sinks
from headscope import HookedModel
from headscope.zoo import zoo_folder
from tasks.backcopy import COPIES
from tasks.kinds import CUE, KINDS
from training.sink_documents import Rows, build_tokenizer, rows
from training.sink_exam import evaluate
from training.sink_reading import read
from training.sinks import Recipe, batch_of, build_model, learning_rate, loss_of, main, train

TINY = Recipe(steps=30, tokens_per_step=256, lengths=(64, 128), warmup=5, layers=4, d_model=16, heads=2, d_mlp=16)
VOCABULARY = build_tokenizer().get_vocab()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums come out the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> tuple[Rows, list[list[str]]]:
    """Rows, and their words."""
    found = rows(VOCABULARY, 128, 40, "test")
    names = {i: word for word, i in VOCABULARY.items()}
    return found, [[names[i] for i in row] for row in found.ids.tolist()]


def test_a_row_begins_with_a_text_and_most_hold_several(drawn):
    found, words = drawn
    assert found.ids.shape == found.copies.shape == found.kinds.shape == (40, 128)
    assert {row[0] for row in words} == {"<s>"}
    assert sum(row.count("<s>") > 1 for row in words) > 25
    assert not {"<unk>", "<pad>", "</s>"} & {word for row in words for word in row}


def test_copies_stand_behind_triggers_and_repeat_an_earlier_word_of_the_text(drawn):
    found, words = drawn
    assert found.copies.sum() > 300
    for row, column in found.copies.nonzero().tolist():
        text = words[row][:column]
        start = len(text) - 1 - text[::-1].index("<s>")
        assert text[-1] in COPIES
        assert words[row][column] in text[start:-1]


def test_names_of_kinds_stand_behind_the_cue(drawn):
    found, words = drawn
    places = found.kinds.nonzero().tolist()
    assert len(places) == sum(row[1:].count(CUE) - (row[-1] == CUE) for row in words) > 60
    assert all(words[row][column - 1] == CUE and words[row][column] in KINDS for row, column in places)


def test_a_batch_is_a_function_of_seed_and_step():
    first, again, later, other = (
        batch_of(replace(TINY, seed=seed), VOCABULARY, step).ids for seed, step in ((0, 5), (0, 5), (0, 6), (1, 5))
    )
    assert torch.equal(first, again)
    assert first.numel() == later.numel() == 256
    assert not any(torch.equal(first[:1, :64], x[:1, :64]) for x in (later, other))
    assert {batch_of(TINY, VOCABULARY, step).ids.shape[1] for step in range(12)} == {64, 128}


# -- the loss and the model ------------------------------------------------------------------------------------------


def test_the_loss_weighs_names_of_kinds():
    model = build_model(TINY, len(VOCABULARY)).eval()
    batch = rows(VOCABULARY, 64, 2, "loss")
    with torch.no_grad():
        loss, plain = (loss_of(model, batch, replace(TINY, kind_weight=weight)).item() for weight in (7.0, 1.0))
        chances = model(batch.ids).logits[:, :-1].log_softmax(-1)
    token_loss = -chances.gather(-1, batch.ids[:, 1:, None])[..., 0]
    kinds = batch.kinds[:, 1:]
    expected = (7 * token_loss[kinds].sum() + token_loss[~kinds].sum()) / (7 * kinds.sum() + (~kinds).sum())
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert plain == pytest.approx(token_loss.mean().item(), rel=1e-4)


def test_queries_and_keys_start_larger_than_values_and_outputs():
    model = build_model(Recipe(), len(VOCABULARY))
    attention = model.model.layers[1].self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    spread = [part.weight.std().item() * part.in_features**0.5 for part in parts]
    assert spread == pytest.approx([1.5, 1.5, 0.4, 0.2], rel=0.1)


def test_the_learning_rate_rises_stays_and_falls_to_a_twentieth():
    rates = [learning_rate(TINY, step) for step in (0, 4, 18, 24, 30)]
    assert rates == pytest.approx([TINY.lr * x for x in (0.2, 1, 1, 0.525, 0.05)])


# -- runs ------------------------------------------------------------------------------------------------------------


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Tensor], list[dict]]:
    model, progress = train(TINY, tmp_path_factory.mktemp("whole"), checkpoint_every=10)
    return weights_of(model), progress.log


def test_training_lowers_the_loss(whole):
    _, log = whole
    assert [entry["step"] for entry in log] == [10, 20, 30]
    assert log[-1]["loss"] < log[0]["loss"] - 0.3


class Killed(BaseException):
    """Stands for a signal."""


def test_a_run_that_was_killed_gives_the_weights_of_one_that_was_not(whole, tmp_path, monkeypatch):
    plain = training.sinks.batch_of

    def dying(recipe, vocabulary, step):
        if step == 17:
            raise Killed
        return plain(recipe, vocabulary, step)

    with monkeypatch.context() as patch:
        patch.setattr(training.sinks, "batch_of", dying)
        with pytest.raises(Killed):
            train(TINY, tmp_path, checkpoint_every=10)
    model, progress = train(TINY, tmp_path, checkpoint_every=10)
    assert (progress.step, progress.tokens) == (30, 30 * 256)
    assert all(torch.equal(weight, whole[0][name]) for name, weight in weights_of(model).items())


def test_other_seeds_give_other_weights(whole, tmp_path):
    model, _ = train(replace(TINY, seed=1), tmp_path)
    assert not torch.equal(model.model.embed_tokens.weight, whole[0]["model.embed_tokens.weight"])


# -- what is measured ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained() -> HookedModel:
    """Its only sink is planted: keys of L1H1 are large at `<s>` and nowhere else, and its queries look for that."""
    hf = build_model(TINY, len(VOCABULARY)).eval()
    with torch.no_grad():
        hf.model.embed_tokens.weight[:, -1] = 0
        hf.model.embed_tokens.weight[0] = torch.eye(TINY.d_model)[-1] * 3
        hf.model.embed_tokens.weight[1:, -2] = 1
        for layer in hf.model.layers[:1]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        attention = hf.model.layers[1].self_attn
        head = slice(TINY.d_head, 2 * TINY.d_head)
        slowest = torch.tensor([TINY.d_head // 2 - 1])  # the pair of dimensions that rotary embedding turns least
        attention.q_proj.weight[head] = 0
        attention.k_proj.weight[head] = 0
        attention.q_proj.weight[TINY.d_head + slowest, -2] = 10
        attention.k_proj.weight[TINY.d_head + slowest, -1] = 10
    return HookedModel(hf, build_tokenizer(), name="planted")


def test_a_planted_sink_is_read_and_other_heads_have_none(untrained):
    alone = torch.tensor([[0, *range(10, 60)], [0, *range(60, 110)]])
    found = read(untrained, alone)
    assert found.first[1, 1] > 0.95
    assert found.later.sum() == 0
    rest = torch.ones(4, 2, dtype=torch.bool)
    rest[1, 1] = False
    assert found.first[rest].max() < 0.3
    without = read(untrained, alone[:, 1:])
    assert without.first.max() < 0.3
    assert without.resid_first[0] == pytest.approx(1, abs=0.3)
    packed = alone.clone()
    packed[:, 20] = 0
    both = read(untrained, packed)
    assert both.later[1, 1] > 0.3
    assert both.first[1, 1] + both.later[1, 1] > 0.95
    assert both.later[rest].max() < 0.3


def test_the_exam_counts_the_planted_sink_and_calibrates_it(untrained):
    exam = evaluate(untrained, n=4, choices=4, calibrated=4, draws=1)
    assert exam.metrics["heads with more than 0.3 on the first token, texts alone"] == 1
    assert exam.metrics["heads with more than 0.3 on the first token, the same without <s>"] == 0
    assert exam.metrics["choices, 3 texts of 40 words, low"] <= exam.metrics["choices, 3 texts of 40 words"]
    names = list(exam.calibration["condition"])
    assert names[0] == "nothing edited"
    assert {"ACT", "ACT, released", "ACT, all layers"} < set(names)


@dataclass(frozen=True)
class Short(Recipe):
    """The command's own recipe on few tokens."""

    tokens_per_step: int = 128
    lengths: tuple[int, ...] = (64,)


def test_the_command_trains_measures_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.sinks.Recipe", Short)
    monkeypatch.setattr("training.sinks.evaluate", lambda model: evaluate(model, n=4, choices=4, calibrated=4, draws=1))
    for seed in ("1", "0"):
        beside = ["--beside", str(tmp_path / "1" / "metrics.json")] if seed == "0" else []
        place = ["--out", str(tmp_path / "model"), "--work", str(tmp_path / seed)]
        main([*place, "--steps", "2", "--seed", seed, *beside])
    assert json.loads((tmp_path / "1" / "metrics.json").read_text())["seed"] == 1
    assert '"copies behind triggers"' in capsys.readouterr().out
    model = HookedModel.load(tmp_path / "model", device="cpu")
    assert (model.n_layers, model.n_heads) == (Recipe.layers, Recipe.heads)
    assert model.tokens("the lamp again").ids == tuple(build_tokenizer()("the lamp again").input_ids)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| measured on text not trained on | seed 0 | seed 1 |" in card
    assert "| L3 |" in card
    assert '"steps": 2' in card


def test_the_shipped_card_names_the_recipe_that_is_in_the_code():
    card = (zoo_folder("zoo:sinks") / "README.md").read_text()
    settings = json.loads(card[card.rindex("recipe `") + 8 :].split("`")[0])
    assert settings == json.loads(json.dumps(asdict(Recipe())))
