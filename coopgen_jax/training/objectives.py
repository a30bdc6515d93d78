"""Losses of batches, for `training.step`.

Every loss is built from the shape of the network that it trains and from `join`, which puts
trainable and frozen parameters together: nothing frozen for full training, additions beside kernels
for LoRA. Every parameter that `join` takes from the trainable ones is trained, a head's
standardisation and a prior included.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.generative import GenerativeConfig
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig
from coopgen_jax.discriminators.shared_trunk import judge_texts as judge_by_features
from coopgen_jax.discriminators.trunk_layers import Queries, TrunkLayersConfig, foreseen
from coopgen_jax.discriminators.trunk_layers import judge_texts as judge_by_layers
from coopgen_jax.errors import UserError
from coopgen_jax.models.encoder import EncoderConfig, encode, mean_pool
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import (
    DecoderConfig,
    Params,
    final_norm,
    output_factors,
    unembed,
)
from coopgen_jax.training import losses
from coopgen_jax.training.chunked_likelihood import log_likelihoods_of_states
from coopgen_jax.training.decisions import searched_loss, was_searched
from coopgen_jax.training.step import Loss, Sums, row_keys

Join = Callable[[Any, Any], Any]


def all_trainable(trainable: Any, frozen: Any) -> Any:
    """Returns the trainable parameters: everything is trained."""
    return trainable


def row_sums(batch: Any, **metrics: jax.Array) -> Sums:
    """Adds per-row metrics `[B]` up over the rows that hold a token."""
    there = batch["mask"].any(axis=-1)
    weight = jnp.sum(there, dtype=jnp.float32)
    return {name: (jnp.sum(jnp.where(there, x, 0.0)), weight) for name, x in metrics.items()}


def logits_of(config: DecoderConfig, params: Params, tokens: Any, mask: Any) -> jax.Array:
    """Returns a language model's logits `[B, S, V]` behind every token of whole rows."""
    _, stream, _, _ = read(config, params, tokens, mask)
    return unembed(config, params, stream)


def text_log_likelihoods(
    config: DecoderConfig, params: Params, tokens: Any, mask: Any, counted: Any
) -> jax.Array:
    """Returns log p of every counted token of whole rows, `[B, S]`; see `log_likelihoods`."""
    _, stream, _, _ = read(config, params, tokens, mask)
    return log_likelihoods_of_states(*output_factors(config, params, stream), tokens, counted)


def _hits(log_class: jax.Array, label: jax.Array) -> jax.Array:
    """Returns 1 for every row whose likeliest class is its label's: that of the largest share."""
    if label.ndim == log_class.ndim:
        label = jnp.argmax(label, axis=-1)
    return (jnp.argmax(log_class, axis=-1) == label).astype(jnp.float32)


def _classified(
    head: HeadConfig, params: Any, states: jax.Array, keys: jax.Array, training: bool
) -> jax.Array:
    """Returns log p(class) of the states of every row, each with its key for dropout."""

    def one(states: jax.Array, key: jax.Array) -> jax.Array:
        log_class: Any = Head(head).apply(
            {"params": params}, states, training=training, rngs={"dropout": key}
        )
        return log_class

    return jax.vmap(one)(states, keys)


def _at(values: jax.Array, place: jax.Array) -> jax.Array:
    """Returns `[B, 1, E]`, of every row of `[B, S, E]` what stands at its place."""
    return jnp.take_along_axis(values, place[:, None, None], axis=1)


def states_read(config: CausalConfig, network: Params, batch: Any) -> jax.Array:
    """Returns the states `[B, S, E]` that a causal discriminator's head reads, of every token.

    If there is a start token, a text is read behind it alone.
    """
    tokens, mask, front = batch["tokens"], batch["mask"], config.start_token is not None
    if front:
        tokens = jnp.pad(tokens, [(0, 0), (1, 0)], constant_values=config.start_token)
        mask = jnp.pad(mask, [(0, 0), (1, 0)], constant_values=True)
    _, stream, _, _ = read(config.network, network, tokens, mask)
    return final_norm(config.network, network, stream[:, int(front) :]).astype(jnp.float32)


def classification_loss(
    config: CausalConfig,
    *,
    join: Join = all_trainable,
    training: bool = True,
    prefixes: bool = False,
) -> Loss:
    """Returns the cross-entropy of a causal discriminator on texts, in nats a text.

    Where `prefixes`, every prefix of a text is classified, all with the same weight, rather than
    the full text: one reading gives the state of each. The head drops what it is configured to
    drop in `training` alone. `join` gives `{"network", "head"}`.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        states = states_read(config, params["network"], batch)
        end = jnp.maximum(jnp.sum(batch["mask"], axis=-1) - 1, 0)
        # Where a source stands in front, only prefixes of the text count.
        counted = batch.get("written", batch["mask"])
        if not prefixes:
            states = _at(states, end)
            counted, end = counted.any(axis=-1, keepdims=True), jnp.zeros_like(end)
        keys = row_keys(key, batch["index"])
        log_class = _classified(config.head, params["head"], states, keys, training)
        each = _mean_cross_entropy(log_class, batch["label"], counted)
        last = _at(log_class, end)[:, 0]
        return row_sums(batch, loss=each, accuracy=_hits(last, batch["label"]))

    return loss


def language_model_loss(config: DecoderConfig, *, join: Join = all_trainable) -> Loss:
    """Returns the negative log-likelihood of texts, in nats a token; a text's first has none."""

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        tokens, mask = batch["tokens"], batch["mask"]
        log_p = text_log_likelihoods(config, params, tokens, mask, mask)
        return {"loss": (-jnp.sum(log_p), jnp.sum(mask[:, 1:], dtype=jnp.float32))}

    return loss


