"""Sentences are found, taken, parted and cut where counting by hand says."""

import pytest

from headscope.errors import UsageError
from tasks.haystack import Piece, insert, most, read, refuse_unknown, split, stream, take
from training.documents import build_tokenizer

WORDS = build_tokenizer()
TEN = [Piece(f"S{i}.", " ", 10) for i in range(10)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One two. Three four! Five?\nSix", ["One two.", "Three four!", "Five?", "Six"]),
        ('He said "Go!" Then (so it was.) he went.', ['He said "Go!"', "Then (so it was.)", "he went."]),
        ("It is 3.5 km. Version 1.2.3 came...  Good.", ["It is 3.5 km.", "Version 1.2.3 came...", "Good."]),
        ("A heading\n\nText that\nbreaks its lines.", ["A heading", "Text that\nbreaks its lines."]),
        ("他走了。她来了！好", ["他走了。", "她来了！", "好"]),  # noqa: RUF001
        ("\n\n One. ", ["One."]),
        (" \n\n ", []),
    ],
)
def test_split_at_sentence_ends_and_blank_lines_only(text, sentences):
    pieces = list(split(text))
    assert [piece.text for piece in pieces] == sentences
    assert "".join(piece.text + piece.gap for piece in pieces).split() == text.split()


def test_folder_is_read_in_order_of_names(tmp_path):
    for name, text in {"b.txt": "Two.", "a.txt": "\nOne.\n\n", "c.md": "Not this."}.items():
        (tmp_path / name).write_text(text)
    assert [piece.text for piece in read(tmp_path)] == ["One.", "Two."]
    assert [piece.text for piece in read(tmp_path / "c.md")] == ["Not this."]


def test_stream_of_own_text_has_every_sentence_once_from_a_drawn_one():
    drawn = {tuple(stream(TEN, str(seed))) for seed in range(50)}
    assert drawn == {(*TEN[start:], *TEN[:start]) for start in range(10)}
    assert list(stream(TEN, "a")) == list(stream(TEN, "a"))


def test_take_measures_and_stops_when_there_is_enough():
    endless = stream(None, "take")
    taken = take(endless, WORDS, 1000.0)
    assert [piece.size for piece in taken] == [len(WORDS.tokenize(piece.text)) for piece in taken]
    assert sum(piece.size for piece in taken) >= 1000
    assert len(taken) <= 1000 / min(piece.size for piece in taken) + 64
    assert next(endless).text  # it did not run to the end
    assert len(take(iter(TEN), WORDS, 1000.0)) == 10
    assert take(iter([]), WORDS, 1.0) == []


@pytest.mark.parametrize(("depth", "at"), [(0.0, 0), (0.04, 0), (0.06, 1), (0.5, 5), (0.96, 10), (1.0, 10)])
def test_insert_is_at_the_nearest_end(depth, at):
    pieces = list(TEN)
    assert insert(pieces, new := Piece("New.", " ", 3), depth) == at
    assert pieces[:at] + pieces[at + 1 :] == TEN
    assert pieces[at] == new


def test_insert_stays_in_the_paragraph_before():
    pieces = [Piece("A.", "\n\n", 1), Piece("B.", " ", 1)]
    insert(pieces, Piece("New.", " ", 1), 0.5)
    assert "".join(piece.text + piece.gap for piece in pieces) == "A. New.\n\nB. "


@pytest.mark.parametrize("real", [5, 8, 10, 13, 20])  # tokens of a sentence in its place; alone it has 10
def test_cut_is_found_in_few_calls_even_from_wrong_sizes(real):
    called = []
    kept = most(TEN * 100, 4007, lambda n: called.append(n) or 25 + real * n)
    assert kept == min((4007 - 25) // real, 1000)
    assert len(called) <= 16


@pytest.mark.parametrize(("length", "kept"), [(0, 1), (34, 1), (35, 1), (44, 1), (45, 2), (125, 10), (999, 10)])
def test_cut_at_the_borders(length, kept):
    assert most(TEN, length, lambda n: 25 + 10 * n) == kept


def test_first_unknown_word_is_named():
    refuse_unknown("The baker found the lamp.", WORDS)
    with pytest.raises(UsageError, match="does not know 'xylophone'"):
        refuse_unknown("The baker, a xylophone and a zither.", WORDS)
