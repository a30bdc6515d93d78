"""What is kept of training texts, and what becomes of it when they are cut."""

import hashlib

import numpy as np
import pytest

from coopgen_jax.data.cuts import Cutting, cut_all, first_words
from coopgen_jax.data.fingerprint import (
    common_half,
    fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from coopgen_jax.data.labelled import Labelled, half, half_of, joined
from coopgen_jax.errors import UserError


def labelled(*texts: str) -> Labelled:
    return Labelled(texts, np.arange(len(texts), dtype=np.int32) % 2, ("a", "b"))


def test_white_space_and_case_do_not_count():
    rows = fingerprint(["A  Film\n", "a film", "another"])
    expected = [
        int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        for text in (b"a film", b"another")
    ]
    assert rows.tolist() == sorted(expected) and rows.dtype == np.uint64


def test_pieces_are_told_by_the_texts_that_they_were_cut_from():
    data = labelled("one two three four", "five six seven")
    rng = np.random.default_rng(0)
    pieces = cut_all(rng, data, Cutting(pieces=3, shortest=1, longest=2))
    assert len(pieces.texts) == 6 and pieces.origins == tuple(np.repeat(data.texts, 3))
    again = cut_all(rng, pieces.rows([4, 0]), Cutting(pieces=1, shortest=1, longest=1))
    assert again.origins == (data.texts[1], data.texts[0])
    assert first_words(data, 4).origins == (data.texts[0],)
    both = joined([labelled("whole"), pieces])
    assert both.origins == ("whole", *pieces.origins)
    assert joined([data, data]).sources == () and data.origins == data.texts


def test_a_half_is_named_where_it_is_the_only_one():
    data = labelled(*(f"text {number}" for number in range(20)))
    assert {half_of(text) for text in data.texts} == {"A", "B"}
    assert [common_half(half(data, name).texts) for name in "AB"] == ["A", "B"]
    assert common_half(data.texts) is None and common_half([]) is None


def test_comes_back_from_its_folder(tmp_path):
    rows = fingerprint(["b", "a"])
    assert read_fingerprint(tmp_path) is None
    write_fingerprint(tmp_path / "new", rows)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.npy"]
    np.testing.assert_array_equal(read_fingerprint(tmp_path / "new"), rows)


@pytest.mark.parametrize("content", [b"", b"hashes", np.zeros(3)])
def test_a_damaged_file_is_told(tmp_path, content):
    path = tmp_path / "rows.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=r"rows.npy is no list of hashes"):
        read_fingerprint(tmp_path)
