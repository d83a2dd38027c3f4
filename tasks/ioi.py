"""Indirect object identification: two people, one of them named again, and the sentence wants the other one.

"When Mary and John met at the station, John gave a book to" goes on with "Mary", the indirect object (IO); John, named
twice, is the subject (S). The task of Wang et al. 2022, arXiv 2211.00593: 15 templates, in which the indirect object is
named first (ABBA) or second (BABA). The sentences here are the project's own, so numbers differ from the paper's.

Two corrupted versions of every prompt match it token by token. `abc` has three other people, so that nobody is named
twice (Wang et al.). `swap` names the indirect object again instead of the subject, and so asks for the subject
(Merullo et al. 2024, arXiv 2310.08744). Effects measured with the two are not comparable.
"""

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from headscope.errors import UsageError
from headscope.samples import Sample
from headscope.scoring import words
from tasks.filling import check_single, filled, one_token_words

Order = Literal["ABBA", "BABA"]
Counterfactual = Literal["abc", "swap"]

TEMPLATES = (
    "After lunch, {first} and {second} walked to the {place}. {S2} handed a {object} to",
    "Then, {first} and {second} spent the day at the {place}. {S2} offered a {object} to",
    "When {first} and {second} met at the {place}, {S2} gave a {object} to",
    "While {first} and {second} were waiting near the {place}, {S2} passed a {object} to",
    "Last week, {first} and {second} visited the {place}. In the end, {S2} sold a {object} to",
    "Because {first} and {second} had shared the {place} for years, {S2} lent a {object} to",
    "In the morning, {first} and {second} opened the {place}. Later, {S2} brought a {object} to",
    "Once {first} and {second} had found the {place}, {S2} showed a {object} to",
    "People say that {first} and {second} argued at the {place}. Afterwards, {S2} sent a {object} to",
    "On Sunday, {first} and {second} cleaned the {place}, and {S2} threw a {object} to",
    "The rain kept {first} and {second} inside the {place}, so {S2} read a {object} to",
    "At the {place}, {first} and {second} talked for hours. Before leaving, {S2} promised a {object} to",
    "Everyone saw {first} and {second} leave the {place} together. {S2} had just returned a {object} to",
    "As soon as {first} and {second} reached the {place}, {S2} tossed a {object} to",
    "The teacher asked {first} and {second} to look after the {place}. Without a word, {S2} pushed a {object} to",
)
NAMES = tuple(
    "Mary John Tom James Mark Paul Peter Anna Kate Sarah David Daniel Laura Emma Jack Adam Alice Andrew Amy Ben Brian "
    "Carl Charles Chris Claire Dan Diana Eric Frank George Grace Helen Henry Jane Jason Jennifer Jessica Joe Joseph "
    "Julia Karen Kevin Lisa Louis Lucy Maria Martin Matthew Michael Michelle Nick Oliver Oscar Patrick Rachel "
    "Richard Robert Rose Ruth Sam Sean Simon Stephen Steven Susan Thomas Tim Tony Victoria Walter William".split()
)
PLACES = tuple(
    "station market garden library river school hospital office restaurant museum house store bridge".split()
)
OBJECTS = tuple("book ring ball letter drink ticket flower map key phone hat picture basket coin".split())


