"""Labelled files, their halves, and pieces of their texts."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from coopgen_jax.data.cuts import Cutting, cut, cut_all, first_words
from coopgen_jax.data.labelled import Labelled, half, half_of, joined, read_labelled
from coopgen_jax.errors import UserError


def written(tmp_path, content):
    path = tmp_path / "set.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_reads_quotes_line_breaks_and_further_columns(tmp_path):
    path = written(tmp_path, 'text,label,domain\n"a, ""b""\nc",good,x\né,bad,y\n')
    data = read_labelled(path)
    assert data.texts == ('a, "b"\nc', "é")
    assert data.classes == ("bad", "good")
    assert data.labels.tolist() == [1, 0]
    assert read_labelled(path, classes=("good", "bad")).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,class\na,b\n", "no column 'label': its columns are text, class"),
        ("text,label\n", "no rows below its header"),
        ("", "is empty: give a file with at least one row"),
        (b"text,label\n\xff,good\n", r"not in UTF-8 \(byte 11 is 0xff\): convert it first"),
        ("text,label\n,good\nb\n", "no sound row among 2: row 1: no text"),
        ("text,label\na,good\nb,odd\n", "class 'odd' in row 2: it must be good or bad"),
    ],
)
def test_errors_name_file_and_fault(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_labelled(path, classes=("good", "bad"))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv is not a file"):
        read_labelled(tmp_path / "none.csv")


def test_halves_follow_the_hash():
    # SHA-1 of "a" begins with 8, of "b" with e, of "c" with 8, of "d" with 3, of "é" with b.
    assert [half_of(text) for text in "abcd"] == ["A", "A", "A", "B"]
    assert hashlib.sha1("é".encode()).hexdigest()[0] in "13579bdf"
    assert half_of("é") == "B"
    data = Labelled(("a", "d", "b"), np.array([0, 1, 1]), ("x", "y"))
    assert half(data, "A").texts == ("a", "b")
    assert half(data, "A").labels.tolist() == [0, 1]
    assert half(data, "B").texts == ("d",)


def test_joined_sets_have_the_same_classes():
    one = Labelled(("a",), np.array([0]), ("x", "y"))
    other = Labelled(("b",), np.array([1]), ("x", "y"))
    both = joined([one, other])
    assert both.texts == ("a", "b")
    assert both.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="different classes"):
        joined([one, replace(other, classes=("y", "x"))])


def test_pieces_are_spans_of_their_text():
    text = "alpha beta gamma delta epsilon zeta"
    rng = np.random.default_rng(0)
    whole = Cutting(shortest=2, longest=3, mid_word=0.0)
    pieces = {cut(rng, text, whole) for _ in range(200)}
    words = text.split()
    spans = [" ".join(words[a : a + n]) for n in (2, 3) for a in range(len(words) - n + 1)]
    assert pieces == set(spans)
    starts = {cut(rng, text, replace(whole, anywhere=False)) for _ in range(100)}
    assert starts == {"alpha beta", "alpha beta gamma"}


def test_pieces_can_end_inside_a_word():
    rng = np.random.default_rng(0)
    cutting = Cutting(shortest=2, longest=2, anywhere=False, mid_word=1.0)
    assert {cut(rng, "so very", cutting) for _ in range(100)} == {"so v", "so ve", "so ver"}
    assert cut(rng, "word", cutting) == "word"
    assert cut(rng, "", cutting) == ""


def test_every_piece_keeps_its_label():
    data = Labelled(("a b c", "d e"), np.array([1, 0]), ("x", "y"))
    pieces = cut_all(np.random.default_rng(0), data, Cutting(pieces=3))
    assert pieces.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert all(set(piece) <= set("abc ") for piece in pieces.texts[:3])
    assert first_words(data, 3).texts == ("a b c",)
    assert first_words(data, 2).texts == ("a b", "d e")
    assert first_words(data, 3).labels.tolist() == [1]
