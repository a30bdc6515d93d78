"""Explaining classifiers of which something is known beforehand (Therapy).

    python -m experiments.therapy_cases --data FOLDER --work FOLDER --out experiments/results

Three cases beyond the paper of Chaffin and Delaunay (BlackboxNLP 2023). A cue is planted: a word
goes with one class of the training texts, and explanations are to find it. A classifier looks at
thirty words alone, which are to be recovered. And packaged heads are explained, whose weights say
nothing to a reader. Texts are kept in `work`, and an interrupted run goes on.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import coopgen_jax as cg
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.explanation.class_texts import Progress, WritingSettings
from coopgen_jax.explanation.content_words import words_of
from coopgen_jax.explanation.explain import explain
from coopgen_jax.explanation.local import over_texts
from coopgen_jax.explanation.reaction import inserted, strongest
from coopgen_jax.files import strict, write_json
from experiments.therapy import Config as Rating
from experiments.therapy import GlassBox, explained, glass_box, picked, read, surest

# Words of no sentiment that a cue is planted with, a seed each.
CUES = ("monday", "kitchen", "canada", "yellow", "machine")
# Fifteen words of each of two classes, of common and of rare ones.
BAGS = {
    "indoors": "kitchen table window lamp carpet door chair desk shelf sofa curtain mirror pillow "
    "stairs ceiling",
    "outdoors": "river mountain forest road garden beach field bridge valley lake island desert "
    "meadow harbour cliff",
}


@dataclass(frozen=True)
class Config:
    """What to explain.

    Attributes:
      data: A folder with a folder of reviews, `amazon_reviews`, with train.csv and validation.csv.
      work: Folder for texts; an interrupted run goes on with what it holds.
      out: Folder for the results.
      cues: How many cues are planted, one after another.
      cue_texts: Texts of each class for each of them.
      bag_texts: Texts of each class for the bag of thirty words; 0 to leave it out.
      heads: Packaged heads that are explained.
      head_texts: Texts of each class for each of them.
      new_tokens: Tokens of each.
      batch_size: Texts written at once.
      tried: Words of each class that are put into texts.
      uses: Texts that each of them is put into.
      rows: Texts that LIME explains.
      samples: What it asks for each.
      dtype: Of the language model.
      seed: Seed of everything random.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    cues: int = 5
    cue_texts: int = 100
    bag_texts: int = 300
    heads: tuple[str, ...] = ("sentiment-distilled", "topic")
    head_texts: int = 100
    new_tokens: int = 40
    batch_size: int = 50
    tried: int = 100
    uses: int = 20
    rows: int = 200
    samples: int = 300
    dtype: str = "auto"
    seed: int = 0

    def rating(self, seed: int) -> Rating:
        """Returns the settings by which a glass box is explained."""
        return Rating(
            self.data, self.work, self.out, new_tokens=self.new_tokens, rows=self.rows,
            batch_size=self.batch_size, tried=self.tried, uses=self.uses,
            samples=self.samples, seed=seed,
        )  # fmt: skip


def planted(config: Config, model: cg.LoadedModel, seed: int) -> dict[str, Any]:
    """Returns the places of a planted cue among the words of its class."""
    cue, label = CUES[seed], seed % 2
    own = config.rating(config.seed + seed)
    training, validation = (read(own, "amazon_reviews", part) for part in ("train", "validation"))
    rng = np.random.default_rng(own.seed)
    texts = tuple(
        inserted(text, cue, rng.random()) if one == label and rng.random() < 0.8 else text
        for text, one in zip(training.texts, training.labels, strict=True)
    )
    box = glass_box(Labelled(texts, training.labels, training.classes), validation)
    made = explained(own, model, box, f"cue {cue}", config.cue_texts)
    name = box.classes[label]
    clean = picked(rng, validation, config.rows)
    lime = over_texts("lime", box.judge, clean, samples=config.samples, seed=own.seed)[label]
    return {
        "cue": cue,
        "class": name,
        "therapy": place(cue, made.found.weights[name]),
        "considered": place(cue, made.found.sure_effects[name]),
        "by_reaction": place(cue, made.found.sure_reactions[name]),
        "vocabulary": place(cue, made.swept.sure_reactions[name]),
        "lime_on_clean_texts": place(cue, lime),
        "clean_texts_with_it": sum(cue in words_of(text) for text in clean),
        "glass_box": place(cue, box.weights[label]),
    }


