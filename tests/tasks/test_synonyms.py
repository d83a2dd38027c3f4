"""Tables of synonyms: one category a word, malformed ones refused, ours complete."""

import pytest

from headscope import UsageError
from tasks.nouns import singular, with_article
from tasks.synonyms import NOTHING, coco_synonyms, named_as, phrase, read_synonyms


def read(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text, "utf-8")
    return read_synonyms(path)


def test_a_line_is_a_category_and_its_synonyms(tmp_path):
    table = read(tmp_path, "# furniture\ncouch, sofa, Love Seats\n\nchair , armchair\n-, chair lift\n")
    assert table.categories == ("couch", "chair")
    assert table.phrases == {
        ("couch",): "couch",
        ("sofa",): "couch",
        ("love", "seat"): "couch",
        ("chair",): "chair",
        ("armchair",): "chair",
        ("chair", "lift"): NOTHING,
    }
    assert table.longest == 2
    assert [table.category(name) for name in ("Sofas", "love seat", "CHAIR")] == ["couch", "couch", "chair"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("couch, sofa\nchair, sofa\n", r"'sofa' stands under 'couch' and under 'chair'"),
        ("couch, chair\nchair, stool\n", r"'chair' stands under 'couch' and under 'chair'"),
        ("couch, sofas\nchair, Sofa\n", r"'Sofa' stands under 'couch' and under 'chair'"),
        ("dog, puppy\n-, dog\n", r"'dog' stands under 'dog' and under '-'"),
        ("couch, sofa,\n", r"line 1: 'couch, sofa,' has an entry without a word"),
        ("cat\n, sofa\n", r"line 2: ', sofa' has an entry without a word"),
        ("cat, -\n", r"line 1: 'cat, -' has an entry without a word"),
        ("cat\ncat, kitten\n", r"category 'cat' has two lines"),
        ("# nothing\n", r"there is no category"),
        ("-, bus stop\n", r"there is no category"),
    ],
)
def test_malformed_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"gone.csv cannot be read"):
        read_synonyms(tmp_path / "gone.csv")
    (tmp_path / "odd.csv").write_bytes(b"caf\xe9, cup\n")
    with pytest.raises(UsageError, match=r"odd.csv cannot be read .* UTF-8"):
        read_synonyms(tmp_path / "odd.csv")


def test_a_name_that_is_not_there_is_refused(tmp_path):
    table = read(tmp_path, "couch, sofa\n-, car seat\n")
    for name in ("lamp", "car seat"):
        with pytest.raises(UsageError, match=f"'{name}' names no category of the synonym table"):
            table.category(name)


def test_our_table_has_the_80_categories():
    table = coco_synonyms()
    assert len(table.categories) == 80
    for name, category in {
        "men": "person",
        "Bicycles": "bicycle",
        "TVs": "tv",
        "sofas": "couch",
        "knives": "knife",
        "wine glasses": "wine glass",
        "hair dryer": "hair drier",
        "mice": "mouse",
    }.items():
        assert table.category(name) == category
    assert all(len(table.category(category)) for category in table.categories)


def test_categories_that_have_only_their_names():
    table = named_as(["cup", "tea spoon"])
    assert table.categories == ("cup", "tea spoon")
    assert table.category("tea spoons") == "tea spoon"
    with pytest.raises(UsageError, match="category 'cup' has two lines"):
        named_as(["cup", "cup"])


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("dogs", "dog"),
        ("horses", "horse"),
        ("vases", "vase"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("boxes", "box"),
        ("benches", "bench"),
        ("toothbrushes", "toothbrush"),
        ("sandwiches", "sandwich"),
        ("potatoes", "potato"),
        ("shoes", "shoe"),
        ("puppies", "puppy"),
        ("ties", "tie"),
        ("knives", "knife"),
        ("people", "person"),
        ("women", "woman"),
        ("children", "child"),
        ("mice", "mouse"),
        ("sheep", "sheep"),
        ("scissors", "scissors"),
        ("skis", "ski"),
        ("pizzas", "pizza"),
        ("this", "this"),
        ("was", "was"),
        ("tennis", "tennis"),
    ],
)
def test_singular(plural, expected):
    assert singular(plural) == expected


def test_words_of_our_table_keep_their_singular():
    words = {word for words in coco_synonyms().phrases for word in words}
    assert {word for word in words if singular(word) != word} == set()  # a second time would make other words of them


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an apple"),
        ("umbrella", "an umbrella"),
        ("oven", "an oven"),
        ("dog", "a dog"),
        ("hour", "an hour"),
        ("house", "a house"),
        ("unicorn", "a unicorn"),
        ("uniform", "a uniform"),
        ("uninteresting cup", "an uninteresting cup"),
        ("utensil", "a utensil"),
        ("urinal", "a urinal"),
        ("urn", "an urn"),
        ("ewe", "a ewe"),
        ("one-way sign", "a one-way sign"),
        ("onion", "an onion"),
        ("Apple", "an Apple"),
    ],
)
def test_articles(noun, expected):
    assert with_article(noun) == expected


def test_phrases_are_lower_case_singular_words():
    assert phrase(" Hot-Dogs! ") == ("hot", "dog")