def gedi_loss(
    config: GenerativeConfig, *, join: Join = all_trainable, class_weight: float = 0.4
) -> Loss:
    """Returns GeDi's loss of a generative discriminator on texts, in nats.

    `join` gives `{"network", "log_prior", "scale"}`; GeDi's authors took a `class_weight` of 0.4.
    Raises UserError where the discriminator takes products of likelihoods instead of their mean.
    """
    if not config.mean:
        raise UserError("GeDi's loss is that of mean likelihoods: train with mean=True")
    prefixes, classes = config.prefixes, len(config.classes)
    longest = max(map(len, prefixes))
    front = jnp.asarray([[0] * (longest - len(prefix)) + list(prefix) for prefix in prefixes])
    there = jnp.asarray([[False] * (longest - len(p)) + [True] * len(p) for p in prefixes])

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        tokens, mask = batch["tokens"], batch["mask"]
        rows = len(tokens)

        def behind(prefix: jax.Array, text: jax.Array) -> jax.Array:
            """Returns every text behind every prefix, `[C * B, longest + S]`."""
            tiled = jnp.tile(text, (classes, 1))
            return jnp.concatenate([jnp.repeat(prefix, rows, axis=0), tiled], axis=1)

        read_tokens, read_mask = behind(front, tokens), behind(there, mask)
        counted = behind(jnp.zeros_like(there), mask)
        read_rows = read_tokens, read_mask, counted
        log_p = text_log_likelihoods(config.network, params["network"], *read_rows).sum(axis=-1)
        likelihood = log_p.reshape(classes, rows).T
        length = jnp.sum(mask, axis=-1)
        given = {name: params[name] for name in ("log_prior", "scale")}

        def row_loss(likelihood: jax.Array, length: jax.Array, label: jax.Array) -> tuple:
            posterior = losses.class_posterior(likelihood, length, **given)
            both = losses.gedi(likelihood, length, label, class_weight=class_weight, **given)
            language = -likelihood[label] / jnp.maximum(length, 1)
            return both, losses.cross_entropy(posterior, label), language, _hits(posterior, label)

        both, of_class, language, hits = jax.vmap(row_loss)(likelihood, length, batch["label"])
        return row_sums(
            batch, loss=both, class_loss=of_class, language_loss=language, accuracy=hits
        )

    return loss


