"""What networks are trained for: losses of whole batches, for `training.step`.

Every objective is built from the shape of what it trains and from `join`, which puts learnt and
fixed parameters together: nothing fixed for full training, additions beside kernels for LoRA. What
is joined from the learnt ones is trained, a head's standardisation and a prior included.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.generative import GenerativeConfig
from coopgen_jax.discriminators.head import Head
from coopgen_jax.errors import UserError
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, final_norm, unembed
from coopgen_jax.training import losses
from coopgen_jax.training.step import Loss, Sums, row_keys

Join = Callable[[Any, Any], Any]


def whole(learnt: Any, fixed: Any) -> Any:
    """Returns the learnt parameters: everything is trained."""
    return learnt


def _sums(batch: Any, **metrics: jax.Array) -> Sums:
    """Adds per-row metrics `[B]` up over the rows that hold a token."""
    there = batch["mask"].any(axis=-1)
    weight = jnp.sum(there, dtype=jnp.float32)
    return {name: (jnp.sum(jnp.where(there, x, 0.0)), weight) for name, x in metrics.items()}


def _hits(log_class: jax.Array, label: jax.Array) -> jax.Array:
    return (jnp.argmax(log_class, axis=-1) == label).astype(jnp.float32)


def judges(config: CausalConfig, *, join: Join = whole, training: bool = True) -> Loss:
    """Returns the cross-entropy of a causal discriminator on texts, in nats a text.

    Args:
      config: the discriminator's; behind a start token, if it has one, a text is read alone.
      join: `(learnt, fixed) -> {"network", "head"}`.
      training: whether the head drops what it is configured to drop.
    """

    def loss(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(learnt, fixed)
        tokens, mask = batch["tokens"], batch["mask"]
        if config.start_token is not None:
            tokens = jnp.pad(tokens, [(0, 0), (1, 0)], constant_values=config.start_token)
            mask = jnp.pad(mask, [(0, 0), (1, 0)], constant_values=True)
        _, stream, _, _ = read(config.network, params["network"], tokens, mask)
        last = jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0)
        state = jnp.take_along_axis(stream, last[:, None, None], axis=1)[:, 0]
        state = final_norm(config.network, params["network"], state).astype(jnp.float32)

        def classified(state: jax.Array, key: jax.Array) -> jax.Array:
            log_class: Any = Head(config.head).apply(
                {"params": params["head"]}, state, training=training, rngs={"dropout": key}
            )
            return log_class

        log_class = jax.vmap(classified)(state, row_keys(key, batch["index"]))
        each = jax.vmap(losses.cross_entropy)(log_class, batch["label"])
        return _sums(batch, loss=each, accuracy=_hits(log_class, batch["label"]))

    return loss


def writes(config: DecoderConfig, *, join: Join = whole) -> Loss:
    """Returns the negative log-likelihood of texts, in nats a token but a text's first."""

    def loss(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(learnt, fixed)
        tokens, mask = batch["tokens"], batch["mask"]
        _, stream, _, _ = read(config, params, tokens, mask)
        log_p = jax.vmap(losses.log_likelihoods)(unembed(config, params, stream), tokens, mask)
        return {"loss": (-jnp.sum(log_p), jnp.sum(mask[:, 1:], dtype=jnp.float32))}

    return loss


def generates(config: GenerativeConfig, *, join: Join = whole, class_weight: float = 0.4) -> Loss:
    """Returns GeDi's loss of a generative discriminator on texts, in nats.

    Args:
      config: the discriminator's.
      join: `(learnt, fixed) -> {"network", "log_prior", "scale"}`.
      class_weight: what judging weighs against writing; the published training took 0.4.

    Raises:
      UserError: the discriminator takes products of likelihoods where GeDi takes their mean.
    """
    if not config.mean:
        raise UserError("GeDi's loss is that of mean likelihoods: train with mean=True")
    prefixes, classes = config.prefixes, len(config.classes)
    longest = max(map(len, prefixes))
    front = jnp.asarray([[0] * (longest - len(prefix)) + list(prefix) for prefix in prefixes])
    there = jnp.asarray([[False] * (longest - len(p)) + [True] * len(p) for p in prefixes])

    def loss(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(learnt, fixed)
        tokens, mask = batch["tokens"], batch["mask"]
        rows = len(tokens)

        def behind(prefix: jax.Array, text: jax.Array) -> jax.Array:
            """Returns every text behind every prefix, `[C * B, longest + S]`."""
            tiled = jnp.tile(text, (classes, 1))
            return jnp.concatenate([jnp.repeat(prefix, rows, axis=0), tiled], axis=1)

        read_tokens, read_mask = behind(front, tokens), behind(there, mask)
        counted = behind(jnp.zeros_like(there), mask)
        _, stream, _, _ = read(config.network, params["network"], read_tokens, read_mask)
        logits = unembed(config.network, params["network"], stream)
        log_p = jax.vmap(losses.log_likelihoods)(logits, read_tokens, counted).sum(axis=-1)
        likelihood = log_p.reshape(classes, rows).T
        length = jnp.sum(mask, axis=-1)
        given = {"log_prior": params["log_prior"], "scale": params["scale"]}

        def one(likelihood: jax.Array, length: jax.Array, label: jax.Array) -> tuple:
            posterior = losses.class_posterior(likelihood, length, **given)
            both = losses.gedi(likelihood, length, label, class_weight=class_weight, **given)
            written = -likelihood[label] / jnp.maximum(length, 1)
            return both, losses.cross_entropy(posterior, label), written, _hits(posterior, label)

        both, judged, written, hits = jax.vmap(one)(likelihood, length, batch["label"])
        return _sums(batch, loss=both, class_loss=judged, language_loss=written, accuracy=hits)

    return loss
