"""Trains heads to ship with the library, and the floor that each has to reach.

    python -m experiments.train_heads --data FOLDER --work FOLDER --out coopgen_jax/heads/research

Every head learns from half A of the training rows, from texts and pieces of texts of up to 64
tokens. The floor is a logistic regression on tf-idf of words and pairs
of words, fitted on the same texts. Both are measured on validation rows, the heads as a decoder
asks them, prefix by prefix; a temperature (Guo et al. 2017, arXiv 1706.04599) is fitted there and
stored in the card. A head that is in `work` is not trained again, and one that was interrupted goes
on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.cuts import Cutting, cut_all
from coopgen_jax.data.labelled import Labelled, half, joined, neutral, read_labelled
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.evaluation.discriminator_accuracy import (
    all_beginnings,
    by_length,
    fit_temperature,
    judge_prefixes,
)
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load, load_encoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.card import write_card
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.bidirectional_recipe import train_bidirectional
from coopgen_jax.training.recipes.shared_trunk_recipe import TrunkConfig, train_shared_trunk
from coopgen_jax.training.run import RecipeConfig
from experiments.neutral_texts import SOURCES as NEUTRAL
from experiments.neutral_texts import neutral_texts

LONGEST = 64
LENGTHS = (1, 2, 4, 8, 16, 32, 64)
# Of fewer texts no accuracy is stated.
FEWEST = 50
SOURCES = {
    "sst2": "Stanford Sentiment Treebank, two classes (Socher et al. 2013); research only",
    "amazon_reviews": "Multi-domain sentiment (Blitzer et al. 2007); research only",
    "emotion": "Contextualized affect representations (Saravia et al. 2018); research only",
    "ag_news": "AG's news topics (Zhang et al. 2015); non-commercial",
}


@dataclass(frozen=True)
class Recipe:
    """What a head learns from, and how.

    Attributes:
      sets: Folders of the data, of the same classes.
      classes: The classes in their order.
      trunk: What stands on the language model, None for LoRA beside a sentence encoder.
      spans: Short spans of every text that it learns from beside the text.
      neutral: Whether it learns from texts without a class too, with the prior of the classes as
        target.
      epochs: Of the training.
      rows: Texts of a step.
      learning_rate: Of the training.
      dropout: Of the training.
    """

    sets: tuple[str, ...]
    classes: tuple[str, ...]
    trunk: TrunkConfig | None
    spans: int = 0
    neutral: bool = False
    epochs: int = 6
    rows: int = 64
    learning_rate: float = 1e-3
    dropout: float = 0.4


SENTIMENT = ("negative", "positive")
HEADS = {
    "sentiment": Recipe(
        ("sst2", "amazon_reviews"),
        SENTIMENT,
        TrunkConfig((0, 15, 20, 25)),
        spans=1,
        epochs=4,
    ),
    "sentiment-neutral": Recipe(
        ("sst2", "amazon_reviews"),
        SENTIMENT,
        TrunkConfig((0, 15, 20, 25)),
        spans=1,
        neutral=True,
        epochs=6,
    ),
    "emotion": Recipe(
        ("emotion",),
        ("sadness", "joy", "love", "anger", "fear", "surprise"),
        TrunkConfig((0, 5, 10, 15)),
    ),
    "topic": Recipe(
        ("ag_news",), ("world", "sports", "business", "scitech"), TrunkConfig((0, 15, 25, 30))
    ),
    "sentiment-minilm": Recipe(
        ("sst2", "amazon_reviews"),
        SENTIMENT,
        None,
        epochs=3,
        rows=32,
        learning_rate=5e-4,
        dropout=0.1,
    ),
}


@dataclass(frozen=True)
class Config:
    """What to train, from what, and where to put it.

    Attributes:
      data: A folder with a folder per data set, each with train.csv and validation.csv.
      work: Where the trainings go.
      out: Where the heads go, a folder each; None for nowhere.
      only: Which heads; those that are packaged where none is named.
      model: The language model whose states are read.
      encoder: The encoder of the head that reads texts anew.
      reviews: Training reviews of half A, at most.
      validation_rows: Rows of every data set, at most.
    """

    data: Path
    work: Path
    out: Path | None = None
    only: tuple[str, ...] = ()
    model: str = "smollm2-135m"
    encoder: str = "minilm-l6"
    reviews: int = 5000
    validation_rows: int = 1000


def read_set(config: Config, recipe: Recipe, name: str, split: str) -> Labelled:
    """Returns the rows of one data set; a review is shortened, or begins anywhere."""
    data = read_labelled(config.data / name / f"{split}.csv", classes=recipe.classes)
    if split != "train":
        return data
    data, rng = half(data, "A"), np.random.default_rng(0)
    parts = [data]
    if name == "amazon_reviews":
        data = evenly(data, config.reviews)
        # A text that goes on behind a prompt begins anywhere, one judged whole at its start.
        parts = [
            cut_all(
                rng, data.rows(list(range(first, len(data.texts), 2))), cutting(anywhere=begins)
            )
            for first, begins in enumerate((True, False))
        ]
    if recipe.spans:
        # What a search asks about has only begun.
        parts.append(cut_all(rng, data, Cutting(recipe.spans, shortest=4, longest=24)))
    return joined(parts)


def cutting(*, anywhere: bool) -> Cutting:
    """Returns how reviews are cut: to about as many tokens as are read."""
    return Cutting(pieces=1, shortest=32, longest=52, anywhere=anywhere, mid_word=0.0)


def settings(recipe: Recipe, rows: int) -> RecipeConfig:
    """Returns how a head is trained."""
    steps = recipe.epochs * rows // recipe.rows
    every = max(1, rows // recipe.rows)
    return RecipeConfig(
        LoopConfig(steps, validate_every=every, patience=4, save_every=every),
        BatchConfig(rows=recipe.rows, longest=LONGEST, shortest=None if recipe.trunk else 1),
        lora=None if recipe.trunk else LoraConfig(),
        learning_rate=recipe.learning_rate,
        dropout=recipe.dropout,
    )


def floor(training: Labelled, validation: dict[str, Labelled]) -> dict[str, float]:
    """Returns the accuracy of a logistic regression on tf-idf, its penalty the best of five."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    inputs = vectorizer.fit_transform(training.texts)
    best: dict[str, float] = {}
    for strength in (0.3, 1, 3, 10, 30):
        fitted = LogisticRegression(C=strength, max_iter=2000).fit(inputs, training.labels)
        for name, data in validation.items():
            hits = fitted.predict(vectorizer.transform(data.texts)) == data.labels
            best[name] = max(best.get(name, 0.0), float(hits.mean()))
    return best