def encoder_classification_loss(
    encoder: EncoderConfig,
    head: HeadConfig,
    special: tuple[int, int],
    *,
    join: Join = all_trainable,
    training: bool = True,
) -> Loss:
    """Returns the cross-entropy of a bidirectional discriminator on word pieces, in nats a text.

    The head reads the encoder's mean state; `special` are the word pieces in front of and behind
    every text. `join` gives `{"encoder", "head"}`.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        tokens = jnp.pad(batch["tokens"], [(0, 0), (1, 1)], constant_values=special[0])
        # In a batch as long as the context, everything beyond it is padding.
        tokens = tokens[:, : encoder.context]
        length = jnp.sum(batch["mask"], axis=-1)[:, None]
        place = jnp.arange(tokens.shape[1])[None, :]
        tokens = jnp.where(place == length + 1, special[1], tokens)
        mask = place <= length + 1
        state = mean_pool(encode(encoder, params["encoder"], tokens, mask), mask)
        keys = row_keys(key, batch["index"])
        log_class = _classified(head, params["head"], state, keys, training)
        each = jax.vmap(losses.cross_entropy)(log_class, batch["label"])
        return row_sums(batch, loss=each, accuracy=_hits(log_class, batch["label"]))

    return loss


def trunk_classification_loss(
    config: SharedTrunkConfig | TrunkLayersConfig,
    *,
    join: Join = all_trainable,
    training: bool = True,
    before: int = 12,
    ends: Sequence[int] = (),
) -> Loss:
    """Returns the cross-entropy of a shared-trunk discriminator, in nats a text.

    Every prefix of a text is classified, and all count alike. A batch's tokens are places in the
    table `frozen["states"]` `[n, J, E]` and, for a look-ahead head, in `frozen["tokens"]` `[n]`,
    whose embeddings are `frozen["embedding"]` `[V, E]`. The look-ahead head's loss is added: it
    classifies every prefix before its last token has been read.

    In `training` dropout is applied, and three of five texts are classified behind a random number
    of tokens only, fewer than `before`: the tokens in front of them play the prompt.

    Where there is a table `frozen["searched"]` (`training.decisions`), some texts were searched.
    They stand behind prompts already, and the look-ahead head's `searched_loss` of what was found
    in front of each of their tokens is added. A token of `ends`, which ended such a text, has a
    decision in front of it but is not classified: no guide reads it.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        places, inside = batch["tokens"], batch["mask"]
        keys = row_keys(key, batch["index"])
        searched = frozen.get("searched")
        if training:
            cut = jax.vmap(partial(_behind_a_prompt, before=before))(inside, keys)
            if searched is not None:
                cut = jnp.where(was_searched(searched, places, inside)[:, None], inside, cut)
            inside = cut
        judged, read = inside, batch["mask"]
        if searched is not None:
            ended = jnp.isin(frozen["tokens"][places], jnp.asarray(ends, jnp.int32))
            ended &= searched["row"][places] > 0
            judged, read = inside & ~ended, read & ~ended
        states = frozen["states"][places].astype(jnp.float32)
        noise = keys if training else None
        if isinstance(config, SharedTrunkConfig):
            log_class = judge_by_features(config, params, states, inside, noise)
        else:
            log_class, own = judge_by_layers(config, params, states, inside, noise)
        label = batch["label"]
        each = _mean_cross_entropy(log_class, label, judged)
        end = jnp.maximum(jnp.sum(read, axis=-1) - 1, 0)
        last = _at(log_class, end)[:, 0]
        sums = row_sums(batch, loss=each, accuracy=_hits(last, label))
        if isinstance(config, SharedTrunkConfig) or not config.look_ahead:
            return sums
        queries = _asking(config, params, own, inside)
        following = frozen["embedding"][frozen["tokens"][places]].astype(jnp.float32)
        ahead = foreseen(queries, (following @ params["keys"])[..., None, :])[..., 0, :]
        further = _mean_cross_entropy(ahead, label, judged)
        sums = added(sums, row_sums(batch, ahead_loss=further))
        if searched is not None:
            sums = added(sums, searched_loss(searched, params["keys"], queries, places, inside))
        return sums

    return loss


def look_ahead_loss(config: TrunkLayersConfig, *, join: Join = all_trainable) -> Loss:
    """Returns the loss of a look-ahead head that learns from searched texts alone, in nats a text.

    See `decisions.searched_loss`; a batch is as for `trunk_classification_loss`. Nothing is
    dropped: what the head stands on is frozen.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        params = join(trainable, frozen)
        places, inside = batch["tokens"], batch["mask"]
        states = frozen["states"][places].astype(jnp.float32)
        _, own = judge_by_layers(config, params, states, inside)
        queries = _asking(config, params, own, inside)
        found = searched_loss(frozen["searched"], params["keys"], queries, places, inside)
        return {"loss": found["searched_loss"]}

    return loss


def _asking(
    config: TrunkLayersConfig, params: Params, own: jax.Array, inside: jax.Array
) -> jax.Array:
    """Returns a look-ahead head's queries `[B, S, C, K + 1]` in front of every token.

    The query for a token stands at the token in front of it, or at the start vector; the small
    layers' states `own` are `[B, 1 + S, width]`.
    """
    above = jnp.pad(inside[:, :-1], [(0, 0), (1, 0)])
    above = jnp.where(above, jnp.arange(inside.shape[1])[None, :], 0)
    asking = jnp.take_along_axis(own, above[..., None], axis=1)
    queries: Any = Queries(len(config.head.classes), config.look_ahead).apply(
        {"params": params["queries"]}, asking
    )
    return jnp.asarray(queries)


def added(sums: Sums, more: Sums) -> Sums:
    """Returns both, the totals of the second added to that of the loss too."""
    total, weight = sums["loss"]
    return {**sums, **more, "loss": (sum((one for one, _ in more.values()), total), weight)}


def _behind_a_prompt(inside: jax.Array, key: jax.Array, *, before: int) -> jax.Array:
    """Returns which tokens `[S]` of a text are classified; those in front play the prompt."""
    length = jnp.sum(inside)
    whether, where = jax.random.split(key)
    most = jnp.maximum(jnp.minimum(before, length), 1)
    first = jnp.where(jax.random.bernoulli(whether, 0.6), jax.random.randint(where, (), 0, most), 0)
    return inside & (jnp.arange(len(inside)) >= first)


def _mean_cross_entropy(log_class: jax.Array, label: jax.Array, counted: jax.Array) -> jax.Array:
    """Returns the mean over the counted prefixes of each text, `[B]`; 0 where there is none."""
    of_prefixes = jax.vmap(losses.cross_entropy, in_axes=(0, None))
    each = jax.vmap(of_prefixes)(log_class, label)
    return jnp.sum(jnp.where(counted, each, 0.0), axis=-1) / jnp.maximum(counted.sum(axis=-1), 1)
