"""LIME and KernelSHAP against their packages, and against Shapley values by definition."""

import warnings
from itertools import permutations

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.local import (
    kernel_shap,
    lime,
    lime_masks,
    lime_values,
    over_texts,
    shap_masks,
    shap_values,
    split_text,
    split_words,
)

TEXTS = (
    "a fine film with a fine end",
    "The plot is dull, dull and long.",
    "good",
    "not good at all",
    "Well made; well acted -- and too long?",
    "I would see it again tomorrow",
    "one two three four five six seven eight",
    "rain, sun, rain, wind and more rain",
    "short and good",
    "the end was not what the start had promised us",
)
WEIGHTS = {"fine": 1.5, "good": 2.0, "well": 0.7, "dull": -2.0, "long": -1.0, "not": -1.5}


def box(texts):
    """Not linear: "not" turns "good" round."""
    score = []
    for text in texts:
        words = text.lower().replace(",", " ").replace(".", " ").replace(";", " ").split()
        value = sum(WEIGHTS.get(word, 0.05 * len(word)) for word in words)
        score.append(value - (4.0 if {"not", "good"} <= set(words) else 0.0))
    p = 1 / (1 + np.exp(-np.array(score)))
    return np.stack([1 - p, p], axis=-1)


@pytest.fixture(scope="module")
def packages():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lime.lime_base
        import lime.lime_text
        import shap
    return lime, shap


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_split_as_lime_splits_it(packages, text):
    theirs = packages[0].lime_text.IndexedString(text, bow=True)
    ours = split_text(text)
    assert [theirs.word(place) for place in range(theirs.num_words())] == list(ours.words)
    rng = np.random.default_rng(0)
    for _ in range(5):
        kept = rng.integers(0, 2, len(ours.words))
        gone = np.flatnonzero(kept == 0).tolist()
        assert ours.without(kept) == theirs.inverse_removing(gone)


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "good"])
def test_of_the_same_masks_lime_finds_what_its_package_finds(packages, text):
    ours = split_text(text)
    masks = lime_masks(len(ours.words), 200, np.random.default_rng(1))
    said = box([ours.without(row) for row in masks])
    norms = np.linalg.norm(masks, axis=1) * np.linalg.norm(masks[0])
    distances = 100 * (1 - np.divide(masks @ masks[0], norms, out=np.zeros(200), where=norms > 0))

    def kernel(distance):
        return np.sqrt(np.exp(-(distance**2) / 25**2))

    base = packages[0].lime_base.LimeBase(kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, found, _, _ = base.explain_instance_with_data(
            masks, said, distances, 1, len(ours.words), feature_selection="none"
        )
    theirs = np.array([weight for _, weight in sorted(found)])
    np.testing.assert_allclose(lime_values(masks, said)[:, 1], theirs, atol=1e-6)


def test_limes_masks_keep_the_text_itself_and_any_number_of_words():
    masks = lime_masks(5, 4000, np.random.default_rng(0))
    assert masks[0].tolist() == [1] * 5
    gone = (5 - masks[1:].sum(axis=1)).astype(int)
    np.testing.assert_allclose(np.bincount(gone, minlength=6)[1:] / 3999, 0.2, atol=0.03)
    np.testing.assert_allclose(masks[1:].mean(axis=0), 0.4, atol=0.03)


def shapley(text):
    """The mean gain of a word over all orders in which words can come."""
    split = split_text(text)
    count = len(split.words)
    found = np.zeros((count, 2))
    orders = list(permutations(range(count)))
    for order in orders:
        kept, before = np.zeros(count), box([split.without(np.zeros(count))])[0]
        for place in order:
            kept[place] = 1
            after = box([split.without(kept)])[0]
            found[place] += (after - before) / len(orders)
            before = after
    return found


@pytest.mark.parametrize("text", [TEXTS[number] for number in (0, 2, 3, 8)])
def test_of_short_texts_shapley_values_are_exact(text):
    words, values = kernel_shap(box, text)
    assert words == split_text(text).words
    np.testing.assert_allclose(values, shapley(text), atol=1e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_kernel_shap_finds_what_its_package_finds(packages, text):
    split = split_text(text)
    count = len(split.words)

    def of_masks(masks):
        return box([split.without(row) for row in masks])[:, 1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explainer = packages[1].KernelExplainer(of_masks, np.zeros((1, count)))
        theirs = explainer.shap_values(
            np.ones((1, count)), nsamples=4096, l1_reg=False, silent=True
        )[0]
    words, values = kernel_shap(box, text, samples=4096)
    assert len(words) == count
    np.testing.assert_allclose(values[:, 1], theirs, atol=1e-6)
    if count > 1:  # of a single word the package makes no masks
        masks, weights = explainer.maskMatrix, explainer.kernelWeights
        rows = np.asarray(masks)[: explainer.nsamplesAdded]
        said = box([split.without(row) for row in rows])
        ends = box([split.without(np.full(count, keep)) for keep in (0, 1)])
        again = shap_values(rows, np.asarray(weights)[: len(rows)], said, ends[0], ends[1])
        np.testing.assert_allclose(again[:, 1], theirs, atol=1e-6)


def test_where_subsets_are_drawn_the_values_are_near_and_add_up():
    text = TEXTS[9]
    exact, (_, drawn) = kernel_shap(box, text, samples=4096)[1], kernel_shap(box, text, samples=400)
    assert len(split_text(text).words) == 9
    _, rough = kernel_shap(box, text, samples=300, seed=3)
    for values in (drawn, rough):
        np.testing.assert_allclose(values, exact, atol=0.02)
        full = box([text])[0] - box([split_text(text).without(np.zeros(9))])[0]
        np.testing.assert_allclose(values.sum(axis=0), full, atol=1e-9)


def test_subsets_are_all_there_or_drawn_by_the_kernel():
    masks, weights = shap_masks(4, 14, np.random.default_rng(0))
    assert len({tuple(row) for row in masks.tolist()}) == 14
    sizes = masks.sum(axis=1)
    np.testing.assert_allclose(weights[sizes == 1], 3 / (4 * 1 * 3))
    np.testing.assert_allclose(weights[sizes == 2], 3 / (6 * 2 * 2))
    masks, weights = shap_masks(12, 2000, np.random.default_rng(0))
    by_size = [weights[masks.sum(axis=1) == size].sum() for size in range(1, 12)]
    kernel = np.array([11 / (size * (12 - size)) for size in range(1, 12)])
    np.testing.assert_allclose(by_size, kernel / kernel.sum(), atol=0.03)
    np.testing.assert_allclose(by_size, by_size[::-1]), "a subset goes with its complement"


@pytest.mark.parametrize("local", ["lime", "shap"])
def test_over_texts_a_word_weighs_the_mean_of_its_local_weights(local):
    texts = ["Good film", "good end", "...", "dull film"]
    found = over_texts(local, box, texts, samples=50, seed=4)
    method = {"lime": lime, "shap": kernel_shap}[local]
    one = method(box, texts[0], samples=50, seed=4)[1]
    two = method(box, texts[1], samples=50, seed=5)[1]
    assert found[1]["good"] == pytest.approx((one[0, 1] + two[0, 1]) / 2)
    assert found[0].keys() == {"good", "film", "end", "dull"}
    assert found[1]["good"] > 0 > found[1]["dull"]


@pytest.mark.parametrize("local", ["lime", "shap"])
def test_over_texts_words_are_those_of_other_explanations(local):
    def contracted(texts):
        p = np.array([0.9 if "don't" in text.lower() else 0.2 for text in texts])
        return np.stack([1 - p, p], axis=-1)

    found = over_texts(local, contracted, ["I Don't like it", "we saw 3 of them"], samples=60)
    assert "don't" in found[1] and not {"don", "t", "3"} & found[1].keys()
    assert max(found[1], key=found[1].__getitem__) == "don't"
    assert split_words("I don't, 3!").words == ("I", "don't")
    assert "".join(split_words("I don't, 3!").parts) == "I don't, 3!"
    with pytest.raises(UserError, match="no text has a word"):
        over_texts(local, contracted, ["...", "3"])


@pytest.mark.parametrize("method", [lime, kernel_shap])
@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples_are_told(method, samples):
    with pytest.raises(UserError, match=f"samples is {samples}"):
        method(box, "a fine film", samples=samples)


@pytest.mark.parametrize("method", [lime, kernel_shap])
def test_a_text_without_a_word_is_told(method):
    with pytest.raises(UserError, match="has no word"):
        method(box, "... !")
