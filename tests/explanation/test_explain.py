"""Therapy as a whole: known classifiers are recovered from what is written under them."""

import json
from dataclasses import replace

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.errors import UserError
from coopgen_jax.explanation.class_texts import WritingSettings
from coopgen_jax.explanation.explain import explain, explanation_of
from coopgen_jax.explanation.explained import load_explanation
from coopgen_jax.explanation.settling import settling
from coopgen_jax.explanation.surrogate import SurrogateSettings
from tests.explanation.word_model import BAGS, CLASSES, WORDS, bag, model

DECODER = cg.FudgeConfig(new_tokens=12, candidates=60, strength=16.0, look_ahead=True)
WRITING = WritingSettings(texts=24, opening_tokens=2, decoder=DECODER, batch=12)
QUICK = SurrogateSettings(bootstrap=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explanation")
    found = explain(
        model(), bag, classes=CLASSES, out=folder, writing=WRITING, surrogate=QUICK, tried=30,
        black_box=bag, name="bag",
    )  # fmt: skip
    return found, folder


def test_a_bag_of_thirty_words_is_recovered():
    """Precision at 30, of 300 texts a class."""
    writing = replace(WRITING, texts=300, batch=100)
    found = explain(
        model(), bag, classes=CLASSES, writing=writing, surrogate=replace(QUICK, bootstrap=0),
        tried=0, black_box=bag,
    )  # fmt: skip
    hits = [
        sum(word.term in words for word in found.top_words(name, 15))
        for name, words in zip(CLASSES, BAGS, strict=True)
    ]
    assert sum(hits) / 30 >= 0.8, hits
    assert found.fit["texts"] == {"dull": 300, "bright": 300}
    assert found.fit["accuracy"] > 0.8


def test_reactions_are_those_of_the_classifier(made):
    found, _ = made
    for label, name in enumerate(CLASSES):
        for word in found.top_words(name, 30):
            assert word.reaction is not None
            expected = 2.0 * ((word.term in BAGS[label]) - (word.term in BAGS[1 - label]))
            assert word.reaction.mean == pytest.approx(expected, abs=0.02)
        ranked = found.top_words(name, 30, by="reaction")
        assert {one.term for one in ranked} <= set(BAGS[label]) and len(ranked) >= 13
        assert all(one.reaction.mean == pytest.approx(2.0, abs=0.02) for one in ranked)
        moving = [word.term for word in found.top_words(name, 30, moving=True)]
        assert moving and set(moving) <= set(BAGS[label])


def test_what_was_considered_moves_it_as_its_weights_say(made):
    found, _ = made
    for word, (_, bright) in found.considered.items():
        expected = 2.0 * ((word in BAGS[1]) - (word in BAGS[0]))
        # Of texts of which it is very sure the log-odds are cut.
        assert bright.mean == pytest.approx(expected, abs=0.3), word


def test_words_that_were_considered_are_ranked_by_how_surely_they_moved_it(made):
    found, _ = made
    tops = found.top_words("dull", 500, by="considered")
    assert {one.term for one in tops} <= set(BAGS[0]) and len(tops) >= 13
    lows = [one.considered.low for one in tops]
    assert lows == sorted(lows, reverse=True) and min(lows) > 0
    assert found.sure_effects["dull"][tops[0].term] == lows[0]


def test_words_that_no_text_has_are_found_in_the_vocabulary(made):
    found, _ = made
    bare = replace(found, tried={}, considered={})
    assert not set(BAGS[1]) <= {one.term for one in bare.top_words("bright", 500)}
    swept = bare.with_reactions(bag, k=15, vocabulary=WORDS)
    tops = swept.top_words("bright", 15, by="reaction")
    assert {one.term for one in tops} == set(BAGS[1])
    absent = [one for one in tops if one.term not in found.surrogate.terms]
    assert absent and all(one.weight == 0 and one.texts == 0 for one in absent)


def test_it_is_kept_as_it_was(made):
    found, folder = made
    again = load_explanation(folder)
    assert again.classes == found.classes and again.texts == found.texts
    assert again.tried == found.tried and again.settling == found.settling
    assert again.considered == found.considered and len(found.considered) > 100
    assert again.settings == found.settings
    np.testing.assert_array_equal(again.surrogate.weights, found.surrogate.weights)
    assert again.top_words("bright") == found.top_words("bright")
    assert again.fit == found.fit
    assert json.loads((folder / "explanation.json").read_text())["fit"]["texts"]["dull"] == 24


def test_a_word_that_is_put_into_one_text_has_no_interval_and_is_kept(made, tmp_path):
    found, _ = made
    once = replace(found, tried={}).with_reactions(bag, k=5, uses=1)
    once.save(tmp_path)
    again = load_explanation(tmp_path)
    assert again.tried == once.tried
    assert all(not one.moves for own in again.tried.values() for one in own)
    assert again.top_words("dull", 5)[0].reaction.low == -np.inf
    assert again.top_words("dull", 5, by="reaction") == []


def test_going_on_with_all_there_writes_nothing_and_finds_the_same(made):
    found, folder = made
    before = (folder / "texts.jsonl").read_bytes()
    again = explain(
        model(), bag, classes=CLASSES, out=folder, writing=WRITING, surrogate=QUICK, tried=30,
        black_box=bag, name="bag",
    )  # fmt: skip
    assert (folder / "texts.jsonl").read_bytes() == before
    assert again.top_words("dull") == found.top_words("dull")


def test_two_explanations_are_compared_on_equal_words(made):
    found, _ = made
    same = found.compare(found, k=20)
    assert same["dull"]["shared"] == 1.0 and same["dull"]["spearman"] == pytest.approx(1.0)
    other = explanation_of(
        [row | {"class": CLASSES[1 - CLASSES.index(row["class"])]} for row in rows_of(found)],
        CLASSES,
        QUICK,
    )
    assert found.compare(other, k=20)["dull"]["shared"] < 0.5
    with pytest.raises(UserError, match="the classes differ"):
        found.compare(replace(found, classes=("a", "b")))


def rows_of(found):
    spent = {"seconds": 0.0, "simulations": 1, "model_tokens": 1, "tokens": 12}
    return [
        {"text": text, "class": CLASSES[label], "probabilities": p.tolist(), **spent}
        for text, label, p in zip(found.texts, found.labels, found.probabilities, strict=True)
    ]


def test_a_contrast_is_fitted_to_two_classes_alone(made):
    found, _ = made
    dull, bright = found.contrast("dull", "bright", 5)
    assert {word.term for word in dull} & set(BAGS[0])
    assert {word.term for word in bright} & set(BAGS[1])
    assert not {word.term for word in dull} & {word.term for word in bright}
    with pytest.raises(UserError, match="contrasted with itself"):
        found.contrast("dull", "dull")
    with pytest.raises(UserError, match="there is no class grey"):
        found.contrast("grey", "dull")


def test_importance_weights_are_of_the_distribution_and_have_a_mean_of_one():
    rows = [
        {"text": f"{BAGS[label][n]} x{n}", "class": CLASSES[label], "probabilities": [0.5, 0.5],
         "guided_by": 0.5, "log_prob": -2.0, "log_proposal": -2.0 - n, "log_weight": 0.0,
         "seconds": 0.0, "simulations": 0, "model_tokens": 0, "tokens": 1}
        for label in range(2) for n in range(3)
    ]  # fmt: skip
    quick = SurrogateSettings(bootstrap=0, unseen=0.0, min_count=1)
    found = explanation_of(rows, CLASSES, quick, weighted=True)
    ratios = np.exp(np.arange(3))
    np.testing.assert_allclose(found.sample_weights[:3], 3 * ratios / ratios.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.sample_weights[3:], found.sample_weights[:3], rtol=1e-5)
    size = ratios.sum() ** 2 / (ratios**2).sum()
    assert found.about["effective_sample_size"] == {
        "dull": pytest.approx(size), "bright": pytest.approx(size),
    }  # fmt: skip
    rows[1]["log_proposal"] = None
    with pytest.raises(UserError, match="which then have no weights"):
        explanation_of(rows, CLASSES, quick, weighted=True)


def test_empty_texts_are_left_out_and_counted():
    rows = [
        {"text": text, "class": name, "probabilities": [0.5, 0.5], "seconds": 1.0,
         "simulations": 0, "model_tokens": 0, "tokens": 1}
        for text, name in [("baba", "dull"), (" ", "dull"), ("dada", "bright")]
    ]  # fmt: skip
    quick = SurrogateSettings(bootstrap=0, unseen=0.0, min_count=1)
    found = explanation_of(rows, CLASSES, quick)
    assert found.texts == ("baba", "dada") and found.about["empty"] == 1
    with pytest.raises(UserError, match="no text was written for bright"):
        explanation_of(rows[:2], CLASSES, quick)
    with pytest.raises(UserError, match="no text was written"):
        explanation_of(rows[1:2], CLASSES, quick)


def test_settling_tells_how_many_words_stayed():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    texts = [" ".join(rng.choice(BAGS[label], 3)) for label in labels]
    steps = settling(texts, labels, 2, QUICK, k=5)
    assert [step["texts"] for step in steps] == [12, 25, 50, 100]
    assert steps[0]["shared"] is None and all(0 <= step["shared"] <= 1 for step in steps[1:])
    same = settling(texts[:2] * 40, labels[:80], 2, QUICK, k=3, sizes=(20, 40))
    assert same[1]["shared"] == 1.0


def test_of_few_texts_a_term_need_not_stand_in_many():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    texts = [" ".join(rng.choice(BAGS[label][:6], 3)) for label in labels]
    steps = settling(texts, labels, 2, replace(QUICK, min_count=30), k=5)
    assert steps[-1]["shared"] is not None
    none = settling(texts, labels, 2, replace(QUICK, min_count=5000), k=5)
    assert {step["shared"] for step in none} == {None}


def test_counts_are_of_all_texts_and_the_cost_is_of_empty_ones_too():
    texts = ["baba dada"] * 20 + ["baba fafa"] * 20 + [" "]
    rows = [
        {"text": text, "class": CLASSES[number >= 20], "probabilities": [0.5, 0.5],
         "seconds": 1.0, "simulations": 0, "model_tokens": 0, "tokens": 2}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    found = explanation_of(rows, CLASSES, QUICK)
    counts = dict(zip(found.surrogate.terms, found.surrogate.counts.T.tolist(), strict=True))
    assert counts == {"baba": [20, 20], "dada": [20, 0], "fafa": [0, 20]}
    assert found.about["seconds"] == 41.0 and found.about["empty"] == 1


def test_it_stops_where_the_words_have_settled(tmp_path):
    settings = replace(WRITING, texts=200, batch=20)
    found = explain(
        model(), bag, classes=CLASSES, out=tmp_path, writing=settings, surrogate=QUICK, tried=0,
        settled=0.1, black_box=bag,
    )  # fmt: skip
    assert found.fit["texts"] == {"dull": 40, "bright": 40}


def test_classes_belong_to_functions_alone():
    guide = cg.host_function(bag, classes=CLASSES, tokenizer=model().tokenizer)
    with pytest.raises(UserError, match="names its classes itself"):
        explain(model(), guide, classes=("a", "b"), writing=WRITING)


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "holds no explanation"), ("{", "is damaged"), ("{}", "no explanation of this version")],
)
def test_what_is_no_explanation_is_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "explanation.json").write_text(content)
    with pytest.raises(UserError, match=told):
        load_explanation(tmp_path)
