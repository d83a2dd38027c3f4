"""English nouns in the singular, and the article before them, by small rules."""

import re

_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "policemen": "policeman",
    "policewomen": "policewoman",
    "firemen": "fireman",
    "gentlemen": "gentleman",
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "calves": "calf",
    "knives": "knife",
    "pocketknives": "pocketknife",
    "wives": "wife",
    "wolves": "wolf",
    "loaves": "loaf",
    "halves": "half",
    "leaves": "leaf",
    "shelves": "shelf",
    "scarves": "scarf",
    "skis": "ski",
    "taxis": "taxi",
    "buses": "bus",
    "minibuses": "minibus",
    "suvs": "suv",
    "tvs": "tv",
    "ties": "tie",
    "neckties": "necktie",
    "bowties": "bowtie",
    "pies": "pie",
    "cookies": "cookie",
    "panini": "panini",
    "shoes": "shoe",
    "canoes": "canoe",
    "toes": "toe",
}
_UNCHANGED = re.compile(r"(ss|us|is)$|^(scissors|shears|series|species|lens|gas|canvas|was|has)$|^.{1,2}$")
_VOWEL_LETTER = re.compile(r"[aeio]|u(?!ni(?!m|n)|s[aeiu]|r[aeiou]|te)|ho(nest|ur)|heir")
_CONSONANT_SOUND = re.compile(r"eu|ewe|one\b|once\b")


def singular(word: str) -> str:
    """The singular of a lower-case noun.

    Irregular nouns by lists; words in -ss, -us and -is as they are; -ies to -y; -sses, -xes, -zzes, -ches, -shes
    and -oes without -es; any other -s dropped. Words that are no nouns may come out as no word, so both sides of a
    comparison must go through it.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if not word.endswith("s") or _UNCHANGED.search(word):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(ss|x|zz|ch|sh|o)es$", word):
        return word[:-2]
    return word[:-1]


def with_article(noun: str) -> str:
    """The noun with `an` before it where it begins with a vowel sound, as in `an hour`, else with `a`, as in `a unit`."""
    begins = noun.lower()
    vowel = _VOWEL_LETTER.match(begins) and not _CONSONANT_SOUND.match(begins)
    return f"{'an' if vowel else 'a'} {noun}"
