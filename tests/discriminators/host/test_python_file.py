"""Functions of files as discriminators: their classes, and one sentence for each bad one."""

import hashlib
import re
import sys

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.host.python_file import file_of, load_function, read_function
from coopgen_jax.errors import UserError
from tests.tiny_model import model

SEARCH = cg.SearchConfig(simulations=4, wave=2, candidates=4, depth=3, reused_nodes=4)
CONFIG = cg.MCTSConfig(new_tokens=3, search=SEARCH)
COLUMNS = """
def judge(texts):
    return [[1 - share(text), share(text)] for text in texts]
def share(text):
    return (1 + text.count("e")) / (2 + len(text))
"""


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def name_of(folder, source, function="judge", file="f.py"):
    (folder / file).write_text(source)
    return f"python:{folder / file}:{function}"


def share(text):
    return (1 + text.count("e")) / (2 + len(text))


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        (COLUMNS + "judge.classes = ('few', 'many')\n", ("few", "many")),
        (
            COLUMNS + "old = judge\ndef judge(texts):\n    return [row[1] for row in old(texts)]\n"
            "judge.classes = ['few', 'many']\n",
            ("few", "many"),
        ),
        (
            COLUMNS + "old = judge\ndef judge(texts):\n"
            "    return [{'many': b, 'few': a} for a, b in old(texts)]\n",
            ("many", "few"),
        ),
        (
            COLUMNS + "old = judge\ndef judge(texts):\n"
            "    return [[{'label': 'many', 'score': b}, {'label': 'few', 'score': a}]\n"
            "            for a, b in old(texts)]\n",
            ("few", "many"),
        ),
    ],
)
def test_classes_come_from_the_function_or_from_what_it_returns(tmp_path, source, classes):
    guide = cg.load_discriminator(name_of(tmp_path, source), language_model=model())
    assert guide.discriminator.classes == classes
    assert guide.card["sha256"] == hashlib.sha256(source.encode()).hexdigest()
    assert guide.card["classes"] == list(classes)
    (text,) = cg.generate(model(), ["A prompt"], discriminator=guide, target="many", config=CONFIG)
    seen = text.text.rstrip("\ufffd")
    wanted = share(seen) if seen else 0.5
    assert text.class_probabilities["many"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("form", ["[float(len(t)) for t in texts]", "[[len(t)] for t in texts]"])
def test_one_number_a_text_is_a_reward(tmp_path, form):
    name = name_of(tmp_path, f"def judge(texts):\n    return {form}\n")
    guide = load_function(name, tokenizer=model().tokenizer)
    (text,) = cg.generate(model(), ["So"], discriminator=guide, target="reward", config=CONFIG)
    length = len(text.text.rstrip("\ufffd"))
    wanted = 1 / (1 + np.exp(-length)) if length else 0.5
    assert text.class_probabilities == {"reward": pytest.approx(wanted, abs=1e-5)}


def test_a_file_imports_from_its_own_folder_and_is_read_anew_when_it_changes(tmp_path):
    (tmp_path / "beside_the_file.py").write_text("RATE = 0.25\n")
    source = (
        "from dataclasses import dataclass\n"
        "import beside_the_file\n"
        "@dataclass\n"
        "class Text:\n    text: str\n"
        "def judge(texts):\n    return [beside_the_file.RATE for _ in map(Text, texts)]\n"
        "judge.classes = ('a', 'b')\n"
    )
    name = name_of(tmp_path, source)
    first = read_function(name)
    assert first is read_function(name) and first(["x"]) == [0.25]
    changed = source.replace(".RATE", ".RATE * 2")
    (tmp_path / "f.py").write_text(changed)
    assert read_function(name)(["x"]) == [0.5]
    assert read_function(name).sha256 != first.sha256
    # No compiled copy stands in for a file that changed within a second.
    assert not list(tmp_path.rglob("f*.pyc"))


def test_the_last_colon_counts(tmp_path):
    source = COLUMNS + "judge.classes = ('few', 'many')\n"
    name = name_of(tmp_path, source, file="a:b=c.py")
    assert file_of(name) == (tmp_path / "a:b=c.py", "judge")
    assert read_function(name).classes == ("few", "many")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("1 / 0\n", r"f.py cannot be imported: ZeroDivisionError: division by zero \(line 1\)"),
        ("\ndef judge(:\n", r"cannot be imported: SyntaxError: invalid syntax \(line 2\)"),
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("import sys\nsys.exit('no')\n", r"cannot be imported: SystemExit: no \(line 2\)"),
        ("x = 1\n", "f.py has no function judge"),
        ("judge = 3\n", "judge is of the type int, no function"),
        ("\ndef judge(texts):\n    return texts.no\n", r"failed: AttributeError.*\(line 3\)"),
        ("def judge(texts):\n    return None\n", "finite numbers"),
        ("def judge(texts):\n    return 'good'\n", "neither probabilities nor numbers"),
        ("def judge(texts):\n    return [1.0, 2.0]\n", "1 finite numbers for 1 texts"),
        (
            "def judge(texts):\n    return [[0.5, 0.5] for _ in texts]\n",
            r"write judge.classes = \('first', 'second', ...\)",
        ),
        (
            "def judge(texts):\n    return [{'label': 'good', 'score': 1.0} for _ in texts]\n",
            r"the best label alone: have it give all of them \(top_k=None\)",
        ),
        (
            "def judge(texts):\n    return [0.5]\njudge.classes = ('one',)\n",
            r"are \('one',\): they must be two or more names",
        ),
        ("def judge(texts):\n    return [0.5]\njudge.classes = 'ab'\n", "two or more names"),
        (
            "def judge(texts):\n    return [[0.1, 0.2, 0.7]]\njudge.classes = ('a', 'b')\n",
            r"array of shape \(1, 3\) for 1 texts",
        ),
        (
            "def judge(texts):\n    return [[2.0, -1.0]]\njudge.classes = ('a', 'b')\n",
            "no probabilities",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path, source, told):
    with pytest.raises(UserError, match=told):
        read_function(name_of(tmp_path, source))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("python:", "names no function: give python:FILE.py:FUNCTION"),
        ("python:f.py", "names no function"),
        ("python:C:\\a\\f.py", "names no function"),
        ("python:f.py:two words", "names no function"),
        ("python:nowhere.py:judge", "there is no file nowhere.py"),
    ],
)
def test_names_that_name_nothing_are_told(name, told):
    with pytest.raises(UserError, match=re.escape(told)):
        read_function(name)


def test_a_function_that_fails_later_is_told_with_its_line(tmp_path):
    source = (
        "def judge(texts):\n"
        "    if 'weather' in texts[0]:\n        return [[0.5, 0.5]]\n"
        "    raise RuntimeError('no luck')\n"
        "judge.classes = ('a', 'b')\n"
    )
    name = name_of(tmp_path, source)
    guide = load_function(name, tokenizer=model().tokenizer)
    with pytest.raises(UserError, match=rf"{name} failed: RuntimeError: no luck \(line 4\)"):
        cg.generate(model(), ["So"], discriminator=guide, target="a", config=CONFIG)
