"""Which head: a list to choose from, beside the maps that can be clicked."""

from collections.abc import Sequence

from dashboards.components import address
from headscope.heads import Head

NAME = "head"


def choose(heads: Sequence[Head], default: Head) -> Head:
    """The head in the address, which may be written L5H3, 5.3 or 5-3; `default` where it asks for none."""
    names = tuple(map(str, heads))
    picked = address.choose(
        "Head",
        names,
        name=NAME,
        default=str(default),
        read=lambda text: str(Head.parse(text)),
        help="The same as a click on a map.",
    )
    return Head.parse(picked)
