"""Plain English filler text, written by the project itself: a haystack with no licence and no download.

Sentences come from templates. Words follow a Zipf law and the choice of a word leans on the subject of its
sentence, so that a language model can learn most of the text from what is near and needs no retrieval to read it.
The same generator feeds the recipe that trains `zoo:needle`, so every word here is in that model's vocabulary.
"""

import random
from collections.abc import Iterator
from itertools import accumulate, islice

NAMES = tuple(
    "Alice Bruno Clara Dario Elena Felix Greta Hugo Irene Jonas Karin Lucas Marta Nadia Oscar Paula "
    "Quentin Rosa Simon Tilda Ulrich Vera Walter Yara Zeno Anton Bella Carlo Dora Emil Fiona Georg".split()
)
ROLES = tuple(
    "baker sailor teacher farmer painter doctor miller tailor hunter singer builder shepherd weaver potter clerk "
    "judge nurse pilot porter gardener fisher soldier student merchant carpenter".split()
)
OBJECTS = tuple(
    "lamp basket ladder kettle violin carpet mirror hammer candle bottle blanket compass barrel bucket needle ribbon "
    "saddle shovel wagon helmet lantern pillow feather button drum flute jacket letter parcel pencil plate "
    "rope scarf spoon statue stove table teapot ticket trumpet vase wheel whistle bell brush chain coin "
    "crown curtain dagger fiddle goblet hat jar key locket medal nail pearl quilt ring sail thread "
    "vest wreath".split()
)
PLACES = tuple(
    "harbor bridge market garden tower valley station orchard castle meadow forest library mill chapel quarry river "
    "cellar attic square village island kitchen stable tavern theater canal cliff desert field glacier hill inn lake "
    "museum palace ridge school temple vineyard workshop".split()
)
ADJECTIVES = tuple(
    "small quiet bright heavy broken golden narrow wooden painted famous gentle hollow crooked dusty "
    "frozen grey hidden humble silver simple solid steep strange tall tiny warm yellow".split()
)
VERBS = tuple(
    "carried found sold repaired painted lost borrowed hid cleaned bought dropped lifted moved polished packed showed "
    "traded used watched wrapped".split()
)
ADVERBS = tuple("slowly quickly quietly often never always rarely gladly carefully almost".split())
TIMES = tuple("morning evening winter summer autumn spring night noon week year".split())
WEATHER = tuple("rain snow wind fog storm frost sunshine thunder".split())

CONTENT_WORDS = OBJECTS + PLACES + ADJECTIVES + ROLES
"""Words from which needles are made; all of them also occur in ordinary sentences, so rarity gives nothing away."""

_TEMPLATES = (
    "The {adjective} {role} {verb} the {object} near the {place}.",
    "In the {time}, the {role} {adverb} {verb} a {object} at the {place}.",
    "A {role} and a {role2} {verb} the {adjective} {object}.",
    "The {weather} came over the {place}, and the {role} {verb} the {object}.",
    "Near the {place} there was a {adjective} {object} and a {object2}.",
    "Every {time} the {role} {adverb} walked from the {place} to the {place2}.",
    "The {object} of the {role} was {adjective}, but the {object2} was {adjective2}.",
    "After the {weather}, the {place} looked {adjective} and the {place2} looked {adjective2}.",
    "Nobody at the {place} knew why the {role} {verb} the {object}.",
    "The {role} {verb} the {object}, because the {weather} had reached the {place}.",
    "It was {time}, and the {adjective} {place} was full of {weather}.",
    "The {role} who {verb} the {object} lived near the {adjective} {place}.",
)

_POOLS = {
    "role": ROLES,
    "object": OBJECTS,
    "place": PLACES,
    "adjective": ADJECTIVES,
    "verb": VERBS,
    "adverb": ADVERBS,
    "time": TIMES,
    "weather": WEATHER,
}
_ZIPF = {slot: tuple(accumulate(1 / rank for rank in range(1, len(pool) + 1))) for slot, pool in _POOLS.items()}


def words() -> frozenset[str]:
    """Every lower-case word that `sentences` can produce, without punctuation."""
    fixed = " ".join(_TEMPLATES).replace(".", " ").replace(",", " ")
    literal = {word.lower() for word in fixed.split() if "{" not in word}
    return frozenset(literal.union(*_POOLS.values()))


def sentences(seed: int | str) -> Iterator[str]:
    """Endless filler sentences; the same seed gives the same text. No sentence holds a name or a fact."""
    rng = random.Random(f"prose/{seed}")
    while True:
        yield _sentence(rng)


def _sentence(rng: random.Random) -> str:
    subject = rng.randrange(len(ROLES))
    return rng.choice(_TEMPLATES).format_map(_Slots(rng, subject))


class _Slots(dict):
    """Fills a template's slots; each pool is rotated by the sentence's subject, which gives words that go together."""

    def __init__(self, rng: random.Random, subject: int):
        super().__init__(role=ROLES[subject])
        self._rng, self._subject = rng, subject

    def __missing__(self, slot: str) -> str:
        kind = slot.rstrip("2")
        pool, weights = _POOLS[kind], _ZIPF[kind]
        (rank,) = self._rng.choices(range(len(pool)), cum_weights=weights)
        return pool[(rank + 3 * self._subject) % len(pool)]


def passages(count: int, *, seed: int | str, sentences_each: int = 20) -> list[str]:
    """Stretches of filler without facts, to see whether an edit harms a model's plain reading."""
    return [" ".join(islice(sentences(f"{seed}/{i}"), sentences_each)) for i in range(count)]
