"""The recipe of `zoo:needle`: documents that can be answered, a loss that means what it says, runs that resume."""

import random
import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from headscope import HookedModel
from tasks import Needle, secret_facts
from tasks.prose import NAMES
from training.documents import answer_mask, batch, build_tokenizer, document, exact_match, first_of, qa
from training.needle import (
    Recipe,
    build_model,
    evaluate,
    export,
    learning_rate,
    loss_and_accuracy,
    main,
    pick_length,
    train,
)

TINY = Recipe(
    steps=60, tokens_per_step=512, lengths=(64,), warmup=10, layers=2, d_model=32, heads=2, d_head=16, d_mlp=48
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums come out the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- documents -------------------------------------------------------------------------------------------------------

lengths = pytest.mark.parametrize("length", Recipe.lengths)


def documents(length: int, count: int = 60) -> list[str]:
    rng = random.Random(f"test/{length}")
    return [document(length, rng) for _ in range(count)]


EXAMPLE = secret_facts(1, seed="example")[0]
NAME = next(name for name in NAMES if name in EXAMPLE.question)


def form(text: str) -> str:
    """A pattern for what is written of every fact, made of what is written of one."""
    pattern = re.escape(text).replace(re.escape(EXAMPLE.answer), "(?P<answer>[a-z ]+)")
    return pattern.replace(NAME, "(?P<name>[A-Z][a-z]+)", 1).replace(NAME, "(?P=name)")


def asked(text: str) -> list[re.Match]:
    """Every question of a document with its answer."""
    return list(re.finditer(form(qa(EXAMPLE)), text))


def statement(question: re.Match) -> str:
    """What the document must have said before."""
    return EXAMPLE.statement.replace(EXAMPLE.answer, question["answer"]).replace(NAME, question["name"])


@lengths
def test_a_document_has_exactly_as_many_tokens_as_asked(tokenizer, length):
    sizes = {len(ids) for ids in tokenizer(documents(length)).input_ids}
    assert sizes == {length}


@lengths
def test_a_document_ends_with_a_whole_question(tokenizer, length):
    ids, answers = batch(tokenizer, length, 60, f"test/{length}")
    assert ids.shape == (60, length)
    assert not (ids == tokenizer.pad_token_id).any()
    assert (ids[:, -1] == tokenizer.get_vocab()["."]).all()
    assert answers[:, -1].all()
    for text in documents(length):
        assert asked(text)[-1].end() == len(text)


@lengths
def test_every_word_is_known(tokenizer, length):
    ids, _ = batch(tokenizer, length, 60, "known")
    assert not (ids == tokenizer.unk_token_id).any()
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert not (ids[:, 1:] == tokenizer.bos_token_id).any()


@lengths
def test_a_fact_is_stated_once_and_before_it_is_asked_for(length):
    several = 0
    for text in documents(length):
        questions = asked(text)
        several += len(questions) > 1
        for question in questions:
            assert text[: question.start()].count(statement(question)) == 1
    assert several > 10 or length < 96


def test_documents_are_drawn_by_their_key(tokenizer):
    first, again, other = (batch(tokenizer, 64, 4, key)[0] for key in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_tokenizer_reads_the_task_as_the_documents(tokenizer):
    """Where the task's prompt ends, the answer of a document begins."""
    sample = Needle((64,), 1).samples(tokenizer)[0]
    answered = tokenizer(f"{sample.prompt} {sample.target}.", return_tensors="pt").input_ids
    mask = answer_mask(answered, tokenizer)[0]
    prompt = len(tokenizer(sample.prompt).input_ids)
    assert mask.nonzero().flatten().tolist() == list(range(prompt, answered.shape[1]))


# -- the loss, by hand -----------------------------------------------------------------------------------------------


def mask_of(text: str, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    ids = tokenizer(text, return_tensors="pt").input_ids
    return tokenizer.convert_ids_to_tokens(ids[answer_mask(ids, tokenizer)].tolist())


def test_answer_mask_by_hand(tokenizer):
    one, two = secret_facts(2, seed="mask")
    answers = [[*fact.answer.split(), "."] for fact in (one, two)]
    assert mask_of(f"The lamp. {qa(one)} The mill.", tokenizer) == answers[0]
    assert mask_of(f"{qa(one)} The mill. {qa(two)}", tokenizer) == answers[0] + answers[1]
    assert mask_of(f"{one.statement} The mill.", tokenizer) == []


SPANS = torch.tensor([[0, 1, 1, 0, 1, 1, 1], [0, 0, 1, 0, 0, 0, 0]]).bool()


def test_first_of_by_hand():
    assert first_of(SPANS).int().tolist() == [[0, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 0]]
    assert first_of(torch.tensor([[1, 1, 0, 1]]).bool()).int().tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("wrong", "share"),
    [
        ([], 1),
        ([(0, 0), (0, 3), (1, 6)], 1),  # no answer stands there
        ([(0, 1)], 2 / 3),
        ([(0, 1), (0, 2)], 2 / 3),  # one answer with two mistakes
        ([(0, 5), (1, 2)], 1 / 3),
        ([(0, 2), (0, 4), (1, 2)], 0),
    ],
)
def test_exact_match_by_hand(wrong, share):
    target = torch.zeros_like(SPANS, dtype=torch.long)
    predicted = target.clone()
    for place in wrong:
        predicted[place] = 1
    assert exact_match(predicted, target, SPANS) == pytest.approx(share)


def test_the_loss_weighs_answers_and_their_first_tokens(tokenizer):
    recipe = replace(TINY, answer_weight=3.0, first_weight=10.0)
    model = build_model(recipe, len(tokenizer)).eval()
    ids, answers = batch(tokenizer, 64, 2, "loss")
    with torch.no_grad():
        loss, accuracy = loss_and_accuracy(model, ids, answers, recipe)
        chances = model(ids).logits.log_softmax(-1)
    total = weights = 0.0
    for row in range(2):
        for i in range(1, 64):
            first = answers[row, i] and not answers[row, i - 1]
            weight = 10.0 if first else 3.0 if answers[row, i] else 1.0
            total -= weight * chances[row, i - 1, ids[row, i]].item()
            weights += weight
    assert loss.item() == pytest.approx(total / weights, rel=1e-4)
    assert accuracy == 0


def test_the_learning_rate_warms_up_and_falls_to_a_twentieth():
    rates = [learning_rate(TINY, step) for step in (0, 4, 9, 10, 35, 60)]
    assert rates == pytest.approx([TINY.lr * x for x in (0.1, 0.5, 1, 1, 0.525, 0.05)], rel=1e-3)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights and log of a run of 60 steps."""
    model, progress = train(TINY, tmp_path_factory.mktemp("whole"), checkpoint_every=10)
    return weights_of(model), progress.log


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def test_training_lowers_the_loss(whole):
    _, log = whole
    assert [entry["step"] for entry in log] == [10, 20, 30, 40, 50, 60]
    assert log[-1]["loss"] < log[0]["loss"] - 0.3


class Killed(BaseException):
    """Stands for a signal."""


@pytest.mark.parametrize("saved", [30, 37], ids=["just saved", "after some more steps"])
def test_a_run_that_was_killed_gives_the_weights_of_one_that_was_not(whole, tmp_path, monkeypatch, saved):
    import training.needle

    plain, steps = training.needle.batch, []

    def dying(*arguments):
        steps.append(1)
        if len(steps) > saved:
            raise Killed
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.needle, "batch", dying)
        with pytest.raises(Killed):
            train(TINY, tmp_path, checkpoint_every=30)
    model, progress = train(TINY, tmp_path, checkpoint_every=30)
    assert progress.step == 60
    expected, _ = whole
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(model).items())


def test_other_seeds_give_other_weights(whole, tmp_path):
    model, _ = train(replace(TINY, seed=1), tmp_path)
    assert not torch.equal(model.model.embed_tokens.weight, whole[0]["model.embed_tokens.weight"])


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    short = replace(TINY, steps=1)
    train(short, tmp_path)
    with pytest.raises(ValueError, match="written by another recipe; choose another --work"):
        train(replace(short, lr=1e-3), tmp_path)


def test_a_finished_run_is_not_trained_further(whole, tmp_path):
    first, _ = train(replace(TINY, steps=3), tmp_path)
    again, progress = train(replace(TINY, steps=3), tmp_path)
    assert progress.step == 3
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("advance_at", "stage"), [(-1.0, 1), (1.0, 0)])
def test_longer_documents_come_in_once_short_ones_are_answered(tmp_path, advance_at, stage):
    _, progress = train(replace(TINY, steps=4, lengths=(64, 96), advance_at=advance_at), tmp_path)
    assert progress.stage == stage
    picked = {pick_length(Recipe(lengths=(64, 96)), replace(progress, step=step)) for step in range(20)}
    assert (64, 96)[stage] in picked
    assert picked <= {64, 96}


# -- what comes out --------------------------------------------------------------------------------------------------


def test_evaluate_counts_answers_of_a_model(tokenizer):
    metrics = evaluate(build_model(TINY, len(tokenizer)).eval(), tokenizer, n=32)
    assert "exact match, 1 fact, 64 tokens" in metrics
    assert "exact match, 4 facts, 512 tokens" in metrics
    assert set(metrics.values()) == {0.0}, "a random model answers nothing"


def test_an_exported_folder_is_a_model_that_passes_the_check(tmp_path, whole):
    model = build_model(TINY, len(build_tokenizer()))
    model.load_state_dict(whole[0], strict=False)
    _, progress = train(replace(TINY, steps=1), tmp_path / "work")
    export(model, TINY, progress, {"exact match": 0.25}, tmp_path / "model")
    loaded = HookedModel.load(tmp_path / "model", device="cpu")
    assert (loaded.n_layers, loaded.n_heads, loaded.d_head, loaded.context_length) == (2, 2, 16, 1024)
    assert loaded.check().passed
    assert torch.equal(loaded.hf.model.embed_tokens.weight, whole[0]["model.embed_tokens.weight"])
    assert loaded.tokenizer("The lamp.").input_ids == build_tokenizer()("The lamp.").input_ids
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| exact match | 0.250 |" in card
    assert '"d_model": 32' in card


@dataclass(frozen=True)
class Short(Recipe):
    """The command's own recipe on few and short documents."""

    tokens_per_step: int = 128
    lengths: tuple[int, ...] = (64,)


def test_the_command_trains_evaluates_and_exports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.needle.Recipe", Short)
    monkeypatch.setattr("training.needle.evaluate", lambda model, tokenizer: evaluate(model, tokenizer, n=32))
    work, out = tmp_path / "work", tmp_path / "model"
    main(["--out", str(out), "--work", str(work), "--steps", "20", "--layers", "2", "--seed", "3"])
    assert (work / "checkpoint.safetensors").exists()
    assert "exact match, 1 fact, 64 tokens" in capsys.readouterr().out
    model = HookedModel.load(out, device="cpu")
    assert model.generate("Question: What are", max_new_tokens=3).finish == "length"
    assert '"steps": 20' in (out / "README.md").read_text()
