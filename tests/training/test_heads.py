"""Fitting a head, its report, and what is written and read back."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.training.card import save_head
from coopgen_jax.training.heads import FitConfig, accuracy, accuracy_by_length, fit_head

HEAD = HeadConfig(("no", "yes"), inputs=3, hidden=(8,), dropout=0.1)
FIT = FitConfig(epochs=15, batch=50, learning_rate=1e-2, seed=3)


def problem(seed, count=600):
    """The second feature decides, on a scale and around a centre that want standardising."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    labels = (features[:, 1] > 0).astype(np.int32)
    return features * np.float32([1, 100, 1]) + np.float32([0, 5000, 0]), labels


@pytest.fixture(scope="module")
def fitted():
    return fit_head(HEAD, problem(0), problem(1, 200), FIT)


def test_learns_what_can_be_learnt_and_repeats(fitted):
    params, loss = fitted
    features, labels = problem(2)
    assert accuracy(HEAD, params, features, labels) > 0.95
    assert accuracy(HEAD, params, features, 1 - labels) < 0.05
    again, again_loss = fit_head(HEAD, problem(0), problem(1, 200), FIT)
    assert loss == again_loss
    np.testing.assert_array_equal(params["output"]["kernel"], again["output"]["kernel"])


def test_the_reported_loss_is_that_of_the_parameters_kept(fitted):
    params, loss = fitted
    features, labels = problem(1, 200)
    log_class = np.asarray(classify(HEAD, params, jnp.asarray(features)))
    assert loss == pytest.approx(-log_class[np.arange(200), labels].mean(), abs=1e-5)


def test_the_inputs_are_standardised_by_the_training_features(fitted):
    params, _ = fitted
    features, _ = problem(0)
    np.testing.assert_allclose(params["centre"], features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(params["scale"], 1 / features.std(0), rtol=1e-5)


def test_stops_early_where_nothing_gets_better():
    features, labels = problem(0)
    wrong = (features[:50], 1 - labels[:50])
    slow = FitConfig(epochs=40, patience=1, batch=50, learning_rate=1e-2)
    params, loss = fit_head(HEAD, (features, labels), wrong, slow)
    # What it learns is wrong on the validation rows: the first epoch is kept.
    first, first_loss = fit_head(
        HEAD,
        (features, labels),
        wrong,
        FitConfig(epochs=40, patience=2, batch=50, learning_rate=1e-2),
    )
    assert loss == first_loss
    np.testing.assert_array_equal(params["output"]["bias"], first["output"]["bias"])


def test_accuracy_by_length_counts_the_texts_that_are_long_enough(fitted):
    params, _ = fitted
    centre = problem(0)[0].mean(0)
    data = Labelled(("up", "up down", "down down up"), np.array([1, 0, 1]), ("no", "yes"))

    def features(texts):
        """The last word decides."""
        shift = np.array([300 if text.endswith("up") else -300 for text in texts])
        return centre[None] + shift[:, None] * np.float32([[0, 1, 0]])

    report = accuracy_by_length(HEAD, params, features, data, (1, 2, 3, 4))
    # One word: up, up, down of 1, 0, 1. Two: "up down" 0, "down down" 1. Three: the last alone.
    assert report == {"1": pytest.approx(1 / 3), "2": 0.5, "3": 1.0, "whole": 1.0}


def test_what_is_written(fitted, tmp_path):
    params, _ = fitted
    card = {"kind": "test", "classes": ["no", "yes"], "accuracy": {"set": {"2": 0.5, "whole": 1}}}
    save_head(tmp_path / "head", params, card)
    assert json.loads((tmp_path / "head" / "card.json").read_text()) == card
    stored = load_file(tmp_path / "head" / "head.safetensors")
    assert set(stored) == {
        "centre", "scale", "hidden_0.kernel", "hidden_0.bias", "output.kernel", "output.bias",
    }  # fmt: skip
    assert stored["output.kernel"].dtype == np.float16
    # Half precision would move a centre of 5000 by more than what is measured around it.
    np.testing.assert_array_equal(stored["centre"], params["centre"])
    np.testing.assert_allclose(stored["output.kernel"], params["output"]["kernel"], rtol=1e-3)
    page = (tmp_path / "head" / "card.md").read_text()
    assert "| 2 | whole |" in page
    assert "| 0.500 | 1.000 |" in page
