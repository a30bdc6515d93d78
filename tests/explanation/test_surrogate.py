"""The linear model whose weights are the explanation."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.surrogate import SurrogateSettings, fit_surrogate

WORDS = ("red", "green", "blue", "tree", "house", "stone", "water", "paper")
SETTINGS = SurrogateSettings(bootstrap=20, unseen=0.2)


def texts_of(classes, count, seed=0):
    """Texts of four words, of which one is its class's word in two texts of three."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for number in range(count):
        label = number % classes
        words = rng.choice(WORDS[3:], 3).tolist()
        words.append(WORDS[label] if rng.random() < 2 / 3 else WORDS[int(rng.integers(3))])
        texts.append(" ".join(words))
        labels.append(label)
    return texts, np.array(labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_words_of_a_class_weigh_most_and_their_intervals_are_above_nothing(classes):
    texts, labels = texts_of(classes, 240)
    found = fit_surrogate(texts, labels, classes, SETTINGS)
    for label in range(classes):
        best = int(found.weights[label].argmax())
        assert found.terms[best] == WORDS[label]
        assert 0 < found.low[label, best] <= found.weights[label, best] <= found.high[label, best]
    other = found.terms.index("stone")
    assert (found.low[:, other] < 0).all() and (found.high[:, other] > 0).all()
    assert found.accuracy is not None and found.accuracy > 1.4 / classes


def test_it_is_the_regression_of_scikit_learn_on_the_texts_that_it_sees():
    texts, labels = texts_of(3, 60)
    found = fit_surrogate(texts, labels, 3, SurrogateSettings(unseen=0.0, bootstrap=0))
    inputs = TfidfVectorizer(min_df=2).fit_transform(texts)
    fitted = LogisticRegression(max_iter=1000).fit(inputs, labels)
    np.testing.assert_allclose(found.weights, fitted.coef_, atol=1e-8)
    assert found.accuracy is None and np.isnan(found.low).all()
    counts = [[sum(w in t.split() for t in np.array(texts)[labels == c]) for w in found.terms]
              for c in range(3)]  # fmt: skip
    np.testing.assert_array_equal(found.counts, counts)


def test_of_two_classes_the_weights_are_opposite():
    found = fit_surrogate(*texts_of(2, 60), 2, SETTINGS)
    np.testing.assert_allclose(found.weights[0], -found.weights[1])
    np.testing.assert_allclose(found.low[0], -found.high[1])


def test_weights_of_texts_count_as_texts_that_stand_there_so_often():
    texts, labels = texts_of(2, 40)
    times = np.random.default_rng(1).integers(1, 4, 40)
    quick = SurrogateSettings(unseen=0.0, bootstrap=0)
    weighted = fit_surrogate(texts, labels, 2, quick, sample_weights=times)
    # Document frequencies are of texts as they are, so that only the regression sees the weights.
    even = fit_surrogate(texts, labels, 2, quick)
    assert np.abs(weighted.weights - even.weights).max() > 0.05
    inputs = TfidfVectorizer(min_df=2).fit_transform(texts).toarray()
    repeated = LogisticRegression(max_iter=1000).fit(
        np.repeat(inputs, times, axis=0), np.repeat(labels, times)
    )
    np.testing.assert_allclose(weighted.weights[1], repeated.coef_[0], atol=1e-3)


def test_the_same_seed_gives_the_same_split_and_intervals():
    texts, labels = texts_of(2, 60)
    one, same, other = (
        fit_surrogate(texts, labels, 2, SurrogateSettings(bootstrap=5, seed=seed))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one.low, same.low)
    assert one.terms != other.terms or (one.low != other.low).any()


@pytest.mark.parametrize(
    ("texts", "labels", "told"),
    [
        (["red tree", "red tree"], [0, 0], "class number 1 has no text"),
        (["red", "blue"], [0, 1], "no word stands in 2 of 2 texts"),
        (["the", "of"], [0, 1], "no word stands"),
    ],
)
def test_too_little_is_told(texts, labels, told):
    with pytest.raises(UserError, match=told):
        fit_surrogate(texts, np.array(labels), 2, SurrogateSettings(unseen=0.0))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ngrams": 0}, "ngrams is 0"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"unseen": 1.0}, "unseen is 1.0"),
    ],
)
def test_settings_out_of_range_are_told(change, told):
    with pytest.raises(UserError, match=told):
        SurrogateSettings(**change)
