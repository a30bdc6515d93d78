"""What a generator is trained for on sampled texts: all its objectives, by their weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, Params, unembed
from coopgen_jax.training import losses
from coopgen_jax.training.objectives import Join, row_sums, whole
from coopgen_jax.training.step import Loss, Sums


def imitates(
    config: DecoderConfig,
    *,
    join: Join = whole,
    reference: Callable[[Any], Params] | None = None,
    kl: float = 0.0,
) -> Loss:
    """Returns -sum_i w_i log p(y_i | x_i) over sampled texts, in nats a row.

    With the weights of `training.weights` its gradient is that of every generator here: maximum
    likelihood and SelfGAN (all alike), REINFORCE and discrete GANs (rewards), GCN (self-normalised
    importance weights). A batch has, beside tokens and mask `[B, S]`, `written` `[B, S]` bool, the
    tokens of y, and `weight` `[B]` float32, so many times what a row counts as there are rows:
    then the mean over rows, in however many batches, is the sum over i.

    Args:
      config: the generator's network.
      join: `(learnt, fixed) -> params`.
      reference: `fixed -> params` of the network that the generator is held to.
      kl: what the divergence from it at the tokens of a text, in nats, weighs beside the rest.
        Every row counts alike here, so that it is the divergence of the two as distributions of
        texts only where the generator itself has written them; elsewhere it is that along the
        proposal's texts. How the generator comes to a place has no gradient.
    """

    def loss(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(learnt, fixed)
        tokens, mask, written = batch["tokens"], batch["mask"], batch["written"] & batch["mask"]

        def said(network: Params) -> jax.Array:
            _, stream, _, _ = read(config, network, tokens, mask)
            return unembed(config, network, stream)

        logits = said(params)
        log_p = jax.vmap(losses.log_likelihoods)(logits, tokens, written).sum(axis=-1)
        # Padding has no weight; 0 times a likelihood that has run off would be no number.
        weighted = jnp.where(batch["weight"] == 0, 0.0, -batch["weight"] * log_p)
        if reference is None or not kl:
            return row_sums(batch, loss=weighted)
        away = jax.vmap(losses.sequence_kl)(
            logits, jax.lax.stop_gradient(said(reference(fixed))), written
        )
        return row_sums(batch, loss=weighted + kl * away, kl=away)

    return loss
