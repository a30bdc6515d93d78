"""The judge: what it learns, what it keeps, and its arithmetic against the library that fits it."""

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.data.labelled import Labelled, half
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation import tfidf_judge as judging
from coopgen_jax.evaluation.tfidf_judge import fit_judge, load_judge


def texts_of(words, *, classes, count=40, seed=0):
    """Texts of random letters, each holding the word of its class twice."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(classes)
    texts = []
    for label in labels:
        text = [*rng.choice(["ab", "ac", "bc"], 4), words[label], words[label]]
        texts.append(" ".join(rng.permutation(text)))
    return Labelled(tuple(texts), labels.astype(np.int32), classes)


TWO = {"words": ("bad", "good"), "classes": ("negative", "positive")}
THREE = {"words": ("war", "ball", "bank"), "classes": ("world", "sport", "business")}


@pytest.mark.parametrize("kind", [TWO, THREE])
def test_judges_texts_that_it_has_not_seen(tiny_encoder, kind):
    judge = fit_judge(texts_of(**kind), tiny_encoder)
    others = texts_of(**kind, seed=1)
    found = judge.predict_proba(others.texts)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
    assert (found.argmax(axis=1) == others.labels).all()
    assert found.shape == (len(others.texts), len(kind["classes"]))


def test_two_classes_are_the_fitted_log_odds(tiny_encoder, monkeypatch):
    fitted = []

    class Spy(LogisticRegression):
        def fit(self, inputs, labels):
            fitted.append((super().fit(inputs, labels), inputs))
            return self

    monkeypatch.setattr(judging, "LogisticRegression", Spy)
    data = texts_of(**TWO)
    judge = fit_judge(data, tiny_encoder)
    model, inputs = fitted[0]
    expected = expit(model.decision_function(inputs))
    np.testing.assert_allclose(judge.predict_proba(data.texts)[:, 1], expected, rtol=1e-5)


def test_a_text_without_a_known_word_is_read_by_the_encoder_alone(tiny_encoder):
    judge = fit_judge(texts_of(**TWO), tiny_encoder)
    found = judge.predict_proba(["", "zzz"])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("kind", [TWO, THREE])
def test_comes_back_from_its_folder(tiny_encoder, kind, tmp_path, monkeypatch):
    judge = fit_judge(texts_of(**kind), tiny_encoder)
    judge.save(tmp_path / "new" / "judge")
    asked = []
    monkeypatch.setattr(judging, "load_encoder", lambda name: asked.append(name) or tiny_encoder)
    again = load_judge(tmp_path / "new" / "judge")
    assert asked == ["minilm-l6"]
    assert again.classes == kind["classes"]
    np.testing.assert_array_equal(again.rows, fingerprint(texts_of(**kind).texts))
    assert again.half is None
    texts = [*texts_of(**kind, seed=2).texts, ""]
    np.testing.assert_allclose(again.predict_proba(texts), judge.predict_proba(texts), rtol=1e-4)


@pytest.mark.parametrize("kind", [TWO, THREE])
def test_words_alone_judge_where_there_is_no_encoder(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "load_encoder", lambda name: pytest.fail("no encoder is wanted"))
    judge = fit_judge(texts_of(**kind), None)
    assert judge.weights.shape == (len(kind["classes"]), len(judge.vectorizer.vocabulary_))
    judge.save(tmp_path)
    again, others = load_judge(tmp_path), texts_of(**kind, seed=1)
    found = again.predict_proba([*others.texts, ""])
    assert (found[:-1].argmax(axis=1) == others.labels).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(found, judge.predict_proba([*others.texts, ""]), rtol=1e-4)


def test_a_judge_of_one_half_says_so(tiny_encoder, tmp_path, monkeypatch):
    judge = fit_judge(half(texts_of(**TWO), "B"), tiny_encoder)
    judge.save(tmp_path)
    monkeypatch.setattr(judging, "load_encoder", lambda name: tiny_encoder)
    assert judge.half == load_judge(tmp_path).half == "B"


def test_a_folder_without_a_judge_is_told(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "load_encoder", lambda name: tiny_encoder)
    with pytest.raises(UserError, match="holds no judge"):
        load_judge(tmp_path)
    fit_judge(texts_of(**TWO), tiny_encoder).save(tmp_path)
    card = json.loads((tmp_path / "judge.json").read_text())
    (tmp_path / "judge.json").write_text(json.dumps({"classes": card["classes"]}))
    with pytest.raises(UserError, match="holds no judge"):
        load_judge(tmp_path)
