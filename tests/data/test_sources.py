"""Sources of every kind give the same rows, and say what is wrong with them."""

import json
import sys

import pytest

from coopgen_jax.data.labelled import read_labelled, read_texts
from coopgen_jax.data.sources import read_rows
from coopgen_jax.errors import UserError

ROWS = [("so good", "1"), ('a "bad" one,\nor two', "0"), ("fine", "1")]


def csv_of(delimiter):
    quoted = [[field.replace('"', '""') for field in row] for row in ROWS]
    lines = [delimiter.join(f'"{field}"' for field in row) for row in quoted]
    return "\n".join([delimiter.join(["review", "stars"]), *lines]) + "\n"


CONTENTS = {
    "set.csv": csv_of(","),
    "set.tsv": csv_of("\t"),
    "set.jsonl": "".join(json.dumps({"stars": int(s), "review": r}) + "\n" for r, s in ROWS),
}


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONTENTS)
def test_columns_and_classes_are_mapped(tmp_path, name):
    path = written(tmp_path, name, CONTENTS[name])
    data = read_labelled(
        path,
        text="review",
        label="stars",
        rename={"1": "good", "0": "bad"},
        classes=("good", "bad"),
    )
    assert data.texts == tuple(text for text, _ in ROWS)
    assert data.labels.tolist() == [0, 1, 0] and data.broken == ()
    assert read_texts(path, text="review") == (data.texts, ())


def test_plain_lines_are_texts(tmp_path):
    path = written(tmp_path, "set.txt", "one\n\n two\nthree")
    assert read_texts(path)[0] == ("one", "two", "three")
    with pytest.raises(UserError, match="no column 'label': its columns are text"):
        read_labelled(path)


def test_broken_rows_are_counted_and_named(tmp_path):
    path = written(tmp_path, "set.csv", "text,label\na,x\nb\n,y\nc,d,e\n\nf,y\n")
    data = read_labelled(path)
    assert data.texts == ("a", "f") and data.classes == ("x", "y")
    assert data.broken == (
        "row 2: 1 fields instead of 2",
        "row 3: no text",
        "row 4: 3 fields instead of 2",
    )
    lines = ['{"text": "a", "label": "x"}', "[1]", '{"text": "b"}', "{", '{"text": " "}']
    path = written(tmp_path, "set.jsonl", "\n".join(lines))
    data = read_labelled(path)
    assert data.texts == ("a",)
    assert data.broken == (
        "line 2: no JSON object",
        "line 3: no label",
        "line 4: no JSON",
        "line 5: no text",
    )


def test_a_mark_of_the_byte_order_is_no_part_of_a_column(tmp_path):
    path = tmp_path / "set.csv"
    path.write_bytes("text,label\na,x\n".encode("utf-8-sig"))
    assert read_labelled(path).texts == ("a",)


def test_a_line_separator_inside_json_is_no_line_break(tmp_path):
    path = written(tmp_path, "set.jsonl", '{"text": "a\u2028b"}\n')
    assert read_texts(path)[0] == ("a\u2028b",)


SEPARATORS = ("\u2028", "\u2029", "\u0085", "\f", "\v", "\x1c", "\x1d", "\x1e")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt"])
def test_rows_end_at_line_breaks_alone(tmp_path, suffix, ending):
    texts = [f"dull and cold {SEPARATORS[n % 8]} number {n}" for n in range(60)]
    mark = {".csv": ",", ".tsv": "\t"}.get(suffix)
    if mark:
        lines = [f"text{mark}label", *(f"{text}{mark}negative" for text in texts)]
    elif suffix == ".jsonl":
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    else:
        lines = texts
    path = tmp_path / f"set{suffix}"
    path.write_bytes("".join(line + ending for line in lines).encode())
    assert read_texts(path) == (tuple(texts), ())
    if mark:
        data = read_labelled(path)
        assert data.texts == tuple(texts) and data.classes == ("negative",)


def test_a_bare_carriage_return_breaks_its_own_row_alone(tmp_path):
    path = tmp_path / "set.csv"
    path.write_bytes(b'text,label\na,x\nb\rc,x\n"d\re",y\n')
    data = read_labelled(path)
    assert data.texts == ("a", "d\re")
    assert len(data.broken) == 1 and data.broken[0].startswith("row 2: new-line character")
    # Old files have no other line breaks.
    path.write_bytes(b"text,label\ra,x\rb,y\r")
    assert read_labelled(path).texts == ("a", "b")


def test_half_characters_and_wrong_types_are_broken_rows(tmp_path):
    lines = [
        '{"text": "a", "label": 1}',
        '{"text": "b\\ud83d", "label": "x"}',
        '{"text": 3, "label": "x"}',
        '{"text": "c", "label": ["x"]}',
        '{"text": "d", "label": "\\udc00"}',
        '{"text": "e", "label": "\\ud83d\\ude00"}',
    ]
    path = written(tmp_path, "set.jsonl", "\n".join(lines))
    data = read_labelled(path)
    assert data.texts == ("a", "e") and data.classes == ("1", "\U0001f600")
    assert data.broken == (
        "line 2: half a character in text",
        "line 3: text is not a string",
        "line 4: label is not a string or a number",
        "line 5: half a character in label",
    )
    path = written(tmp_path, "set.jsonl", "\n".join(lines[1:3]))
    with pytest.raises(UserError, match="no sound row among 2: line 1: half a character in text"):
        read_labelled(path)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("set.parquet", "set.parquet is of an unknown kind: give a file that ends in .csv, .tsv"),
        ("none.csv", "none.csv is not a file"),
        ("tfds:imdb", "tfds:imdb names no split: give tfds:NAME/SPLIT"),
        ("tfds:no_such_set/train", r"tfds:no_such_set/train cannot be read \(.*no_such_set"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, monkeypatch, where, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        read_rows(where)


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_datasets_are_read_without_tensorflow(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    from tests.data import spoken_words

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    assert spoken_words.SpokenWords.name == "spoken_words"
    data = read_labelled("tfds:spoken_words/train", label="mood")
    assert data.texts == ("so good", "só bad", "fine")
    assert data.classes == ("bad", "good") and data.labels.tolist() == [1, 0, 1]
    assert read_labelled("tfds:spoken_words/train", label="mood").texts == data.texts
    with pytest.raises(UserError, match="no column 'label': its columns are text, mood"):
        read_labelled("tfds:spoken_words/train")
    with pytest.raises(UserError, match=r"tfds:spoken_words/dev cannot be read"):
        read_labelled("tfds:spoken_words/dev")
    assert "tensorflow" not in sys.modules
