"""Training a small head on frozen features of texts and of pieces of texts.

What a head is trained on is a function from texts to features, so a bidirectional encoder and a
language model's own states share everything else: the cutting, the loop, the report and the files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coopgen_jax.data.labelled import Labelled
from coopgen_jax.data.pieces import first_words
from coopgen_jax.discriminators.head import Head, HeadConfig, classify

Features = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class FitConfig:
    """How a head is fitted.

    epochs: passes over the training features.
    patience: passes without a better validation loss after which fitting stops.
    batch: features of a step.
    learning_rate, weight_decay: AdamW's (Loshchilov and Hutter 2019, arXiv 1711.05101).
    seed: of the initial parameters, the order of the rows and the dropout.
    """

    epochs: int = 30
    patience: int = 4
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


def _loss(
    learnt: Any,
    fixed: Any,
    features: jax.Array,
    labels: jax.Array,
    *,
    head: HeadConfig,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    params = {"params": {**learnt, **fixed}}
    log_probs: Any = Head(head).apply(params, features, training=rngs is not None, rngs=rngs)
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=-1))


def fit_head(
    head: HeadConfig,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    config: FitConfig,
) -> tuple[Any, float]:
    """Fits a head by cross-entropy and keeps the parameters of the best validation loss.

    The head's standardisation is that of the training features and is not learnt.

    Args:
      head: the network's shape.
      training: features `[n, F]` and class numbers `[n]`.
      validation: the same of other texts.
      config: how to fit.

    Returns:
      The parameters, as NumPy arrays, and their validation loss in nats.
    """
    key = jax.random.key(config.seed)
    features, labels = training
    # Half-precision features would overflow in a sum of their own precision.
    centre, spread = features.mean(0, dtype=np.float32), features.std(0, dtype=np.float32)
    fixed = {"centre": centre, "scale": 1.0 / np.maximum(spread, 1e-6)}
    steps = max(len(features) // config.batch, 1)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps)
    optimiser = optax.adamw(schedule, weight_decay=config.weight_decay)
    drawn = Head(head).init(jax.random.fold_in(key, 0), jnp.asarray(features[:1]))["params"]
    params = {name: value for name, value in drawn.items() if name not in fixed}
    moments = optimiser.init(params)

    @jax.jit
    def step(params: Any, moments: Any, rows: Any, classes: Any, dropout_key: jax.Array) -> Any:
        gradient = jax.grad(_loss)(params, fixed, rows, classes, head=head, dropout_key=dropout_key)
        updates, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    validate = jax.jit(partial(_loss, head=head))
    best, best_loss, since = params, np.inf, 0
    rng = np.random.default_rng(config.seed)
    for epoch in range(config.epochs):
        order = rng.permutation(len(features))
        for number in range(steps):
            rows = order[number * config.batch : (number + 1) * config.batch]
            step_key = jax.random.fold_in(key, 1 + epoch * steps + number)
            params, moments = step(params, moments, features[rows], labels[rows], step_key)
        loss = float(validate(params, fixed, *validation))
        since += 1
        if loss < best_loss:
            best, best_loss, since = params, loss, 0
        if since >= config.patience:
            break
    return jax.tree.map(np.asarray, {**best, **fixed}), best_loss


def accuracy(head: HeadConfig, params: Any, features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose most probable class is theirs."""
    guesses = np.argmax(classify(head, params, jnp.asarray(features)), axis=-1)
    return float(np.mean(guesses == labels))


def accuracy_by_length(
    head: HeadConfig, params: Any, features: Features, data: Labelled, lengths: Sequence[int]
) -> dict[str, float]:
    """Returns the accuracy on the first words of texts, by their number, and on whole texts.

    Only texts of at least that many words count, so the rows of different lengths differ.
    """
    report = {}
    for words in lengths:
        cut = first_words(data, words)
        if cut.texts:
            report[str(words)] = accuracy(head, params, features(cut.texts), cut.labels)
    report["whole"] = accuracy(head, params, features(data.texts), data.labels)
    return report