@dataclass(frozen=True)
class IOI:
    """`n` prompts; templates take turns, and so do the two orders unless one is chosen.

    Args:
        n: Number of prompts; 30 have every template in either order.
        order: Whether the indirect object is named first (ABBA) or second (BABA); None takes both in turn.
        counterfactual: How `counterfactuals` corrupts a prompt.
        seed: Another seed gives other people, places and things.
        names: People to draw from; those the tokenizer does not keep whole are left out.
    """

    n: int = 120
    order: Order | None = None
    counterfactual: Counterfactual = "abc"
    seed: int = 0
    names: tuple[str, ...] = NAMES

    stop = ("\n", ".", ",")
    answer_tokens = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"n is {self.n}; ask for at least 1 prompt")
        if self.order not in (None, *get_args(Order)):
            raise UsageError(f"order {self.order!r} is not known; use 'ABBA', 'BABA' or None for both")
        if self.counterfactual not in get_args(Counterfactual):
            raise UsageError(f"counterfactual {self.counterfactual!r} is not known; use 'abc' or 'swap'")

    def samples(self, tokenizer: Any) -> list[Sample]:
        """The prompts. `target` is the indirect object and `meta["foil"]` the subject, each with its space.

        Marks, a token each: `IO`, `S1` and `S2` (the subject named first and again), `S1+1` (the token behind S1) and
        `END` (the last one). `meta` has template, order and the names. UsageError if fewer than five names are one
        token.
        """
        return [self._sample(one, tokenizer, one.roles) for one in self._drawn(tokenizer)]

    def counterfactuals(self, tokenizer: Any) -> list[Sample]:
        """The corrupted prompts, in the order of `samples`, with marks at the same places.

        The `target` of a `swap` is the subject of the clean prompt; that of an `abc`, which has no right answer, is
        empty.
        """
        return [self._sample(one, tokenizer, one.corrupted(self.counterfactual)) for one in self._drawn(tokenizer)]

    def score(self, sample: Sample, answer: str) -> float:
        """1.0 if the answer begins with the indirect object, else 0.0."""
        return float(words(answer)[:1] == words(sample.target) != [])

    def _drawn(self, tokenizer: Any) -> "list[_Drawn]":
        names = one_token_words(self.names, tokenizer)
        if len(names) < 5:
            raise UsageError(
                f"of {len(self.names)} names the tokenizer keeps {len(names)} whole ({', '.join(names) or 'none'}); "
                "five are needed, so give names= that are tokens of this model"
            )
        return [self._draw(i, names) for i in range(self.n)]

    def _draw(self, i: int, names: tuple[str, ...]) -> "_Drawn":
        rng = random.Random(f"ioi/{self.seed}/{i}")
        orders = get_args(Order) if self.order is None else (self.order,)
        order = orders[i // len(TEMPLATES) % len(orders)]
        people = tuple(rng.sample(names, 5))
        return _Drawn(i % len(TEMPLATES), order, people, rng.choice(PLACES), rng.choice(OBJECTS))

    def _sample(self, drawn: "_Drawn", tokenizer: Any, roles: dict[str, str]) -> Sample:
        first, second = ("IO", "S1") if drawn.order == "ABBA" else ("S1", "IO")
        people = {"first": roles[first], "second": roles[second], "S2": roles["S2"]}
        things = {"place": drawn.place, "object": drawn.object}
        prompt, spans = filled(TEMPLATES[drawn.template], people | things)
        marks = {
            first: spans["first"],
            second: spans["second"],
            "S2": spans["S2"],
            "END": (len(prompt) - 2, len(prompt)),
        }
        behind = marks["S1"][1]
        behind += len(prompt[behind:]) - len(prompt[behind:].lstrip())
        marks["S1+1"] = (behind, behind + 1)
        meta = {"template": drawn.template, "order": drawn.order, "seed": self.seed, **roles}
        others = [f" {roles[role]}" for role in ("IO", "S1") if roles[role] != roles["S2"]]
        named_again = len(others) == 1
        if named_again:
            meta["foil"] = f" {roles['S2']}"
        sample = Sample(prompt, others[0] if named_again else "", marks, meta=meta)
        found = check_single(sample, tokenizer, ("IO", "S1", "S2", "S1+1", "END"))
        if found["S1+1"][0] != found["S1"][1]:
            raise UsageError(
                f"the tokenizer writes tokens between {roles['S1']!r} and the next word, so S1+1 is not the token "
                "behind S1; use a tokenizer whose tokens begin with their space"
            )
        return sample


@dataclass(frozen=True)
class _Drawn:
    """What was drawn for one prompt and its corrupted version."""

    template: int
    order: str
    people: tuple[str, ...]
    """Indirect object, subject, and three who are neither."""
    place: str
    object: str

    @property
    def roles(self) -> dict[str, str]:
        """Who stands where in the clean prompt."""
        return {"IO": self.people[0], "S1": self.people[1], "S2": self.people[1]}

    def corrupted(self, how: Counterfactual) -> dict[str, str]:
        """Who stands there in the corrupted one."""
        if how == "swap":
            return {**self.roles, "S2": self.people[0]}
        return dict(zip(("IO", "S1", "S2"), self.people[2:], strict=True))
