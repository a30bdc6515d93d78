"""Texts written for every class: what is kept and why not, and that a broken-off run goes on."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.augmentation.augmentation_settings import (
    AugmentationSettings,
    Filter,
    openings_of,
)
from coopgen_jax.augmentation.filters import (
    ORIGINAL,
    OTHER_CLASS,
    TWICE,
    CopyFilter,
    FilterSettings,
    fault_of,
)
from coopgen_jax.augmentation.named_entities import Name
from coopgen_jax.augmentation.substitution import private_content
from coopgen_jax.augmentation.synthetic_texts import ENOUGH, write_synthetic
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.errors import UserError
from tests.explanation.word_model import BAGS, CLASSES, WORDS, bag, model

DECODER = cg.FudgeConfig(new_tokens=6, candidates=40, strength=0.5, look_ahead=True)
SETTINGS = AugmentationSettings(
    per_class=5, tries=4, opening_words=2, decoder=DECODER, batch=4,
    filters=FilterSettings(least_words=6, threshold=0.9),
)  # fmt: skip
JUDGE = Filter(SimpleNamespace(classes=CLASSES, predict_proba=lambda texts: bag(texts)), "bag")


def originals():
    rng = np.random.default_rng(0)
    texts = [
        " ".join([*rng.choice(BAGS[label], 1), *rng.choice(WORDS, 9)])
        for label in (0, 1)
        for _ in range(6)
    ]
    return Labelled(tuple(texts), np.repeat([0, 1], 6).astype(np.int32), CLASSES)


def guide():
    return host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)


KEY = cg.WatermarkKey(
    cg.Watermark(window=1, delta=8.0),
    (12, 345, 6, 789),
    model().config.vocab_size,
    model().tokenizer.identity,
    "words",
)


def write(path, settings=SETTINGS, **more):
    given = {"judged_by": JUDGE, "key": KEY, **more}
    return write_synthetic(model(), guide(), originals(), path, settings, **given)


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A complete file, and its rows."""
    path = tmp_path_factory.mktemp("written") / "texts.jsonl"
    return path, write(path)


def test_every_class_gets_as_many_texts_as_it_asks_for(written):
    path, rows = written
    kept = Counter(row["class"] for row in rows if row["reason"] is None)
    assert kept == dict.fromkeys(CLASSES, SETTINGS.per_class)
    assert [json.loads(line) for line in path.read_text().splitlines()[1:]] == rows
    assert len(rows) % SETTINGS.batch == 0


def test_rows_say_where_texts_come_from_and_why_they_are_left_out(written):
    data, (_, rows) = originals(), written
    copies = CopyFilter(data.texts, SETTINGS.filters)
    kept = Counter()
    for row in rows:
        label = CLASSES.index(row["class"])
        seed = data.texts[row["seed_text"]]
        assert data.labels[row["seed_text"]] == label
        assert row["opening"] == " ".join(seed.split()[:2])
        assert row["text"].startswith(f"{row['opening']} ")
        p = bag([row["text"]])[0]
        assert row["p_filter"] == pytest.approx(p[label], abs=1e-6)
        own = bag([row["text"].removeprefix(row["opening"])])[0]
        assert row["p_guide"] == pytest.approx(own[label], abs=1e-5)
        assert (row["method"], row["watermark"]) == ("fudge", KEY.identity)
        assert row["log_prob"] < 0 and row["longest_run"] >= 2 and 1 <= row["tokens"] <= 6
        reason = fault_of(row["text"], p, label, settings=SETTINGS.filters, copies=copies)
        if reason is None and kept[label] == SETTINGS.per_class:
            reason = ENOUGH
        assert row["reason"] == reason
        if reason is None:
            kept[label] += 1
            copies.keep(row["text"])
    assert OTHER_CLASS in {row["reason"] for row in rows}


def test_openings_are_used_in_turn(written):
    dull = [row["opening"] for row in written[1] if row["class"] == "dull"]
    own = [opening for _, opening in openings_of(originals(), "dull", SETTINGS)]
    assert sorted(own) == sorted(" ".join(text.split()[:2]) for text in originals().texts[:6])
    assert dull[:8] == [*own, *own[:2]]


def test_the_mark_is_found_in_all_texts_together_and_not_by_another_key(written):
    text = " ".join(row["text"] for row in written[1] if row["reason"] is None)
    (found,) = cg.detect([text], key=KEY, tokenizer=model().tokenizer, fpr=1e-6)
    assert found.marked
    other = replace(KEY, secret=(1, 2, 3, 4))
    (found,) = cg.detect([text], key=other, tokenizer=model().tokenizer, fpr=1e-3)
    assert not found.marked


