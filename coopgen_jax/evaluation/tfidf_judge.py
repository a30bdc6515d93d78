"""A judge: a classifier of texts that shares neither data nor features with a guide.

Logistic regression on tf-idf of words and pairs of words, and on a sentence encoder's mean state
where there is an encoder of the texts' language. It reads strings, so it can judge any decoder's
continuation alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix, hstack
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from coopgen_jax.data.fingerprint import (
    common_half,
    fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder, load_encoder

# A unit vector of the encoder against a unit vector of tf-idf.
ENCODER_WEIGHT = 3.0
LONGEST = 128


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained judge.

    Attributes:
      classes: names of the `C` classes.
      vectorizer: texts to tf-idf `[n, F]`.
      encoder: the sentence encoder, of width `E`; None for none, and `E` is 0.
      weights: `[C, F + E]`.
      bias: `[C]`.
      rows: the fingerprint of the texts that it was trained on, None where it is unknown.
      half: the half of the training rows that they all belong to, or None.
    """

    classes: tuple[str, ...]
    vectorizer: TfidfVectorizer
    encoder: LoadedEncoder | None
    weights: np.ndarray
    bias: np.ndarray
    rows: np.ndarray | None = None
    half: str | None = None

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`; of an empty text the rest decides."""
        inputs = _inputs(self.vectorizer, self.encoder, texts)
        return softmax(inputs @ self.weights.T + self.bias, axis=1)

    def save(self, folder: Path) -> None:
        """Writes the judge into a folder, which is made; the encoder is named, not copied."""
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = self.vectorizer.vocabulary_
        terms = sorted(vocabulary, key=vocabulary.__getitem__)
        card = {
            "classes": self.classes,
            "encoder": None if self.encoder is None else "minilm-l6",
            **({} if self.half is None else {"half": self.half}),
            "terms": terms,
        }
        if self.rows is not None:
            write_fingerprint(folder, self.rows)
        text = json.dumps(card, ensure_ascii=False, indent=0) + "\n"
        (folder / "judge.json").write_text(text, encoding="utf-8")
        arrays = {"weights": self.weights, "bias": self.bias, "idf": self.vectorizer.idf_}
        save_file(
            {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()},
            folder / "judge.safetensors",
        )


def _vectorizer(**settings: Any) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **settings)


def _inputs(
    vectorizer: TfidfVectorizer, encoder: LoadedEncoder | None, texts: Sequence[str]
) -> csr_matrix:
    words = vectorizer.transform(texts)
    if encoder is None:
        return words.tocsr()
    states = sentence_features(encoder, texts, longest=LONGEST)
    length = np.linalg.norm(states, axis=1, keepdims=True)
    states = ENCODER_WEIGHT * states / np.maximum(length, 1e-9)
    return hstack([words, csr_matrix(states)]).tocsr()


def fit_judge(data: Labelled, encoder: LoadedEncoder | None, *, strength: float = 3.0) -> Judge:
    """Fits a judge to labelled texts, of words alone where there is no encoder.

    `strength` is the inverse of the L2 penalty.
    """
    vectorizer = _vectorizer(min_df=2).fit(data.texts)
    inputs = _inputs(vectorizer, encoder, data.texts)
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(inputs, data.labels)
    weights, bias = fitted.coef_, fitted.intercept_
    if len(data.classes) == 2:
        # Of two classes the library fits the log-odds of the second.
        weights, bias = np.stack([-weights[0], weights[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
    rows = fingerprint(data.origins), common_half(data.origins)
    return Judge(data.classes, vectorizer, encoder, weights, bias, *rows)


def load_judge(folder: str | Path) -> Judge:
    """Loads a judge that `Judge.save` wrote; raises UserError where the folder holds none."""
    folder = Path(folder)
    try:
        card = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
        arrays = load_file(folder / "judge.safetensors")
        vocabulary = {term: number for number, term in enumerate(card["terms"])}
        vectorizer = _vectorizer(vocabulary=vocabulary)
        vectorizer.idf_ = arrays["idf"].astype(float)
        name, rows, half = card["encoder"], read_fingerprint(folder), card.get("half")
        classes, weights, bias = tuple(card["classes"]), arrays["weights"], arrays["bias"]
    except UserError:
        raise
    except (AttributeError, KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{folder} holds no judge: train one with train_judge.py") from error
    encoder = None if name is None else load_encoder(name)
    return Judge(classes, vectorizer, encoder, weights, bias, rows, half)
