"""Training rows, their files, and the report on them."""

import csv
import io
import json

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.augmentation.synthetic_set import (
    COLUMNS,
    counts_by_class,
    in_csv,
    in_json_lines,
    recognition,
    set_report,
    training_rows,
)
from coopgen_jax.data.labelled import Labelled
from tests.explanation.word_model import WORDS, model

KEY = cg.WatermarkKey(
    cg.Watermark(window=1, delta=4.0),
    (1, 22, 333, 4444),
    model().config.vocab_size,
    model().tokenizer.identity,
    "words",
)


def row(text, name, reason=None, seed_text=None):
    return {
        "text": text, "class": name, "opening": "", "seed_text": seed_text, "method": "fudge",
        "p_guide": 0.9, "p_filter": None, "log_prob": -3.5, "tokens": 4, "longest_run": 1,
        "watermark": None, "reason": reason, "batch": 0, "seconds": 0.5,
    }  # fmt: skip


ROWS = [
    row('one, "two"\nthree', "a", seed_text=0),
    row("four", "a", "too short"),
    row("five", "b", "too short"),
    row("six", "b", "copies an original"),
    row("seven", "b", "too short"),
]


def test_only_texts_that_are_kept_are_training_rows():
    (found,) = training_rows(ROWS)
    assert tuple(found) == COLUMNS and found["label"] == "a" and found["seed_text"] == 0
    (read,) = csv.DictReader(io.StringIO(in_csv([found])))
    assert read["text"] == ROWS[0]["text"] and read["label"] == "a"
    assert (read["p_filter"], read["p_guide"], read["seed_text"]) == ("", "0.9", "0")
    assert [json.loads(line) for line in in_json_lines([found]).splitlines()] == [found]
    assert (
        in_csv([]) == ",".join(f'"{name}"' for name in COLUMNS) + "\n" and in_json_lines([]) == ""
    )


def test_a_text_with_a_carriage_return_is_read_back():
    (found,) = training_rows([row("one\rtwo", "a")])
    (read,) = csv.DictReader(io.StringIO(in_csv([found]), newline=""))
    assert (read["text"], read["label"], read["tokens"]) == ("one\rtwo", "a", "4")


def test_reasons_are_counted_by_class():
    assert counts_by_class(ROWS) == {
        "a": {"tried": 2, "kept": 1, "left_out": {"too short": 1}},
        "b": {"tried": 3, "kept": 0, "left_out": {"too short": 2, "copies an original": 1}},
    }
    assert counts_by_class([]) == {}


def test_the_report_has_classes_copies_and_seconds():
    data = Labelled(("one two three four",), np.int32([0]), ("a", "b"))
    found = set_report(ROWS, data, near=0.5, key=KEY, tokenizer=model().tokenizer)
    assert found["classes"] == counts_by_class(ROWS) and found["seconds"] == 2.5
    assert (found["memorisation"]["texts"], found["memorisation"]["longest"]) == (1, 3)
    # Of the pairs of three words and of four, three are shared and six are different.
    assert found["memorisation"]["near_copies"] == 1
    assert found["watermark"]["texts"] == 1
    bare = set_report(ROWS[1:], data, near=0.6, key=KEY, tokenizer=model().tokenizer)
    assert bare["watermark"] is None and bare["memorisation"]["texts"] == 0


def test_a_mark_is_found_in_all_texts_together_and_not_without_it():
    config = cg.SamplingConfig(new_tokens=8)
    written = cg.generate(model(), WORDS[:12], config=config, watermark=KEY, seed=1)
    plain = [" ".join(np.random.default_rng(n).choice(WORDS, 8)) for n in range(12)]
    tokenizer = model().tokenizer
    marked = recognition([text.text for text in written], KEY, tokenizer)
    assert (marked["key"], marked["texts"], marked["fpr"]) == (KEY.identity, 12, 1e-3)
    assert marked["log10_p"] < -9 and marked["recognised"] < 12
    unmarked = recognition(plain, KEY, tokenizer)
    assert unmarked["log10_p"] > -2 and unmarked["recognised"] == 0
    assert marked["log10_p"] == pytest.approx(
        cg.detect([" ".join(text.text for text in written)], key=KEY, tokenizer=tokenizer)[
            0
        ].log10_p
    )
