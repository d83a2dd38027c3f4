"""A planted circuit for indirect object identification, with every kind of head that Wang et al. 2022 describe.

The duplicate-token head flags a name that stood before. At every later token the S-inhibition head looks at the flag
and writes who is flagged. The name mover looks at all names but that one, and copies what it sees into the output; the
negative mover looks where it does and takes a quarter of that away again. The previous-token and the induction head do
their work and nobody reads the result. With D = 10 logits for a name fully copied:

    clean      the movers see IO alone                       logit(IO) - logit(S) = .75 D
    swap       the movers see S1 alone                                             -.75 D
    abc        nobody is flagged: a third each on three others                        0
    no flag, or no S-inhibition: a third each on IO, S1, S2                        -.75 D / 3
"""

import torch

from headscope import Head, HookedModel
from tasks.ioi import OBJECTS, PLACES, TEMPLATES
from tests.planted.wiring import (
    D_HEAD,
    D_MODEL,
    LOGIT,
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

PREVIOUS, DUPLICATE = Head(0, 1), Head(0, 2)
INDUCTION, INHIBITION = Head(1, 0), Head(1, 3)
MOVER, NEGATIVE = Head(2, 1), Head(2, 2)
PLANTED = (PREVIOUS, DUPLICATE, INDUCTION, INHIBITION, MOVER, NEGATIVE)

NAMES = tuple("Mary John Tom James Paul Anna Kate Sarah David Laura Emma Jack Alice Ben Clara Dora".split())
GAIN = 0.75 * LOGIT
"""Logit difference on a clean prompt."""

_START, _FLAG = 0, 1
_SLOTS = {"<s>": _START} | {name: i for i, name in enumerate(NAMES, 2)}
_PEOPLE = tuple(_SLOTS[name] for name in NAMES)
_NOTHING = torch.zeros(D_HEAD, D_MODEL)


def naming_model() -> HookedModel:
    """The model, with a word-level tokenizer for the sentences of `tasks.ioi` and the names in NAMES."""
    tokenizer = word_level(
        [
            *(template.format(first="", second="", S2="", place="", object="") for template in TEMPLATES),
            *NAMES,
            *PLACES,
            *OBJECTS,
        ]
    )
    return wired(_wires(), tokenizer, _SLOTS, layers=3, name="planted naming")


def _wires() -> dict[Head, Wire]:
    rest = always(slot(_START, 30.0))  # where a head looks that finds nothing
    start = where(slot(_START), [_START])
    all_names = torch.stack([slot(person, 60.0) for person in _PEOPLE]).sum(0)
    seen = Wire(
        always(all_names) + rest + _names("inhibit", -60.0), _names("token") + start, _names("token"), writes("output")
    )
    return {
        PREVIOUS: Wire(always(place_query(1, 300.0)), always(place_key()), reads("token"), writes("before")),
        # A name scores 1200 on itself, less up to 1000 the nearer it stands: 200 where it stands, over 600 before.
        DUPLICATE: Wire(
            _names("token", 1200.0) - where(place_query(0, 1000.0), _PEOPLE) + always(slot(_START, 400.0)),
            _names("token") + where(place_key(), _PEOPLE) + start,
            where(slot(_FLAG), _PEOPLE),
            writes("flag"),
        ),
        INDUCTION: Wire(_names("token", 60.0) + rest, _names("before") + start, _NOTHING, writes("output")),
        INHIBITION: Wire(always(slot(_FLAG, 60.0)) + rest, reads("flag") + start, _names("token"), writes("inhibit")),
        MOVER: seen,
        NEGATIVE: Wire(seen.query, seen.key, seen.value, writes("output", -0.25)),
    }


def _names(section: str, strength: float = 1.0) -> torch.Tensor:
    return reads(section, strength, only=_PEOPLE)
