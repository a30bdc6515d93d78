"""The generator's loss on sampled texts: one weighted likelihood for all objectives."""

from collections.abc import Callable
from typing import Any

import jax

from coopgen_jax.models.transformer import DecoderConfig, Params
from coopgen_jax.training import losses
from coopgen_jax.training.objectives import (
    Join,
    all_trainable,
    logits_of,
    row_sums,
    text_log_likelihoods,
)
from coopgen_jax.training.step import Loss, Sums


def weighted_likelihood_loss(
    config: DecoderConfig,
    *,
    join: Join = all_trainable,
    reference: Callable[[Any], Params] | None = None,
    kl: float = 0.0,
) -> Loss:
    """Returns -sum_i w_i log p(y_i | x_i) over sampled texts, in nats a row.

    With the weights of `gcn.importance` its gradient is that of every generator here: maximum
    likelihood and SelfGAN (all alike), REINFORCE and discrete GANs (rewards), GCN (self-normalised
    importance weights). Beside tokens and mask `[B, S]` a batch has `written` `[B, S]` bool, the
    tokens of y, and `weight` `[B]` float32, w_i times the number of rows: then the mean over rows,
    in however many batches, is the sum over i.

    Added is `kl` times the divergence from the network that `reference` makes of frozen parameters,
    at the tokens of a text, in nats. Every row counts alike here: it is the divergence of the two
    distributions of texts only where the generator itself has sampled them; elsewhere it is taken
    along the proposal's texts. There is no gradient through the choice of the texts.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        tokens, mask, written = batch["tokens"], batch["mask"], batch["written"] & batch["mask"]
        weighted = jax.vmap(losses.weighted_likelihood)
        if reference is None or not kl:
            log_p = text_log_likelihoods(config, params, tokens, mask, written)
            return row_sums(batch, loss=weighted(log_p, batch["weight"]))
        # A divergence wants the full distribution.
        logits = logits_of(config, params, tokens, mask)
        log_p = jax.vmap(losses.log_likelihoods)(logits, tokens, written)
        held = jax.lax.stop_gradient(logits_of(config, reference(frozen), tokens, mask))
        away = jax.vmap(losses.sequence_kl)(logits, held, written)
        return row_sums(batch, loss=weighted(log_p, batch["weight"]) + kl * away, kl=away)

    return loss
