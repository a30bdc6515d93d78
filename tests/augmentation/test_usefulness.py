"""What written texts are worth: figures against scikit-learn, draws, and cases with known ends."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef, roc_auc_score

from coopgen_jax.augmentation.leakage import auc_of, leakage
from coopgen_jax.augmentation.usefulness import (
    as_many,
    bag_of_words,
    drawn,
    figures_of,
    usefulness,
)
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.errors import UserError

CLASSES = ("bad", "good")
SAID = {0: ("dull", "poor", "weak", "slow"), 1: ("fine", "warm", "bright", "quick")}
THINGS = ("film", "phone", "book", "song", "lamp", "boat")


def texts(seed, count, *, known=4, extra="", flip=False):
    """Returns `count` texts of each class, whose class shows in one of the `known` first words."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for label in (0, 1):
        for _ in range(count):
            word = SAID[1 - label if flip else label][rng.integers(known)]
            rows.append(f"the {rng.choice(THINGS)} was {word} {extra}".strip())
            labels.append(label)
    return Labelled(tuple(rows), np.array(labels, np.int32), CLASSES)


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_are_those_of_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    for _ in range(5):
        true, said = rng.integers(classes, size=(2, 60))
        labels = range(classes)
        confusion = confusion_matrix(true, said, labels=labels)
        assert figures_of(confusion) == pytest.approx(
            [
                f1_score(true, said, average="micro", labels=labels),
                f1_score(true, said, average="macro", labels=labels),
                matthews_corrcoef(true, said),
            ]
        )
    assert figures_of(np.array([[3, 0], [2, 0]])).tolist() == pytest.approx([0.6, 0.375, 0.0])


def test_shares_are_drawn_from_every_class():
    data, rng = texts(0, 10), np.random.default_rng(0)
    some = drawn(data, 0.3, rng)
    assert np.bincount(some.labels).tolist() == [3, 3] and set(some.texts) <= set(data.texts)
    assert np.bincount(drawn(data, 0.01, rng).labels).tolist() == [1, 1]
    assert drawn(data, 1.0, rng).texts == data.texts
    assert np.bincount(as_many(data, some, rng).labels).tolist() == [3, 3]
    assert len(as_many(some, data, rng).texts) == 6


def test_texts_with_new_words_help_and_texts_of_wrong_classes_hurt():
    # Originals show two words of each class, written texts and test texts all four.
    originals, test = texts(1, 8, known=2), texts(2, 30)
    names = []
    rows = usefulness(
        originals, texts(3, 20), test, shares=(0.5, 1.0), seeds=3, listener=names.append
    )
    assert [(row["training"], row["share"], row["texts"]) for row in rows] == [
        ("originals", 0.5, 8.0), ("both", 0.5, 48.0),
        ("originals", 1.0, 16.0), ("both", 1.0, 56.0), ("synthetic", None, 16.0),
    ]  # fmt: skip
    assert names == [
        "originals, 50%", "both, 50%", "originals, 100%", "both, 100%", "synthetic",
    ]  # fmt: skip
    both = rows[3]
    right = bag_of_words(originals, test.texts) == test.labels
    assert rows[2]["micro_f1"]["value"] == pytest.approx(right.mean())
    assert both["macro_f1"]["value"] == 1.0 and both["gain"]["macro_f1"]["interval"][0] > 0.1
    gain = both["macro_f1"]["value"] - rows[2]["macro_f1"]["value"]
    assert both["gain"]["macro_f1"]["value"] == pytest.approx(gain)
    assert rows[0]["gain"] is None
    low, high = rows[2]["mcc"]["interval"]
    assert low < rows[2]["mcc"]["value"] < high
    wrong = usefulness(originals, texts(3, 30, flip=True), test, shares=(1.0,), seeds=2)
    assert wrong[-1]["mcc"]["value"] < -0.5 and wrong[-1]["gain"]["mcc"]["interval"][1] < 0


def test_the_interval_of_one_seed_is_that_of_a_bootstrap_of_the_test_texts():
    data, test = texts(1, 8, known=2), texts(2, 30)
    (row, *_) = usefulness(data, data, test, shares=(1.0,), seeds=1)
    right = (bag_of_words(data, test.texts) == test.labels).astype(float)
    rng = np.random.default_rng(9)
    means = [rng.choice(right, len(right)).mean() for _ in range(4000)]
    assert row["micro_f1"]["interval"] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"shares": (0.0,)}, "shares has 0.0"),
        ({"synthetic": Labelled(("a",), np.int32([0]), CLASSES)}, "the synthetic texts have none"),
        ({"originals": Labelled(("a b", "c d"), np.int32([0, 1]), CLASSES)}, "too few words"),
    ],
)
def test_what_cannot_be_compared_is_told(change, told):
    given = {"originals": texts(0, 4), "synthetic": texts(1, 4), "test": texts(2, 4), **change}
    with pytest.raises(UserError, match=told):
        usefulness(**given)


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    real, made = rng.integers(0, 9, 30), rng.integers(3, 12, 20)
    truth = np.repeat([0, 1], [30, 20])
    by_hand = np.mean((made[:, None] > real) + 0.5 * (made[:, None] == real))
    assert auc_of(real, made) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(roc_auc_score(truth, np.concatenate([real, made])))


def test_a_detector_finds_what_gives_texts_away_and_no_more():
    real, alike, marked = texts(4, 40), texts(5, 40), texts(6, 40, extra="indeed")
    found = leakage(real, marked)
    assert found["all"]["auc"] > 0.99 and found["difference"] < 0.01
    assert (found["all"]["real"], found["classes"]["bad"]["made"]) == (80, 40)
    even = leakage(real, alike)
    for row in (even["all"], *even["classes"].values()):
        assert 0.25 < row["auc"] < 0.75 and row["interval"][0] < row["auc"] < row["interval"][1]
    half = Labelled(
        tuple(marked.texts[:40]) + tuple(alike.texts[40:]), marked.labels, CLASSES
    )  # fmt: skip
    told = leakage(real, half)
    assert told["classes"]["bad"]["auc"] > 0.99 > 0.8 > told["classes"]["good"]["auc"]
    assert told["difference"] > 0.2
    with pytest.raises(UserError, match=r"the class bad has too few written texts \(1\)"):
        leakage(real, texts(1, 1))