@pytest.mark.parametrize("left", ["two batches", "half a batch", "half a line", "nothing"])
def test_a_run_that_was_broken_off_goes_on_with_the_same_texts(tmp_path, written, left):
    path, rows = written
    content = path.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == 10]
    cut = {"two batches": ends[8] + 1, "half a batch": ends[6] + 1, "half a line": ends[6] - 9}
    broken = tmp_path / "texts.jsonl"
    broken.write_bytes(content[: cut.get(left, 0)])
    steps = []
    again = write(broken, listener=steps.append)
    assert without_seconds(again) == without_seconds(rows)
    assert steps[-1].kept == dict.fromkeys(CLASSES, SETTINGS.per_class)
    whole = len(rows) // SETTINGS.batch
    there = {"two batches": 2, "half a batch": 1, "half a line": 1}.get(left, 0)
    assert len(steps) == whole - there
    assert write(broken, listener=steps.append) == again and len(steps) == whole - there


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path, written):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(written[0].read_bytes())
    private = private_content(originals().texts, lambda texts: [[] for _ in texts])
    filters = replace(SETTINGS.filters, threshold=0.7)
    for told, change in {
        "per class": {"settings": replace(SETTINGS, per_class=6)},
        "threshold": {"settings": replace(SETTINGS, filters=filters)},
        "substitute": {"private": private},
        "discriminator": {"guide_weights": "other"},
        "filter": {"judged_by": replace(JUDGE, weights="other")},
        "name": {"judged_by": replace(JUDGE, name="other")},
    }.items():
        with pytest.raises(UserError, match=f"holds texts of another {told}"):
            write(path, **change)
    with pytest.raises(UserError, match="another watermark key"):
        write(path, key=None)
    assert path.read_bytes() == written[0].read_bytes()


def test_a_class_stops_at_the_bound_of_tries(tmp_path):
    settings = replace(SETTINGS, filters=FilterSettings(least_words=9), tries=2)
    rows = write(tmp_path / "texts.jsonl", settings)
    # Two tries for each of five texts fill two batches of four and begin a third.
    assert Counter(row["class"] for row in rows) == dict.fromkeys(CLASSES, 12)
    assert {row["reason"] for row in rows} == {"too short"}


def test_one_class_alone_is_written_for_and_a_budget_ends_the_writing(tmp_path):
    path = tmp_path / "texts.jsonl"
    assert write(path, classes=["bright"], budget_seconds=0.0) == []
    rows = write(path, classes=["bright"])
    assert {row["class"] for row in rows} == {"bright"}


def test_a_text_that_repeats_a_training_text_is_left_out(tmp_path):
    rows = write(tmp_path / "first.jsonl", replace(SETTINGS, per_class=2, tries=2))
    texts = [row["text"] for row in rows if row["reason"] is None]
    data = originals()
    # What was written before is now one of the originals, and of the same opening.
    more = Labelled(
        (*data.texts[:5], texts[0], *data.texts[6:]), data.labels, data.classes
    )  # fmt: skip
    copies = CopyFilter(more.texts, SETTINGS.filters)
    reason = fault_of(texts[0], None, 0, settings=SETTINGS.filters, copies=copies)
    assert reason == ORIGINAL


def test_texts_without_openings_begin_with_sampled_tokens(tmp_path):
    settings = replace(SETTINGS, opening_words=0, opening_tokens=2, per_class=3)
    rows = write(tmp_path / "texts.jsonl", settings, judged_by=None)
    for row in rows:
        assert row["seed_text"] is None and row["p_filter"] is None
        assert len(row["opening"].split()) == 2 and len(row["text"].split()) <= 8
        assert row["text"].startswith(row["opening"].strip())
    assert len({row["opening"] for row in rows}) > 4


def test_a_decoder_that_takes_its_best_token_writes_a_text_once(tmp_path):
    greedy = replace(SETTINGS, decoder=replace(DECODER, greedy=True), tries=3)
    rows = write(tmp_path / "texts.jsonl", greedy, judged_by=None)
    twice = Counter(row["text"] for row in rows)
    assert max(twice.values()) > 1
    kept = Counter(row["text"] for row in rows if row["reason"] is None)
    assert max(kept.values()) == 1 and TWICE in {row["reason"] for row in rows}


def test_what_is_private_is_not_passed_on(tmp_path):
    word = originals().texts[0].split()[1]
    private = private_content(
        originals().texts, lambda texts: [[Name(word, "ORG")] if word in t else [] for t in texts]
    )
    rows = write(tmp_path / "texts.jsonl", private=private, judged_by=None)
    with_name = [row for row in rows if word in row["text"].split()]
    assert {row["reason"] for row in with_name} == {"passes a name on", "too short"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"per_class": 0}, "per_class is 0"),
        ({"opening_words": 8}, "opening_words is 8: give 0 to 7"),
        ({"decoder": cg.SamplingConfig()}, "this decoder is not guided"),
        ({"decoder": cg.FudgeConfig(samples=2)}, "leave samples at 1"),
        ({"decoder": cg.SMCConfig(samples=4)}, "this decoder weighs several texts"),
    ],
)
def test_settings_out_of_range_are_told(change, told):
    with pytest.raises(UserError, match=told):
        AugmentationSettings(**change)


def test_classes_that_somebody_does_not_know_are_told(tmp_path):
    data, path = originals(), tmp_path / "texts.jsonl"
    other = Labelled(data.texts, data.labels, ("dull", "grey"))
    with pytest.raises(UserError, match=r"the guide knows dull, bright, .* class 'grey'"):
        write_synthetic(model(), guide(), other, path, SETTINGS)
    narrow = Filter(SimpleNamespace(classes=("dull",)), "narrow")
    with pytest.raises(UserError, match="the filter knows dull"):
        write(path, judged_by=narrow)
    with pytest.raises(UserError, match="no original has the class 'new': there are dull, bright"):
        write(path, classes=["new"])
    short = Labelled(("a b c", "a b"), np.int32([0, 1]), CLASSES)
    with pytest.raises(UserError, match="class 'bright' has more than 2 words"):
        openings_of(short, "bright", SETTINGS)
    assert not path.exists()