def evenly(data: Labelled, most: int) -> Labelled:
    """Returns rows of a set, taken evenly."""
    count = min(most, len(data.texts))
    return data.rows([number * len(data.texts) // count for number in range(count)])


def shortened(model: LoadedModel, data: Labelled) -> Labelled:
    """Returns texts cut to the tokens that a head is asked about."""
    ids = model.tokenizer.encode_batch([f" {text.strip()}" for text in data.texts])
    texts = tuple(model.tokenizer.decode(row[:LONGEST]).strip() for row in ids)
    return Labelled(texts, data.labels, data.classes, sources=data.origins)


def told(name: str, what: str) -> Callable[..., None]:
    """Returns a listener that prints a line at every tenth of a long work."""
    shown = 0

    def listen(done: int, total: int, means: Any = None) -> None:
        nonlocal shown
        if (tenth := 10 * done // total) > shown:
            shown = tenth
            loss = f", loss {float(means['loss']):.3f}" if means else ""
            print(f"{name}: {what} {done} of {total}{loss}", flush=True)

    return listen


def train(config: Config, name: str, training: Labelled, validation: Labelled) -> None:
    """Trains one head into its folder of `work`."""
    recipe = HEADS[name]
    if recipe.neutral:
        calm = neutral(neutral_texts(config.data, "A"), training)
        training = joined([training, calm])
    folder, mesh = config.work / name, make_mesh(1)
    chosen = settings(recipe, len(training.texts))
    listener = told(name, "step")
    if recipe.trunk is None:
        encoder = load_encoder(config.encoder)
        train_bidirectional(
            encoder, training, validation, chosen, folder=folder, mesh=mesh, listener=listener,
        )  # fmt: skip
        return
    train_shared_trunk(
        load(config.model, stacked=True), training, validation, chosen, recipe.trunk,
        folder=folder, mesh=mesh, listener=listener,
        reading=told(name, "texts read"), states=config.work / "states",
    )  # fmt: skip


def measure(
    config: Config, name: str, model: LoadedModel, validation: dict[str, Labelled]
) -> tuple[dict[str, dict[str, dict[str, Any]]], float]:
    """Returns a head's figures by data set and tokens read, as a decoder asks it; its temperature.

    The temperature is the best for all beginnings of all texts. What was measured stays in `work`.
    """
    path = config.work / name / "measured.json"
    weights = hashlib.sha256((config.work / name / "head.safetensors").read_bytes()).hexdigest()
    made_with = [weights, config.validation_rows]
    if path.is_file():
        *kept, found, temperature = json.loads(path.read_text(encoding="utf-8"))
        if kept == made_with:
            return found, temperature
    head = load_discriminator(config.work / name, language_model=model)
    found, judgements = {}, []
    for source, data in validation.items():
        said = judge_prefixes(
            model, head, data.texts, longest=LONGEST, listener=told(name, f"{source} texts judged")
        )
        found[source] = by_length(said, data.labels, LENGTHS)
        judgements.append(all_beginnings(said, data.labels))
    every = (np.concatenate(part) for part in zip(*judgements, strict=True))
    temperature = fit_temperature(*every)
    path.write_text(json.dumps([*made_with, found, temperature]) + "\n", encoding="utf-8")
    return found, temperature


def publish(
    config: Config, name: str, found: dict, temperature: float, floors: dict[str, float]
) -> None:
    """Puts a head with its card where it ships from."""
    assert config.out is not None
    recipe = HEADS[name]
    card = json.loads((config.work / name / "card.json").read_text(encoding="utf-8"))
    card |= {
        "name": name,
        "licence": "Apache-2.0",
        "data": {source: SOURCES[source] for source in found},
        "terms": "trained on data licensed for research only",
        "recipe": (
            f"half A of the training rows; texts, of reviews pieces, of up to {LONGEST} tokens"
            + (f", and {recipe.spans} short span of each; " if recipe.spans else "; ")
            + ("texts without a class; " if recipe.neutral else "")
            + ("every beginning of a text counts alike" if recipe.trunk else "cut anywhere")
        ),
        "accuracy": {
            source: {
                length: round(row["accuracy"], 4)
                for length, row in rows.items()
                if row["texts"] >= FEWEST
            }
            for source, rows in found.items()
        },
        "accuracy_unit": "tokens of the language model read",
        "intervals": {
            source: [round(end, 4) for end in rows["whole"]["interval"]]
            for source, rows in found.items()
        },
        "temperature": round(temperature, 3),
        "tf_idf_floor": {source: round(share, 4) for source, share in floors.items()},
    }
    if recipe.neutral:
        card["neutral_data"] = NEUTRAL
    folder = config.out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("head.safetensors", "rows.npy"):
        # A training of before fingerprints were kept has none; the card says which half it read.
        if (config.work / name / file).is_file():
            shutil.copyfile(config.work / name / file, folder / file)
    write_card(folder, card)


def main(config: Config) -> None:
    """Trains, measures and publishes."""
    model = load(config.model)
    for name in config.only or tuple(name for name in HEADS if not HEADS[name].neutral):
        recipe = HEADS[name]
        training = joined([read_set(config, recipe, source, "train") for source in recipe.sets])
        validation = {
            source: evenly(read_set(config, recipe, source, "validation"), config.validation_rows)
            for source in recipe.sets
        }
        if not (config.work / name / "card.json").is_file():
            train(config, name, training, joined(list(validation.values())))
        found, temperature = measure(config, name, model, validation)
        floors = floor(
            shortened(model, training),
            {source: shortened(model, data) for source, data in validation.items()},
        )
        for source, rows in found.items():
            whole = rows["whole"]
            low, high = whole["interval"]
            print(
                f"{name} on {source}: {whole['accuracy']:.3f} [{low:.3f}, {high:.3f}] of "
                f"{whole['texts']} texts; tf-idf {floors[source]:.3f}",
                flush=True,
            )
        if config.out:
            publish(config, name, found, temperature, floors)


if __name__ == "__main__":
    main(tyro.cli(Config))
