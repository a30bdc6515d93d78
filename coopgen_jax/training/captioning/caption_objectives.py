"""The objectives of a captioner: one weighted likelihood, on written captions and on references.

With x_b the captions that the model wrote (beams or samples) and y_b the references of B images:

- teacher forcing, "mle": L = -(1/B) sum_b (1/|y_b|) log p(y_b | i_b);
- "rl": L = -(1/B) sum_b a(x_b) (1/|x_b|) log p(x_b | i_b), REINFORCE; SCST is the same with the
  greedy caption's reward as its baseline;
- "wtf", weighted teacher forcing: L = -(1/B) sum_b a(y_b) (1/|y_b|) log p(y_b | i_b);
- "wtf-rl": the sum of both (Chaffin, Kijak and Claveau 2024, arXiv 2402.13936).

a is a reward less a baseline, |x| the tokens of a caption without padding. Of several captions of
an image the mean counts, so that every image counts alike.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.training import losses
from coopgen_jax.training.gcn.importance import texts_of
from coopgen_jax.training.objectives import Join, all_trainable, row_sums
from coopgen_jax.training.step import Loss, Sums

CaptionObjective = Literal["mle", "rl", "wtf", "wtf-rl"]
# (parameters, batch) -> log p of every token of a caption, `[B, S]`, zero where none counts.
Likelihoods = Callable[[Any, Any], jax.Array]


@struct.dataclass
class Captions:
    """What `M` captions count, beside their tokens.

    Attributes:
      advantage: `[M]` reward less baseline.
      condition: `[M]` int32 number of a caption's image, from 0 to M - 1; negative for padding.
      length: `[M]` int32 tokens of a caption, the one that ends it included.
    """

    advantage: jax.Array
    condition: jax.Array
    length: jax.Array


def weights_of(captions: Captions, *, per_token: bool = True) -> jax.Array:
    """Returns each caption's weight w_i `[M]` in the loss -sum_i w_i log p(x_i); 0 for padding.

    w_i = a_i / (B n_i |x_i|), with n_i captions of the image and B images. Averaging over the
    tokens has a price: the gradient is that of E[a(x) / |x|]. With `per_token` false |x_i| is left
    out, and it is that of the expected reward.
    """
    there = captions.condition >= 0
    alike = jnp.where(there, 1.0 / texts_of(captions.condition), 0.0)
    share = alike / jnp.maximum(jnp.sum(alike), 1.0)
    length = jnp.maximum(captions.length, 1) if per_token else 1
    return jax.lax.stop_gradient(jnp.where(there, captions.advantage, 0.0) * share / length)


def objective_weights(
    objective: CaptionObjective,
    *,
    written: Captions | None = None,
    references: Captions | None = None,
    per_token: bool = True,
) -> jax.Array:
    """Returns the weight of every row, written captions in front of references.

    They are for `weighted_captions_loss`, times the number of rows that are not padding: the mean
    over rows, in however many batches, is the objective's loss.

    Args:
      objective: see the module. "mle" weighs references without a reward.
      written: what the model wrote, of `M` rows, for "rl" and "wtf-rl".
      references: the references, of `K` rows, for all objectives but "rl".
      per_token: see `weights_of`.

    Returns:
      `[M]`, `[K]` or `[M + K]`.

    Raises:
      ValueError: there is no such objective, or captions that it needs are missing.
    """
    if objective not in get_args(CaptionObjective):
        raise ValueError(f"there is no objective {objective!r}")
    parts = []
    if objective in ("rl", "wtf-rl"):
        parts.append(written)
    if objective != "rl":
        parts.append(references)
    found = []
    for part in parts:
        if part is None:
            raise ValueError(f"{objective} needs captions that are missing")
        if objective == "mle":
            part = replace(part, advantage=jnp.ones(len(part.length)))
        found.append((weights_of(part, per_token=per_token), part.condition >= 0))
    weights, there = map(jnp.concatenate, zip(*found, strict=True))
    return weights * jnp.sum(there)


def weighted_captions_loss(likelihoods: Likelihoods, *, join: Join = all_trainable) -> Loss:
    """Returns -sum_i w_i log p(x_i | i_i) over captions, for `training.step`, in nats a row.

    A batch has the `mask` `[B, S]` of its rows, where padding has no token, and `weight` `[B]`
    float32 as `objective_weights` returns it, beside what `likelihoods` reads. There is no gradient
    through the choice of the captions, nor through their weights.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        log_p = likelihoods(join(trainable, frozen), batch)
        return row_sums(batch, loss=jax.vmap(losses.weighted_likelihood)(log_p, batch["weight"]))

    return loss
