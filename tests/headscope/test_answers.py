"""How tasks are asked: with a tokenizer or the whole processor, with the room they need; what a row holds."""

from dataclasses import dataclass

import pytest

from headscope import Sample
from headscope.answers import answer_row, asked_of
from headscope.generation import Generation
from tests.head_analysis.planted import planted


@dataclass(frozen=True)
class Plain:
    """Keeps what it was given."""

    def samples(self, given):
        return [Sample("f1 f2", "n1 n2 n3", meta={"length": 2, "given": given})]

    def score(self, sample, answer):
        return float(answer == sample.target)


class Seeing(Plain):
    sees_images = True
    answer_tokens = 5


class Noting(Plain):
    def details(self, sample, answer):
        return {"words": len(answer.split()), "length": 7, "score": "hidden"}


class Processor:
    """A processor as vision-language models have: the tokenizer is a part of it."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


@pytest.fixture(scope="module")
def model():
    return planted()


def test_a_task_gets_the_tokenizer_unless_it_sees_images(model):
    tokenizer = model.tokenizer
    model.processor = Processor(tokenizer)
    for task, given in ((Plain(), tokenizer), (Seeing(), model.processor)):
        assert asked_of(model, task)[0][0].meta["given"] is given


def test_the_room_for_an_answer(model):
    assert asked_of(model, Plain())[1] == 8 + 2 * 3
    assert asked_of(model, Seeing())[1] == 5
    assert asked_of(model, Seeing(), 3)[1] == 3


def test_a_row_holds_what_the_task_notes():
    (sample,) = Plain().samples(None)
    answer = Generation(sample, "n1 n2 n3", (1, 2, 3), "stop")
    plain = {"length": 2, "target": "n1 n2 n3", "answer": "n1 n2 n3", "score": 1.0}
    assert answer_row(Plain(), answer) == plain
    assert answer_row(Noting(), answer) == plain | {"length": 7, "words": 3}
