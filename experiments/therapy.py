"""Explaining classifiers whose weights are known, by what is written under them (Therapy).

    python -m experiments.therapy --data FOLDER --work FOLDER --out experiments/results

The evaluation of Chaffin and Delaunay (BlackboxNLP 2023). A logistic regression on tf-idf of words
is used as a black box, and explanations are compared with its weights: Therapy, which has no data;
LIME and KernelSHAP on texts that the classifier is for, and on texts of the other set. Texts are
kept in `work`, and an interrupted run goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import coopgen_jax as cg
from coopgen_jax.data.labelled import Labelled, read_labelled
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.explanation.class_texts import Progress, WritingSettings, write_texts
from coopgen_jax.explanation.explain import explanation_of
from coopgen_jax.explanation.explained import Explanation
from coopgen_jax.explanation.local import over_texts
from coopgen_jax.explanation.reaction import strongest
from coopgen_jax.explanation.surrogate import SurrogateSettings
from coopgen_jax.explanation.token_effects import effects_of_words, kept_effects, words_in
from coopgen_jax.explanation.trial import (
    agreement,
    changed_by_deletion,
    changed_by_insertion,
    precision_recall,
)
from coopgen_jax.files import strict, write_json
from experiments.therapy_figures import draw

SETS = {
    "amazon_reviews": ("negative", "positive"),
    "ag_news": ("world", "sports", "business", "scitech"),
}
SIZES = (50, 100, 200)
LENGTHS = (10, 20, 50, 100, 200)
MOVES = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Config:
    """What to explain.

    Attributes:
      data: A folder with a folder per data set, each with train.csv and validation.csv.
      work: Folder for texts; an interrupted run goes on with what it holds.
      out: Folder for the results.
      sets: Data sets whose classifiers are explained.
      temperature: As in `coopgen explain`.
      texts: Texts of each class.
      new_tokens: Tokens of each.
      batch_size: Texts written at once.
      rows: Texts that LIME and KernelSHAP explain, and that words are moved in.
      samples: What they ask for each.
      tried: Words of each class that are put into texts: so many of the heaviest, and so many that
        moved the classifier most where they were considered.
      uses: Texts that each of them is put into.
      dtype: Of the language model.
      seed: Seed of everything random.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    sets: tuple[str, ...] = tuple(SETS)
    temperature: float = 4.0
    texts: int = 300
    new_tokens: int = 40
    batch_size: int = 50
    rows: int = 200
    samples: int = 300
    tried: int = 300
    uses: int = 60
    dtype: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class GlassBox:
    """A classifier whose weights are known.

    Attributes:
      classes: The names of the `C` classes.
      judge: From `n` texts to p(class | text) `[n, C]`.
      weights: The weights of all words, for each class.
      accuracy: On validation texts.
    """

    classes: tuple[str, ...]
    judge: Callable[[list[str]], np.ndarray]
    weights: list[dict[str, float]]
    accuracy: float


def glass_box(training: Labelled, validation: Labelled) -> GlassBox:
    """Fits a logistic regression on tf-idf of words, with scikit-learn's own words."""
    vectorizer = TfidfVectorizer(min_df=2)
    fitted = LogisticRegression(C=10.0, max_iter=2000).fit(
        vectorizer.fit_transform(training.texts), training.labels
    )
    rows = np.concatenate([-fitted.coef_, fitted.coef_]) if len(fitted.coef_) == 1 else fitted.coef_
    terms = vectorizer.get_feature_names_out().tolist()

    def judge(texts: list[str]) -> np.ndarray:
        return fitted.predict_proba(vectorizer.transform(texts))

    said = judge(list(validation.texts)).argmax(axis=1)
    accuracy = float((said == validation.labels).mean())
    weights = [dict(zip(terms, row, strict=True)) for row in rows.tolist()]
    return GlassBox(training.classes, judge, weights, accuracy)


@dataclass(frozen=True)
class Explained:
    """What written texts say of a classifier.

    Attributes:
      found: The explanation; words of its texts and words that were considered are tried.
      swept: The same with the words tried that the vocabulary of the language model has.
      seconds: What both took.
    """

    found: Explanation
    swept: Explanation
    seconds: tuple[float, float]


def explained(
    config: Config, model: cg.LoadedModel, box: GlassBox, name: str, texts: int
) -> Explained:
    """Returns the explanation that written texts give."""
    writing = WritingSettings(
        texts=texts,
        temperature=config.temperature,
        new_tokens=config.new_tokens,
        batch=min(config.batch_size, texts),
        seed=config.seed,
    )
    guide = host_function(box.judge, classes=box.classes, tokenizer=model.tokenizer)

    def show(progress: Progress) -> None:
        print(f"{name}: {progress.done} of {progress.total}, {progress.seconds:.0f} s", flush=True)

    rows = write_texts(model, guide, config.work / name, writing, guide_name=name, listener=show)
    start = time.perf_counter()
    effects = kept_effects(config.work / name, 1 + rows[-1]["batch"])
    found = replace(
        explanation_of(rows, box.classes, SurrogateSettings(seed=config.seed)),
        considered=effects_of_words(effects, model.tokenizer),
    )
    trying: dict[str, Any] = {"k": config.tried, "uses": config.uses, "seed": config.seed}
    tried = found.with_reactions(box.judge, **trying)
    spent = found.about["seconds"] + time.perf_counter() - start
    swept = found.with_reactions(box.judge, vocabulary=words_in(model.tokenizer), **trying)
    whole = found.about["seconds"] + time.perf_counter() - start
    return Explained(tried, swept, (spent, whole))