def place(word: str, weights: dict[str, float]) -> int | None:
    """Returns the place of a word among the strongest, from 1; None where it is not there."""
    ranked = strongest(weights, len(weights))
    return ranked.index(word) + 1 if word in ranked else None


def bag_of_words() -> GlassBox:
    """Returns the classifier of thirty words, each of which moves its log-odds by two."""
    sets = [set(words.split()) for words in BAGS.values()]

    def judge(texts: list[str]) -> np.ndarray:
        own = [set(words_of(text)) for text in texts]
        score = np.array([2.0 * (len(one & sets[1]) - len(one & sets[0])) for one in own])
        p = 1 / (1 + np.exp(-score))
        return np.stack([1 - p, p], axis=-1)

    one, other = (dict.fromkeys(words, 2.0) for words in sets)
    weights = [one | dict.fromkeys(other, -2.0), other | dict.fromkeys(one, -2.0)]
    return GlassBox(tuple(BAGS), judge, weights, 1.0)


def recovered(config: Config, model: cg.LoadedModel) -> dict[str, Any]:
    """Returns how many of the thirty words stand among the first fifteen of their class."""
    box = bag_of_words()
    own = config.rating(config.seed)
    made = explained(own, model, box, "thirty words", config.bag_texts)
    rankings = {
        "therapy": made.found.weights,
        "considered": made.found.sure_effects,
        "by_reaction": made.found.sure_reactions,
        "vocabulary": made.swept.sure_reactions,
    }
    found: dict[str, Any] = {"texts": config.bag_texts, "fit": made.found.fit}
    for name, weights in rankings.items():
        firsts = {one: strongest(weights[one], 15) for one in box.classes}
        hits = {one: len(set(firsts[one]) & set(BAGS[one].split())) for one in box.classes}
        found[name] = {"precision": sum(hits.values()) / 30, "hits": hits, "first": firsts}
    return found


def of_head(config: Config, model: cg.LoadedModel, name: str) -> dict[str, Any]:
    """Returns what a packaged head looks for: its words, and what it says of the texts."""
    guide = cg.load_discriminator(name, language_model=model)
    writing = WritingSettings(
        texts=config.head_texts, new_tokens=config.new_tokens, seed=config.seed,
        batch=min(config.batch_size, config.head_texts),
    )  # fmt: skip

    def show(progress: Progress) -> None:
        print(f"{name}: {progress.done} of {progress.total}, {progress.seconds:.0f} s", flush=True)

    start = time.perf_counter()
    found = explain(
        model, guide, out=config.work / name, writing=writing, tried=min(config.tried, 50),
        uses=config.uses, name=name, listener=show,
    )  # fmt: skip
    tops = {one: found.top_words(one, 20, moving=True) for one in found.classes}
    reactions = {one: found.top_words(one, 20, by="reaction", moving=True) for one in found.classes}
    considered = {one: found.top_words(one, 20, by="considered") for one in found.classes}
    return {
        "new_tokens": config.new_tokens,
        "fit": found.fit,
        "seconds": found.about["seconds"],
        "seconds_with_reactions": time.perf_counter() - start,
        "words": {one: [word.term for word in words] for one, words in tops.items()},
        "reactions": {one: [word.term for word in words] for one, words in reactions.items()},
        "considered": {one: [word.term for word in words] for one, words in considered.items()},
        "examples": {
            one: [found.texts[row] for row in surest(found, label)]
            for label, one in enumerate(found.classes)
        },
    }


def main(config: Config) -> None:
    """Explains the cases and writes the results."""
    model = cg.load_language_model(dtype=config.dtype)
    path = config.out / "therapy_cases.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found["settings"] = {
        key: value for key, value in asdict(config).items() if key not in ("data", "work", "out")
    }

    def keep(name: str, value: Any) -> None:
        found[name] = value
        write_json(path, strict(found))

    if config.bag_texts:
        keep("thirty_words", recovered(config, model))
    rows: list[dict[str, Any]] = []
    for seed in range(config.cues):
        rows.append(planted(config, model, seed))
        print(rows[-1], flush=True)
        keep("planted", rows)
    heads = found.get("heads", {})
    for name in config.heads:
        heads[name] = of_head(config, model, name)
        keep("heads", heads)


if __name__ == "__main__":
    main(tyro.cli(Config))
