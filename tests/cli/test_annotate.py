"""The round of human ratings: what leaves, what comes back, and what it says."""

import csv
import io
import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from coopgen_jax.evaluation.agreement import krippendorff_alpha
from coopgen_jax.evaluation.annotation import LETTERS, read_sheet
from coopgen_jax.evaluation.significance import signed_rank
from tests.cli.running import run, sentence

PROMPTS = [f"prompt {number}" for number in range(12)]


@pytest.fixture
def files(tmp_path):
    for name in ("greedy", "mcts"):
        rows = [
            {
                "method": name,
                "prompt": prompt,
                "text": f" text {number} of {name}",
                "target": target,
            }
            for target in ("good", "bad")
            for number, prompt in enumerate(PROMPTS)
        ]
        for row in rows:
            row["method"] = name
            row["text"] += f" {row['target']}" if name == "mcts" else ""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return tmp_path


def exported(capsys, files, *more):
    job = ["evaluate", "annotate", "export", files / "greedy.jsonl", files / "mcts.jsonl"]
    job += ["--out", files / "sheet.csv", "--key", files / "key.json", *more]
    status, _, err = run(capsys, *job)
    assert (status, err) == (0, "")
    content = (files / "sheet.csv").read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(content))), json.loads((files / "key.json").read_text())