def rated(config: Config, box: GlassBox, explanations: dict, texts: list[str]) -> dict[str, Any]:
    """Returns how far explanations agree with a classifier's weights, and move texts."""
    found: dict[str, Any] = {}
    for method, weights in explanations.items():
        row: dict[str, Any] = {}
        for name, own, other in zip(box.classes, box.weights, weights, strict=True):
            row[name] = {
                "spearman": {k: asdict(agreement(own, other, k)) for k in SIZES}
                | {"union": asdict(agreement(own, other, 100, union=True))},
                "words": precision_recall(own, other, 100, LENGTHS),
                "top": strongest(other, 20),
            }
        found[method] = {"classes": row}
    rng = np.random.default_rng(config.seed)
    moved = explanations | {
        "glass box": box.weights,
        "random words": [
            dict(
                zip(rng.permutation(list(own)).tolist(), np.linspace(1, 0.1, len(own)), strict=True)
            )
            for own in box.weights
        ],
    }
    for method, weights in moved.items():
        ranked = [strongest(own, 200) for own in weights]
        found.setdefault(method, {})["moves"] = {
            "words": list(MOVES),
            "put out": changed_by_deletion(box.judge, texts, ranked, MOVES),
            "put in": changed_by_insertion(box.judge, texts, ranked, MOVES, seed=config.seed),
        }
    return found


def by_texts(config: Config, box: GlassBox, found: Explanation) -> list[dict[str, Any]]:
    """Returns the rank correlation on 100 words of explanations of fewer texts, and their cost."""
    rows = []
    for count in sorted({size for size in (25, 50, 100, 200, 300) if size < config.texts}):
        kept = np.concatenate(
            [np.flatnonzero(found.labels == label)[:count] for label in range(len(box.classes))]
        )
        parts = [
            {"text": found.texts[row], "class": box.classes[found.labels[row]],
             "probabilities": found.probabilities[row], "seconds": 0.0, "simulations": 0,
             "model_tokens": 0, "tokens": 0}
            for row in kept
        ]  # fmt: skip
        quick = SurrogateSettings(bootstrap=0, seed=config.seed)
        fewer = explanation_of(parts, box.classes, quick)
        tried = fewer.with_reactions(box.judge, k=config.tried, uses=config.uses, seed=config.seed)
        rows.append({
            "texts": count,
            "seconds": found.about["seconds"] * count / config.texts,
            "weights": [agreement(own, fewer.weights[name], 100).rho
                        for name, own in zip(box.classes, box.weights, strict=True)],
            "reactions": [agreement(own, tried.sure_reactions[name], 100).rho
                          for name, own in zip(box.classes, box.weights, strict=True)],
        })  # fmt: skip
    return rows


def of_set(config: Config, model: cg.LoadedModel, name: str) -> dict[str, Any]:
    """Returns the ratings of all explanations of one set's classifier."""
    training, validation = (read(config, name, split) for split in ("train", "validation"))
    other = next(one for one in SETS if one != name)
    box = glass_box(training, validation)
    made = explained(config, model, box, name, config.texts)
    found = made.found
    rng = np.random.default_rng(config.seed)
    data = {
        "": picked(rng, validation, config.rows),
        ", other texts": picked(rng, read(config, other, "validation"), config.rows),
    }
    explanations: dict[str, Any] = {
        "therapy": [found.weights[one] for one in box.classes],
        "therapy, considered": [found.sure_effects[one] for one in box.classes],
        "therapy, by reaction": [found.sure_reactions[one] for one in box.classes],
        "therapy, vocabulary": [made.swept.sure_reactions[one] for one in box.classes],
    }
    spent = dict.fromkeys(explanations, made.seconds[0])
    spent["therapy, vocabulary"] = made.seconds[1]
    for local in ("lime", "shap"):
        for kind, texts in data.items():
            start = time.perf_counter()
            explanations[local + kind] = over_texts(
                local, box.judge, texts, samples=config.samples, seed=config.seed
            )
            spent[local + kind] = time.perf_counter() - start
            print(f"{name}: {local}{kind} {spent[local + kind]:.0f} s", flush=True)
    ratings = rated(config, box, explanations, data[""])
    for method, took in spent.items():
        ratings[method]["seconds"] = took
    return {
        "accuracy": box.accuracy,
        "fit": found.fit,
        "seconds_writing": found.about["seconds"],
        "examples": {
            one: [found.texts[row] for row in surest(found, label)]
            for label, one in enumerate(box.classes)
        },
        "by_texts": by_texts(config, box, found),
        "explanations": ratings,
    }


def surest(found: Explanation, label: int, count: int = 3) -> list[int]:
    """Returns the texts of a class of which the classifier is surest."""
    rows = np.flatnonzero(found.labels == label)
    order = rows[np.argsort(-found.probabilities[rows, label], kind="stable")]
    return [int(row) for row in order[:count]]


def read(config: Config, name: str, split: str) -> Labelled:
    """Returns the rows of a set."""
    return read_labelled(config.data / name / f"{split}.csv", classes=SETS[name])


def picked(rng: np.random.Generator, data: Labelled, count: int) -> list[str]:
    """Returns some of the texts, cut to 60 words."""
    rows = rng.choice(len(data.texts), min(count, len(data.texts)), replace=False)
    return [" ".join(data.texts[row].split()[:60]) for row in rows]


def main(config: Config) -> None:
    """Explains, rates and writes the results."""
    model = cg.load_language_model(dtype=config.dtype)
    path = config.out / "therapy.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found["settings"] = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in asdict(config).items()
        if key not in ("data", "work", "out")
    }
    for name in config.sets:
        found[name] = of_set(config, model, name)
        write_json(path, strict(found))
        draw(found, path.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Config))
