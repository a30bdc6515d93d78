"""Files of texts: what is read from them, and one sentence for what is wrong with them."""

import json

import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.written_texts import Written, read_methods

TEXT = {"prompt": "So", "text": " good", "target": "one", "tokens": [3], "model_tokens": 9}
HEADER = {
    "settings": {"method": "mcts", "seed": 0},
    "model": {"name": "tiny", "sha256": "0"},
    "discriminator": {"name": "guide"},
}

OTHER = HEADER | {"discriminator": {"name": "another"}}


def lines(*values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_a_document_of_generate(tmp_path):
    path = tmp_path / "a.json"
    document = HEADER | {"seconds": 4.0, "texts": [TEXT, TEXT], "compare": [TEXT]}
    path.write_text(json.dumps(document))
    main, plain = read_methods(path)
    assert (main.name, main.guide, main.told) == ("mcts", "guide", True)
    assert (main.model, main.hashes) == ("tiny", ("0",))
    assert main.texts[0] == Written("So", " good", "one", (3,), 2.0, None, 9)
    assert (plain.name, plain.guide, plain.told) == ("compare", None, True)
    assert plain.texts[0].seconds is None
    assert [method.name for method in read_methods(path, "search")] == ["search", "compare"]
    path.write_text(json.dumps(document | {"compare": None, "discriminator": None}))
    (main,) = read_methods(path)
    assert main.guide is None and main.told


def test_what_the_guide_gave_the_target_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    said = [{"one": 0.25, "two": 0.75}, {"two": 0.75}, {"one": "0.2"}, {"one": 1.5}, [], None]
    path.write_text(lines(HEADER, *(TEXT | {"class_probabilities": one} for one in said)))
    (found,) = read_methods(path)
    read = [text.guide_probability for text in found.texts]
    assert read == [0.25, None, None, None, None, None]
    # A composition's class has a product with weights, which is no probability.
    path.write_text(lines(HEADER, TEXT | {"target": "all", "class_probabilities": {"all": 0.5}}))
    assert read_methods(path)[0].texts[0].guide_probability is None


def test_lines_with_and_without_a_header(tmp_path):
    path = tmp_path / "a.jsonl"
    row = TEXT | {"seconds": 0.5, "batch": 2}
    path.write_text(lines(HEADER, row, row))
    (found,) = read_methods(path)
    assert (found.name, found.guide, len(found.texts)) == ("mcts", "guide", 2)
    assert (found.texts[1].seconds, found.texts[1].batch) == (0.5, 2)
    path.write_text(lines(TEXT | {"method": "x"}, TEXT | {"method": "y"}, TEXT | {"method": "x"}))
    one, other = read_methods(path)
    assert (one.name, len(one.texts), other.name, len(other.texts)) == ("x", 2, "y", 1)
    assert not one.told
    path.write_text("\n" + lines({"prompt": "So", "text": ""}))
    (found,) = read_methods(path)
    assert found.name == "a" and found.texts == (Written("So", ""),)


def test_broken_rows_are_left_out_and_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(HEADER, TEXT, {"prompt": "a"}) + '{"prompt\n' + lines(TEXT))
    (found,) = read_methods(path)
    assert found.texts == (found.texts[0],) * 2
    assert found.broken[0] == f'line 3 of {path} has no "text" that is a string'
    assert found.broken[1].startswith(f"line 4 of {path} is not JSON")
    path = tmp_path / "a.json"
    broken = TEXT | {"text": "\ud800"}
    path.write_text(json.dumps(HEADER | {"texts": [broken, TEXT], "compare": [3, TEXT]}))
    main, plain = read_methods(path, "search")
    assert (len(main.texts), len(plain.texts), plain.broken) == (1, 1, ())
    assert main.broken == (
        f'text 1 of {path} holds half a character in its "text"',
        f"text 1 compared of {path} is not an object",
    )


def test_a_separator_of_unicode_ends_no_row(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"prompt": "So", "text": "dull \u2028 and \u0085 cold"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    (found,) = read_methods(path)
    assert found.texts == (Written(row["prompt"], row["text"]),) and not found.broken


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"x", "neither a .json nor a .jsonl file"),
        ("a.json", b"", "is not JSON"),
        ("a.json", b"[]", 'no list of "texts"'),
        ("a.json", b'{"texts": 3}', 'no list of "texts"'),
        ("a.json", b'{"texts": []}', "holds no texts"),
        ("a.json", b'{"texts": [{"text": "x"}]}', 'text 1 of .* has no "prompt"'),
        ("a.json", b'{"texts": [3]}', "text 1 of .* is not an object"),
        ("a.json", b'{"texts": [], "model": 3}', "must be objects or null"),
        ("a.jsonl", b"", "holds no texts"),
        ("a.jsonl", lines(HEADER).encode(), "holds no texts"),
        ("a.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', 'among 2: line 1 of .* no "text"'),
        ("a.jsonl", b'{"prompt": "a", "text": "b\\ud800"}\n', "line 1 of .* half a character"),
        ("a.jsonl", b'{"prompt": "a", "te', "line 1 of .* is not JSON"),
        ("a.jsonl", lines(TEXT | {"target": 1}).encode(), '"target" is no name'),
        ("a.jsonl", lines(TEXT | {"tokens": "ab"}).encode(), '"tokens" are no list'),
        ("a.jsonl", lines(TEXT | {"seconds": -1}).encode(), '"seconds" is no number'),
        ("a.jsonl", lines(TEXT | {"model_tokens": "x"}).encode(), '"model_tokens" is no number'),
        ("a.jsonl", lines(HEADER, TEXT, OTHER, TEXT).encode(), "line 3 of .* begins another run"),
        ("a.jsonl", b"\xff\n", "is not UTF-8"),
        ("b.jsonl", None, "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        read_methods(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
