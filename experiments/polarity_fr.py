"""Polarity of French reviews, by language models that begin as noise: small, but real.

    python -m experiments.polarity_fr --data FOLDER --work FOLDER --out experiments/results

After PPL-MCTS (Chaffin et al., NAACL 2022, arXiv 2109.13582), whose French texts were the reviews
of CLS, on reviews of television series (Dong and de Melo 2018). No pretrained network takes part:
half A of the training rows teaches a decoder of four million parameters, its byte-level tokenizer
and the guides that stand on it, half B another such decoder, the oracle, with a tokenizer of its
own. All perplexities are those of the oracle's tokens, whatever wrote the text.

The judge is a logistic regression on tf-idf of words and pairs of words, of the reviews of half B
and of pieces of them. It reads words, not tokens, and shares no features with the guides. The
encoder that judges elsewhere is English. See `domain`.
"""

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from coopgen_jax.data.cuts import cut_all
from coopgen_jax.data.labelled import Labelled, joined
from coopgen_jax.evaluation.metrics import wilson_interval
from coopgen_jax.evaluation.tfidf_judge import fit_judge
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.recipes import train_language_model
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from experiments.domain import PIECES, Config, Domain, recipe, run
from experiments.domain_methods import BASELINES, best_of_samples, fudge, search
from experiments.train_heads import told

METHODS = (
    *BASELINES,
    best_of_samples,
    fudge,
    search(),
    search("causal"),
    search("generative"),
)


@dataclass(frozen=True)
class Noise:
    """How a language model begins as noise.

    Attributes:
      vocabulary: Tokens of its tokenizer, at most, which is trained on the same texts.
      shape: Of the network.
      window: Tokens that it reads at once, of texts one behind the other.
      learning_rate: Of the training.
      weight_decay: Of the training.
      validations: Validations on the held-out texts.
      patience: Validations without a better loss after which the training stops. The best
        parameters are kept.
    """

    vocabulary: int = 4000
    shape: ScratchConfig = field(default_factory=lambda: ScratchConfig(layers=4, width=256))
    window: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    validations: int = 12
    patience: int = 3


def train_from_noise(
    noise: Noise, config: Config, rows: Labelled, held_out: Labelled, folder: Path,
    left: float | None,
) -> None:  # fmt: skip
    """Trains a language model and its tokenizer on texts of both classes, unlabelled."""
    how = recipe(
        config, config.lm_steps, left,
        lora=None, learning_rate=noise.learning_rate, weight_decay=noise.weight_decay,
    )  # fmt: skip
    every = max(1, config.lm_steps // noise.validations)
    how = replace(
        how,
        loop=replace(how.loop, validate_every=every, patience=noise.patience),
        batch=replace(how.batch, longest=noise.window),
    )
    model = fresh_model(train_tokenizer(rows.texts, noise.vocabulary), noise.shape)
    card = train_language_model(
        model, rows.texts, held_out.texts, how,
        pack=True, folder=folder, mesh=make_mesh(1), listener=told(folder.name, "step"),
    )  # fmt: skip
    if card["perplexity"] is not None:
        print(f"{folder.name}: perplexity {card['perplexity']:.1f} of held-out tokens", flush=True)


def fit_words(
    config: Config, rows: Labelled, held_out: Labelled, folder: Path, left: float | None
) -> None:
    """Fits the judge, in seconds, and prints how often it is right about held-out reviews."""
    pieces = cut_all(np.random.default_rng(0), rows, replace(PIECES, pieces=3))
    judge = fit_judge(joined([rows, pieces]), None, strength=10.0)
    shorter = cut_all(np.random.default_rng(1), held_out, PIECES)
    for name, data in (("reviews", held_out), ("pieces of reviews", shorter)):
        hits = int((judge.predict_proba(data.texts).argmax(axis=1) == data.labels).sum())
        low, high = wilson_interval(hits, len(data.texts))
        share = f"{hits / len(data.texts):.3f} [{low:.3f}, {high:.3f}]"
        print(f"{folder.name}: right about {share} of {len(data.texts)} {name}", flush=True)
    judge.save(folder)


POLARITY_FR = Domain(
    name="polarity_fr",
    folder="allocine_fr",
    classes=("negative", "positive"),
    methods=METHODS,
    taps=(0, 1, 3, 4),
    rate=5e-4,
    language_model=partial(train_from_noise, Noise()),
    judge=fit_words,
)
# Two thousand tokens a step are a fortieth of a half.
DEFAULTS = Config(
    data=tyro.MISSING,
    work=tyro.MISSING,
    lm_steps=480,
    guide_steps=340,
    trunk_epochs=24,
    new_tokens=48,
)

if __name__ == "__main__":
    sys.exit(run(tyro.cli(Config, default=DEFAULTS), POLARITY_FR))
