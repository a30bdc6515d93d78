"""Texts written for every class: what they are, and that a run that was broken off goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.host.function import host_function, reward
from coopgen_jax.errors import UserError
from coopgen_jax.explanation.class_texts import (
    FILE,
    WritingSettings,
    batches,
    start_of,
    suited,
    write_texts,
)
from tests.explanation.word_model import BAGS, CLASSES, bag, model

DECODER = cg.FudgeConfig(new_tokens=5, candidates=40, strength=12.0, look_ahead=True)
SETTINGS = WritingSettings(texts=6, opening_tokens=2, decoder=DECODER, batch=4)


def guide(function=bag):
    return host_function(function, classes=CLASSES, tokenizer=model().tokenizer)


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_classes_are_written_for_in_turn():
    assert batches(2, 6, 4) == [(0, 4), (1, 4), (0, 2), (1, 2)]
    assert batches(3, 2, 8) == [(0, 2), (1, 2), (2, 2)]


def test_every_class_gets_its_texts_and_they_are_of_it(tmp_path):
    steps = []
    rows = write_texts(model(), guide(), tmp_path, SETTINGS, listener=steps.append)
    assert [row["class"] for row in rows] == ["dull"] * 4 + ["bright"] * 4 + ["dull"] * 2 + [
        "bright"
    ] * 2
    assert [step.done for step in steps] == [4, 8, 10, 12] and steps[0].total == 12
    for row in rows:
        said = bag([row["text"]])[0]
        assert row["probabilities"] == pytest.approx(said.tolist(), abs=1e-5)
        assert len(row["text"].split()) == row["tokens"] == row["model_tokens"] == 5
        assert row["opening"] and row["opening"] not in row["text"]
    right = [row["probabilities"][CLASSES.index(row["class"])] > 0.5 for row in rows]
    assert sum(right) >= 10
    assert len({row["opening"] for row in rows}) > 6 and len({row["text"] for row in rows}) == 12
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == rows


@pytest.mark.parametrize("left", ["a whole batch", "half a batch", "half a line"])
def test_a_run_that_was_broken_off_goes_on_with_the_same_texts(tmp_path, left):
    whole = write_texts(model(), guide(), tmp_path / "whole", SETTINGS)
    folder = tmp_path / "broken"
    folder.mkdir()
    content = (tmp_path / "whole" / FILE).read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == 10]
    cut = {"a whole batch": ends[4] + 1, "half a batch": ends[6] + 1, "half a line": ends[6] - 9}
    (folder / FILE).write_bytes(content[: cut[left]])
    steps = []
    rows = write_texts(model(), guide(), folder, SETTINGS, listener=steps.append)
    assert [step.done for step in steps] == [8, 10, 12]
    assert without_seconds(rows) == without_seconds(whole)


def test_a_budget_ends_the_writing_and_the_next_run_goes_on(tmp_path):
    assert write_texts(model(), guide(), tmp_path, SETTINGS, budget_seconds=0.0) == []
    rows = write_texts(model(), guide(), tmp_path, SETTINGS)
    assert len(rows) == 12
    assert rows == write_texts(model(), guide(), tmp_path, SETTINGS, budget_seconds=0.0)


def test_it_stops_when_it_has_enough_of_every_class(tmp_path):
    asked = []

    def enough(rows):
        asked.append(len(rows))
        return True

    assert len(write_texts(model(), guide(), tmp_path, SETTINGS, enough=enough)) == 8
    assert asked == [8], "behind a batch of every class"


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path):
    write_texts(model(), guide(), tmp_path, SETTINGS)
    before = (tmp_path / FILE).read_bytes()
    other = WritingSettings(texts=6, opening_tokens=3, decoder=DECODER, batch=4)
    with pytest.raises(UserError, match="holds texts of another opening tokens"):
        write_texts(model(), guide(), tmp_path, other)
    with pytest.raises(UserError, match="holds texts of another discriminator"):
        write_texts(model(), guide(), tmp_path, SETTINGS, guide_weights="other")
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("fault", ["raises", "nan"])
def test_a_classifier_that_fails_is_a_sentence_and_loses_no_text(tmp_path, fault):
    steps = []

    def failing(texts):
        if steps:
            if fault == "raises":
                raise ValueError("out of memory")
            return bag(texts) * float("nan")
        return bag(texts)

    told = "out of memory" if fault == "raises" else "numbers that are no probabilities"
    with pytest.raises(UserError, match=told):
        write_texts(model(), guide(failing), tmp_path, SETTINGS, listener=steps.append)
    kept = (tmp_path / FILE).read_bytes()
    assert kept.count(b"\n") == 5, "the header and a batch"
    rows = write_texts(model(), guide(), tmp_path, SETTINGS)
    assert len(rows) == 12 and (tmp_path / FILE).read_bytes().startswith(kept)


def test_texts_continue_given_openings_in_turn(tmp_path):
    openings = (" ".join(BAGS[0][:2]), BAGS[1][0], BAGS[1][1])
    settings = WritingSettings(texts=6, openings=openings, decoder=DECODER, batch=4)
    rows = write_texts(model(), guide(), tmp_path, settings)
    dull = [row["opening"] for row in rows if row["class"] == "dull"]
    assert dull == [openings[place] for place in (0, 1, 2, 0, 1, 2)]


def test_texts_out_of_nothing_begin_behind_what_the_model_expects():
    assert start_of(model().tokenizer) == [len(model().tokenizer.core.get_vocab()) - 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"texts": 0}, "texts is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"opening_tokens": 0}, "opening_tokens is 0"),
        ({"decoder": cg.SamplingConfig()}, "this decoder is not guided"),
        ({"decoder": cg.FudgeConfig(samples=2)}, "leave samples at 1"),
        ({"decoder": cg.SMCConfig(samples=4)}, "this decoder weighs several texts"),
    ],
)
def test_settings_out_of_range_are_told(change, told):
    with pytest.raises(UserError, match=told):
        WritingSettings(**change)


def test_a_reward_is_not_explained(tmp_path):
    scores = reward(lambda texts: [1.0] * len(texts), tokenizer=model().tokenizer)
    with pytest.raises(UserError, match="explaining wants a classifier"):
        write_texts(model(), scores, tmp_path, SETTINGS)


def test_what_suits_a_classifier_depends_on_whether_it_reads_texts_anew():
    texts = guide()
    wide = suited(texts, 9)
    assert (wide.new_tokens, wide.candidates, wide.look_ahead) == (9, 200, True)
    tokens = replace(texts.discriminator, tokenizer=None)
    assert suited(replace(texts, discriminator=tokens), 9).candidates == 20
    states = replace(tokens, evaluate_children=None)
    narrow = suited(replace(texts, discriminator=states), 9)
    assert (narrow.candidates, narrow.look_ahead) == (20, False)


def test_what_chooses_is_refused_before_it_is_written_where_texts_are_to_be_weighted(tmp_path):
    chosen = replace(SETTINGS, decoder=replace(DECODER, greedy=True))
    with pytest.raises(UserError, match="this decoder chooses its texts"):
        write_texts(model(), guide(), tmp_path, chosen, weighted=True)
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 1, "the header alone"
    drawn = write_texts(model(), guide(), tmp_path / "drawn", SETTINGS, weighted=True)
    assert len(drawn) == 12


def test_kept_probabilities_are_those_of_the_classifier_and_not_of_its_temperature(tmp_path):
    settings = replace(SETTINGS, temperature=9.0)
    for row in write_texts(model(), guide(), tmp_path, settings):
        p = bag([row["text"]])[0]
        assert row["probabilities"] == pytest.approx(p.tolist(), abs=1e-4)
        label = CLASSES.index(row["class"])
        odds = np.log(p[label] / p[1 - label]) / 9
        assert row["guided_by"] == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)