def filled(path, rows, rate, mark=","):
    """Writes a copy of the sheet, rated by a function of row and question."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
        writer.writeheader()
        for row in rows:
            asked = [name for name in row if name not in ("id", "prompt", "text")]
            writer.writerow(row | {question: rate(row, question) for question in asked})
    return path


def test_a_sheet_is_blind(capsys, files):
    rows, key = exported(capsys, files)
    assert list(rows[0]) == ["id", "prompt", "text", "polarity", "readability"]
    # Plain decoding wrote the same towards both targets: it is rated once.
    assert len(rows) == len(key["texts"]) == 12 + 24
    assert {row["id"] for row in rows} == set(key["texts"])
    assert not any(row["polarity"] or row["readability"] for row in rows)
    assert all(len(row["id"]) == 6 and set(row["id"]) <= set(LETTERS) for row in rows)
    # Neither the order of the rows nor that of the ids goes with the method.
    method = [key["texts"][row["id"]][0]["method"] for row in rows]
    is_greedy = np.array([name == "greedy" for name in method], float)
    ids = np.argsort(np.argsort([row["id"] for row in rows]))
    for order in (np.arange(len(rows)), ids):
        assert spearmanr(order, is_greedy).pvalue > 0.05
    assert ["greedy"] * 12 not in (method[:12], method[-12:])
    sheet = (files / "sheet.csv").read_text(encoding="utf-8-sig").splitlines()
    assert "method" not in sheet[0] and "target" not in sheet[0]
    again, _ = exported(capsys, files)
    assert again == rows
    other, _ = exported(capsys, files, "--seed", 1)
    assert [row["text"] for row in other] != [row["text"] for row in rows]
    assert not {row["id"] for row in other} & {row["id"] for row in rows}


def test_the_round_trip_by_hand(capsys, files):
    rows, key = exported(capsys, files, "--questions", "polarity")

    def rating(row, shift=0):
        place = key["texts"][row["id"]][0]
        number = PROMPTS.index(place["prompt"])
        if place["method"] == "greedy":
            return 2 + number % 2
        return (4 if place["target"] == "good" else 1) + (shift if number == 0 else 0)

    one = filled(files / "one.csv", rows, lambda row, question: rating(row))
    # Another order, another separator: only the ids count.
    two = filled(files / "two.csv", rows[::-1], lambda row, question: rating(row, 1), ";")
    # A separator is what parts the header, however often another sign stands in it.
    commas = "is it a, b, c or d"
    assert read_sheet(
        f'id;prompt;text;"{commas}"\n{rows[0]["id"]};p;t;3\n', "x", key | {"questions": [commas]}
    )[0] == {commas: {rows[0]["id"]: 3}}
    job = ["evaluate", "annotate", "read", one, two, "--key", files / "key.json"]
    status, out, err = run(capsys, *job, "--json", "--out", files / "report.json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report == json.loads((files / "report.json").read_text())
    assert (report["against"], report["people"], report["notes"]) == ("greedy", 2, [])
    found = report["questions"]["polarity"]
    good, bad = found["groups"]["good"], found["groups"]["bad"]
    assert good["greedy"]["mean"] == bad["greedy"]["mean"] == 2.5
    # Eleven texts at 4 and 1, one at 4.5 and 1.5.
    assert good["mcts"]["mean"] == pytest.approx(4 + 0.5 / 12)
    assert bad["mcts"]["mean"] == pytest.approx(1 + 0.5 / 12)
    assert found["groups"]["all"]["mcts"]["mean"] == pytest.approx(2.5 + 0.5 / 12)
    assert found["groups"]["all"]["mcts"]["texts"] == 24 and good["mcts"]["pairs"] == 12
    low, high = good["mcts"]["interval"]
    assert low <= good["mcts"]["mean"] <= high
    greedy = [2 + n % 2 for n in range(12)]
    assert good["mcts"]["p"] == pytest.approx(signed_rank([4.5] + [4] * 11, greedy))
    assert good["mcts"]["p_holm"] == good["mcts"]["p"] and "p" not in good["greedy"]
    table = np.array([[rating(row, shift) for row in rows] for shift in (0, 1)], float)
    assert found["alpha"] == pytest.approx(krippendorff_alpha(table))
    assert 0.9 < found["alpha"] < 1
    status, out, _ = run(capsys, *job)
    assert out.startswith(f"polarity (2 people, Krippendorff's alpha {found['alpha']:.3f})")
    assert "mcts" in out and "good" in out


def test_some_texts_that_all_methods_have(capsys, files):
    rows, key = exported(capsys, files, "--most", 5, "--questions", "quality", "--highest", 7)
    places = [place for those in key["texts"].values() for place in those]
    asked = [(place["method"], place["prompt"], place["target"]) for place in places]
    assert len(set(asked)) == len(asked) == 10 and key["scale"] == [1, 7]
    greedy = {(prompt, target) for method, prompt, target in asked if method == "greedy"}
    assert len(greedy) == 5 and list(rows[0])[3:] == ["quality"]


def test_what_is_left_out_is_counted_and_named(capsys, files):
    rows, _ = exported(capsys, files, "--questions", "polarity")
    ids = [row["id"] for row in rows]
    words = ["", "6", "x", "2.5", "0", *["3"] * (len(rows) - 5)]
    given = dict(zip(ids, words, strict=True))
    kept = [*rows[:-2], rows[6], rows[6] | {"id": "nobody"}]
    path = filled(files / "one.csv", kept, lambda row, question: given.get(row["id"], "3"))
    job = ["evaluate", "annotate", "read", path, "--key", files / "key.json"]
    status, _, err = run(capsys, *job)
    assert status == 0 and err.count("\n") == 1
    key = json.loads((files / "key.json").read_text())
    found, told = read_sheet(path.read_text(), str(path), key)
    assert set(found["polarity"]) == set(ids[5:-2]) - {ids[6]} and told in err
    assert f"1 empty ratings ({ids[0]} polarity)" in err
    assert f"4 ratings that are no number from 1 to 5 ({ids[1]} polarity, {ids[2]}" in err
    assert f"1 ids that stand twice ({ids[6]})" in err
    assert "1 unknown ids (nobody)" in err
    assert f"2 ids that are not there ({', '.join(sorted(ids[-2:]))})" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "has no column 'id'"),
        ("id,prompt\n", "has no column 'polarity'"),
        ("id,polarity,readability\n", "holds no rating: fill its columns polarity, readability"),
        ('id,polarity,readability\n"a', "is not CSV"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_broken_sheets_are_one_sentence(capsys, files, content, told):
    exported(capsys, files)
    path = files / "one.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    job = ["evaluate", "annotate", "read", path, "--key", files / "key.json"]
    assert told in sentence(capsys, *job)


@pytest.mark.parametrize("content", ["", "[]", '{"questions": ["a"]}', '{"texts": 3}'])
def test_broken_keys_are_one_sentence(capsys, files, content):
    (files / "key.json").write_text(content)
    job = ["evaluate", "annotate", "read", files / "x.csv", "--key", files / "key.json"]
    assert "is no key of" in sentence(capsys, *job)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--questions", "text"], "two columns would have one name"),
        (["--questions", "a", "a"], "two columns would have one name"),
        (["--lowest", 5], "ratings from 5 to 5 cannot differ"),
        (["--most", 0], "0 texts of 24 that all methods have: give 1 or more"),
        (["--seed", -1], "--seed is -1"),
        (["--key", "SHEET"], "--out and --key both write"),
    ],
)
def test_mistakes_are_one_sentence(capsys, files, more, told):
    more = [files / "sheet.csv" if word == "SHEET" else word for word in more]
    job = ["evaluate", "annotate", "export", files / "greedy.jsonl", files / "mcts.jsonl"]
    job += ["--out", files / "sheet.csv", "--key", files / "key.json", *more]
    assert told in sentence(capsys, *job)
    assert not (files / "sheet.csv").exists()


def test_a_sheet_counts_once(capsys, files):
    rows, _ = exported(capsys, files)
    one = filled(files / "one.csv", rows, lambda row, question: 3)
    job = ["evaluate", "annotate", "read", one, one, "--key", files / "key.json"]
    assert "a sheet is named twice" in sentence(capsys, *job)


def test_a_text_is_no_formula(capsys, files):
    path = files / "mcts.jsonl"
    path.write_text(path.read_text().replace(" text 1 of mcts", "=1+1 of mcts"))
    rows, _ = exported(capsys, files)
    cells = [row["text"] for row in rows]
    assert any(cell.startswith("'=1+1") for cell in cells)
    assert not any(cell.startswith("=") for cell in cells)
