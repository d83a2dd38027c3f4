"""One planted model with a head of every kind, and prompts for each of its three trades.

Words are of three alphabets, and every head keeps to its own, so that the trades do not disturb one another:

finding     `?` asks for the needle, three words in their order; RETRIEVER looks for the kind of word that comes next
going on    fillers: INDUCTION looks behind an earlier occurrence of the present word, which PREVIOUS has written down
naming      people: MOVER copies the one that DUPLICATE and INHIBITION do not speak against, NEGATIVE takes a quarter away

FIRST_SINK always looks at `<s>` and LATER_SINK at the full stop once there is one; HERE looks where it stands. The three
write nothing. All other heads look at all tokens alike and write nothing. `<s>` and the full stop carry the huge
dimension.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from headscope import Head, HookedModel, Sample
from headscope.scoring import exact_match
from tasks.ioi import OBJECTS, PLACES, TEMPLATES
from tests.planted.naming import NAMES
from tests.planted.wiring import (
    D_HEAD,
    D_MODEL,
    Wire,
    always,
    place_key,
    place_query,
    reads,
    slot,
    where,
    wired,
    writes,
)
from tests.planted.wording import word_level

LAYERS, HEADS = 3, 6
PREVIOUS, FIRST_SINK, DUPLICATE, HERE = Head(0, 1), Head(0, 2), Head(0, 3), Head(0, 4)
LATER_SINK, INDUCTION, INHIBITION, RETRIEVER = Head(1, 0), Head(1, 1), Head(1, 3), Head(1, 4)
MOVER, NEGATIVE = Head(2, 1), Head(2, 2)
PLANTED = (PREVIOUS, FIRST_SINK, DUPLICATE, HERE, LATER_SINK, INDUCTION, INHIBITION, RETRIEVER, MOVER, NEGATIVE)

KINDS = tuple(tuple(f"{kind}{i}" for i in range(4)) for kind in "abc")
"""Words of a needle: one of each kind, in this order."""
FILLERS = tuple(f"f{i}" for i in range(28))

_ALL = ("<s>", ".", "?", *(word for kind in KINDS for word in kind), *FILLERS, *NAMES)
_SLOTS = {word: i for i, word in enumerate(_ALL)}
_START, _STOP, _ASK = (_SLOTS[word] for word in ("<s>", ".", "?"))
_NEEDLES = tuple(tuple(_SLOTS[word] for word in kind) for kind in KINDS)
_FILLERS = tuple(_SLOTS[word] for word in FILLERS)
_PEOPLE = tuple(_SLOTS[name] for name in NAMES)
_REPEATED = (*_FILLERS, *_PEOPLE)
_FLAG = 0
_NOTHING = torch.zeros(D_HEAD, D_MODEL)


def whole_model(*, without: Collection[Head] = (), massive: Collection[str] = ("<s>", ".")) -> HookedModel:
    """The model; heads `without` are like those that nothing was planted in."""
    wires = {head: wire for head, wire in _wires().items() if head not in without}
    return wired(wires, _tokenizer(), _SLOTS, layers=LAYERS, heads=HEADS, massive=massive, name="planted whole")


def _tokenizer() -> PreTrainedTokenizerFast:
    said = (template.format(first="", second="", S2="", place="", object="") for template in TEMPLATES)
    return word_level([" ".join(_ALL[1:]), *said, *PLACES, *OBJECTS])


def _wires() -> dict[Head, Wire]:
    output = writes("output")
    people = reads("token", only=_PEOPLE)
    start = where(slot(_START), [_START])
    names = torch.stack([slot(person, 60.0) for person in _PEOPLE]).sum(0)
    seen = Wire(always(names) + reads("inhibit", -60.0, only=_PEOPLE), people, people, output)
    asks, answers = _needle_order()
    needle = reads("token", only=[_STOP, *(word for kind in _NEEDLES for word in kind)])
    return {
        PREVIOUS: Wire(always(place_query(1, 300.0)), always(place_key()), reads("token"), writes("before")),
        FIRST_SINK: Wire(always(slot(_START, 60.0)), reads("token"), _NOTHING, output),
        # A word scores 1200 on itself, less up to 1000 the nearer it stands: 200 where it stands, over 500 from two
        # words before; no other word scores above 400.
        DUPLICATE: Wire(
            reads("token", 1200.0, only=_REPEATED)
            - where(place_query(0, 1000.0), _REPEATED)
            + always(slot(_START, 480.0)),
            reads("token", only=_REPEATED) + where(place_key(), _REPEATED) + start,
            where(slot(_FLAG), _REPEATED),
            writes("flag"),
        ),
        HERE: Wire(always(place_query(0, 300.0)), always(place_key()), _NOTHING, output),
        LATER_SINK: Wire(always(slot(_STOP, 60.0)), reads("token"), _NOTHING, output),
        INDUCTION: Wire(
            reads("token", 60.0, only=_REPEATED), reads("before"), reads("token", only=_FILLERS), writes("output")
        ),
        INHIBITION: Wire(
            always(slot(_FLAG, 60.0)) + always(slot(_START, 30.0)), reads("flag") + start, people, writes("inhibit")
        ),
        RETRIEVER: Wire(asks, answers, needle, output),
        MOVER: seen,
        NEGATIVE: Wire(seen.query, seen.key, seen.value, writes("output", -0.25)),
    }


def _needle_order() -> tuple[torch.Tensor, torch.Tensor]:
    """Queries for the kind of word that comes next, and keys that say of which kind a word is."""
    order = ((_ASK,), *_NEEDLES, (_STOP,))
    asks = sum((where(slot(kind, 60.0), words) for kind, words in enumerate(order[:-1])), torch.zeros_like(_NOTHING))
    answers = sum((where(slot(kind), words) for kind, words in enumerate(order[1:])), torch.zeros_like(_NOTHING))
    return asks, answers


@dataclass(frozen=True)
class Finding:
    """Fillers, somewhere among them a needle and behind it a full stop, and the question at the end."""

    n: int = 8
    length: tuple[int, int] = (16, 30)
    seed: int = 0
    stop: tuple[str, ...] = (".",)

    def samples(self, tokenizer: object) -> list[Sample]:
        return [self._sample(random.Random(f"finding/{self.seed}/{i}"), i) for i in range(self.n)]

    def score(self, sample: Sample, answer: str) -> float:
        return exact_match(answer, sample.target)

    def _sample(self, rng: random.Random, number: int) -> Sample:
        turn = [kind[(number + self.seed) % 2] for kind in KINDS]
        around = rng.sample(FILLERS, rng.randint(*self.length) - 5)
        at, stop = sorted(rng.sample(range(1, len(around)), 2))
        needle = " ".join(turn)
        prompt = " ".join([*around[:at], needle, *around[at:stop], ".", *around[stop:], "?"])
        foil = KINDS[0][2 + number % 2]  # stands nowhere
        return Sample(prompt, f" {needle}", {"needle": needle}, meta={"foil": f" {foil}"})


def going_on(n: int = 8, *, seed: int = 0, length: tuple[int, int] = (12, 20)) -> tuple[list[Sample], list[Sample]]:
    """Fillers that end with one that stood before, wanting what followed it; and the same with another in its place.

    Every filler stands once but for that one. The wrong answer stands in the prompt once, like the right one. Fillers
    are of the first half of the alphabet.
    """
    clean, corrupt = [], []
    for i in range(n):
        rng = random.Random(f"going on/{seed}/{i}")
        words = rng.sample(FILLERS[:20], rng.randint(*length))
        other = words.pop()
        at = rng.randint(1, len(words) - 4)
        asked, right = words[at : at + 2]
        wrong = rng.choice([word for word in words if word not in (asked, right)])
        for kept, first in ((clean, asked), (corrupt, other)):
            texts = [*words[:at], first, *words[at + 1 :], asked]
            ends = [len(" ".join(texts[: k + 1])) for k in range(len(texts))]
            spans = {"first": at, "right": at + 1, "END": len(texts) - 1}
            marks = {name: (ends[k] - len(texts[k]), ends[k]) for name, k in spans.items()}
            kept.append(Sample(" ".join(texts), f" {right}", marks, meta={"foil": f" {wrong}"}))
    return clean, corrupt


def rounds(n: int = 4, *, seed: int = 0, words: int = 12, times: int = 8) -> list[Sample]:
    """The same fillers over and over, in one order; a full stop before the third round."""
    samples = []
    for i in range(n):
        once = " ".join(random.Random(f"rounds/{seed}/{i}").sample(FILLERS, words))
        samples.append(Sample(" ".join([once, once, ".", *[once] * (times - 2)]), marks={"stop": "."}))
    return samples
