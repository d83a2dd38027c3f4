"""A planted copier with three heads that look striking and are worth nothing, for the task of `head_analysis.planted`.

The previous-token head writes down which word came before. The copier looks at the word behind an earlier occurrence
of the present one and copies it: a retrieval, or induction, head. One sink head always looks at the first token;
another at the full stop, once there is one. They, and the heads that look at all tokens alike, write next to nothing.
"""

import torch

from headscope import Head, HookedModel
from tests.head_analysis.planted import FILLER, KEYS, NEEDLE_WORDS, planted_tokenizer
from tests.planted.wiring import D_HEAD, D_MODEL, Wire, always, place_key, place_query, reads, slot, wired, writes

BEFORE, FIRST_SINK = Head(0, 1), Head(0, 2)
LATER_SINK, COPIER = Head(1, 0), Head(1, 2)
PLANTED = (BEFORE, FIRST_SINK, LATER_SINK, COPIER)

_WORDS = ("<s>", ".", *KEYS, *NEEDLE_WORDS, *FILLER)
_SLOTS = {word: i for i, word in enumerate(_WORDS)}


def copying_model(*, heads: int = 4) -> HookedModel:
    """The model, with the tokenizer of `head_analysis.planted`."""
    nothing = torch.zeros(D_HEAD, D_MODEL)
    wires = {
        BEFORE: Wire(always(place_query(1, 300.0)), always(place_key()), reads("token"), writes("before")),
        FIRST_SINK: Wire(always(slot(_SLOTS["<s>"], 60.0)), reads("token"), nothing, writes("output")),
        LATER_SINK: Wire(always(slot(_SLOTS["."], 60.0)), reads("token"), nothing, writes("output")),
        COPIER: Wire(reads("token", 60.0), reads("before"), reads("token"), writes("output")),
    }
    return wired(wires, planted_tokenizer(), _SLOTS, layers=2, heads=heads, noise=0.01, name="planted copying")
