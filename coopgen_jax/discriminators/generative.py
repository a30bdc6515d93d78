"""The generative discriminator: Bayes' rule over a class-conditional language model.

GeDi (Krause et al. 2021, arXiv 2009.06367), equation 3, and the generative kind of Chaffin et al.
(2022, arXiv 2204.11586): behind a prefix that names the class a language model says how likely the
text is, and

    p(c | x_1..t) is proportional to p(c) * (prod_j p(x_j | x_<j, c))^(scale / t),

or to the same without the mean over t tokens, which is Bayes' rule as it stands. Each class reads
the tree out of slots of its own, all classes in one call. The state of a node is kept, so one pass
tells p(c | x v) of every token v that may follow. Untrained, a prefix in plain words ("A positive
review:") makes a discriminator of any language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator, at_lengths, spare_ends, uniform
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import with_last_states
from coopgen_jax.models.language_model import Bound, Nodes, Prompt, log_probs_of
from coopgen_jax.models.product import rows_times
from coopgen_jax.models.prompt import left_padded
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity, Slots, map_slots, rooted, take, write
from coopgen_jax.models.transformer import DecoderConfig, final_norm, flat

# Columns of a prompt that are turned into logits at once.
COLUMNS = 8


@dataclass(frozen=True)
class GenerativeConfig:
    """What a generative discriminator is made of.

    Attributes:
      network: of the class-conditional language model; its tokens are those of the one it guides.
      classes: names of the `C` classes.
      prefixes: the tokens in front of a text of each class.
      mean: whether the likelihood of a text is its mean over tokens (GeDi) or its product (Bayes).
      reads_prompt: whether it judges the prompt and the continuation, or the continuation alone.
      begin_tokens: how many tokens begin every prompt that are no text of it; prefixes have theirs.
    """

    network: DecoderConfig
    classes: tuple[str, ...]
    prefixes: tuple[tuple[int, ...], ...]
    mean: bool = True
    reads_prompt: bool = False
    begin_tokens: int = 0

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.prefixes) or len(self.classes) < 2:
            raise UserError(
                f"{len(self.classes)} classes and {len(self.prefixes)} prefixes: give two or more "
                "classes, and a prefix for each"
            )
        for name, prefix in zip(self.classes, self.prefixes, strict=True):
            if not prefix:
                raise UserError(f"the prefix of {name!r} is empty: give it at least one token")
            if not all(0 <= token < self.network.vocab_size for token in prefix):
                raise UserError(
                    f"the prefix of {name!r} has tokens that the network lacks: its own are 0 to "
                    f"{self.network.vocab_size - 1}"
                )


@struct.dataclass
class GenerativeState:
    """What a node's children need of it; classes stand in front of `B`.

    Attributes:
      cache: the language model's, with `Slots` `[L, C, B, R, ...]`.
      hidden: `Slots` `[C, B, R, N, E]`, the last state after the final norm.
      log_norm: `Slots` `[C, B, R, N]` float32, logsumexp of the logits that state gives.
      log_likelihood: `Slots` `[C, B, R, N]` float32, log p(text | class).
      before: `[B]` int32 how many of the prompt's tokens count.
    """

    cache: Any
    hidden: Slots
    log_norm: Slots
    log_likelihood: Slots
    before: jax.Array


def generative(config: GenerativeConfig) -> Discriminator:
    """Returns the discriminator; see `generative_params` for its params."""
    longest = max(map(len, config.prefixes))
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        evaluate_children=Bound(_evaluate_children, config),
        evaluate_prefixes=Bound(_evaluate_prefixes, config),
        classes=config.classes,
        reads_prompt=config.reads_prompt,
        context=config.network.context - longest,
    )


def generative_params(
    network: Any, classes: int, *, prior: Sequence[float] | None = None, scale: float = 1.0
) -> dict[str, Any]:
    """Returns the params of a generative discriminator, as they are before any training.

    Args:
      network: the language model's.
      classes: `C`.
      prior: p(c), `[C]` positive numbers; None for equal ones.
      scale: the exponent of the likelihood.

    Raises:
      UserError: the prior is not `C` positive numbers.
    """
    weights = np.ones(classes) if prior is None else np.asarray(prior, np.float64)
    if weights.shape != (classes,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise UserError(f"the prior is {prior}: it must be {classes} positive numbers")
    return {
        "network": network,
        "log_prior": jnp.asarray(np.log(weights / weights.sum()), jnp.float32),
        "scale": jnp.float32(scale),
    }


def _logits(config: GenerativeConfig, params: Any, hidden: jax.Array) -> jax.Array:
    """Returns the logits `[..., V]` in float32 of normalised states `[..., E]`."""
    logits = rows_times(flat(hidden), _head(config, params), config.network.dtype)
    return logits.reshape(*hidden.shape[:-1], -1)


def _head(config: GenerativeConfig, params: Any) -> jax.Array:
    head = params["network"]["embedding" if config.network.tied else "head"]
    return head.astype(config.network.dtype)


def _posterior(
    config: GenerativeConfig, params: Any, log_likelihood: jax.Array, length: jax.Array
) -> jax.Array:
    """Returns log p(c | x) `[..., C]` of log p(x | c) `[C, ...]` of texts of `length` `[...]`."""
    power = params["scale"]
    if config.mean:
        power = (power / jnp.maximum(length, 1))[None]
    prior = params["log_prior"].reshape(-1, *[1] * length.ndim)
    return jax.nn.log_softmax(jnp.moveaxis(prior + power * log_likelihood, 0, -1))


def _by_class(cache: Any, classes: int) -> Any:
    """Returns a cache of `C * B` rows with its slots as `[L, C, B, ...]`."""

    def split(array: jax.Array) -> jax.Array:
        layers, rows = array.shape[:2]
        return array.reshape(layers, classes, rows // classes, *array.shape[2:])

    return map_slots(lambda slots: replace(jax.tree.map(split, slots), lead=2), cache)


def _in_rows(cache: Any) -> Any:
    """Returns the cache as the language model made it: the inverse of `_by_class`."""

    def joined(array: jax.Array) -> jax.Array:
        return array.reshape(array.shape[0], -1, *array.shape[3:])

    return map_slots(lambda slots: replace(jax.tree.map(joined, slots), lead=1), cache)


def _prefixed(config: GenerativeConfig, prompt: Prompt, read: jax.Array) -> Prompt:
    """Returns every prompt behind every prefix, `C * B` rows, class by class, without gaps.

    Of the prompts' tokens those are read where `read` `[B, P]` is true.
    """
    batch, classes = len(prompt.tokens), len(config.classes)
    tokens, mask = left_padded(config.prefixes, max(map(len, config.prefixes)))

    def behind(front: np.ndarray, text: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.repeat(front, batch, 0), jnp.tile(text, (classes, 1))], axis=1)

    whole, there = behind(tokens, prompt.tokens), behind(mask, read)
    order = jnp.argsort(there, axis=-1, stable=True)  # padding to the left
    whole, there = (jnp.take_along_axis(array, order, axis=-1) for array in (whole, there))
    return Prompt(whole, there, jnp.tile(prompt.index, classes))


def _fronts(config: GenerativeConfig, prompt: Prompt) -> tuple[Prompt, jax.Array]:
    """Returns what stands in front of every continuation, and which tokens of a prompt count."""
    if not config.reads_prompt:
        prompt = Prompt(prompt.tokens[:, :0], prompt.mask[:, :0], prompt.index)
    text = prompt.spelt & (jnp.cumsum(prompt.spelt, axis=-1) > config.begin_tokens)
    return _prefixed(config, prompt, text), text


def _init(
    config: GenerativeConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, GenerativeState]:
    batch, classes = len(prompt.tokens), len(config.classes)
    whole, text = _fronts(config, prompt)
    logits, own, cache = with_last_states(config.network).prefill(
        params["network"], whole, capacity=capacity
    )
    states = own[:, :, 0].astype(config.network.dtype)

    def at_root(values: jax.Array) -> Slots:
        return rooted(values.reshape(classes, batch, *values.shape[1:]), capacity, lead=1)

    before = jnp.sum(text, axis=-1, dtype=jnp.int32)
    likelihood, log_class = jnp.zeros(classes * batch, jnp.float32), uniform(batch, classes)
    if config.reads_prompt:
        counts = jnp.tile(before, classes)
        likelihood = _log_likelihood(config, params, states, whole.tokens, counts)
        log_class = _posterior(config, params, likelihood.reshape(classes, batch), before)
    state = GenerativeState(
        cache=_by_class(cache, classes),
        hidden=at_root(states[:, -1]),
        log_norm=at_root(jax.nn.logsumexp(logits, axis=-1)),
        log_likelihood=at_root(likelihood),
        before=before,
    )
    return log_class, state


def _log_likelihood(
    config: GenerativeConfig, params: Any, states: jax.Array, tokens: jax.Array, count: jax.Array
) -> jax.Array:
    """Returns log p of each row's last `count` tokens `[n]`, of `[n, S]` and states `[n, S, E]`."""
    log_p = _log_p(config, params, states, tokens)
    length = tokens.shape[1]
    counts = jnp.arange(1, length)[None, :] >= length - count[:, None]
    return jnp.sum(jnp.where(counts, log_p, 0.0), axis=-1)


def _log_p(
    config: GenerativeConfig, params: Any, states: jax.Array, tokens: jax.Array
) -> jax.Array:
    """Returns log p of every token but the first, `[n, S - 1]`.

    A few columns at a time are turned into logits: all of them together can be gigabytes.
    """

    def one(column: tuple[jax.Array, jax.Array]) -> jax.Array:
        state, token = column
        return log_probs_of(_logits(config, params, state), token)

    columns = (jnp.swapaxes(states[:, :-1], 0, 1), tokens[:, 1:].T)
    log_p: jax.Array = jax.lax.map(one, columns, batch_size=COLUMNS)
    return log_p.T


def _evaluate(
    config: GenerativeConfig, params: Any, state: GenerativeState, nodes: Nodes
) -> tuple[jax.Array, GenerativeState]:
    classes = len(config.classes)

    def all_classes(array: jax.Array) -> jax.Array:
        return jnp.tile(array, (classes, *[1] * (array.ndim - 1)))

    tiled = Nodes(
        start=nodes.start,
        **{
            name: all_classes(getattr(nodes, name))
            for name in ("token", "parent", "path", "depth", "committed", "terminal")
        },
    )
    logits, own, cache = with_last_states(config.network).extend(
        params["network"], _in_rows(state.cache), tiled
    )

    def by_class(array: jax.Array) -> jax.Array:
        return array.reshape(classes, -1, *array.shape[1:])

    # What the token adds: its logit behind the parent's state, which was kept instead of logits.
    rows = _head(config, params)[nodes.token].astype(jnp.float32)
    hidden = take(state.hidden, nodes.parent).astype(jnp.float32)
    logit = jnp.einsum("cbrwi,brwi->cbrw", hidden, rows)
    above = take(state.log_likelihood, nodes.parent)
    likelihood = above + logit - take(state.log_norm, nodes.parent)
    length = _length(state, nodes)
    log_norm = by_class(jax.nn.logsumexp(logits, axis=-1))
    hidden = by_class(own[..., 0, :])
    state = replace(
        state,
        cache=_by_class(cache, classes),
        hidden=write(state.hidden, nodes.start, hidden),
        log_norm=write(state.log_norm, nodes.start, log_norm),
        log_likelihood=write(state.log_likelihood, nodes.start, likelihood),
    )
    return _posterior(config, params, likelihood, length), state


def _length(state: GenerativeState, nodes: Nodes) -> jax.Array:
    """Returns how many tokens `[B, R, W]` the likelihood of each node's text counts."""
    return state.before[:, None, None] + nodes.committed[..., None] + nodes.depth


def _evaluate_children(
    config: GenerativeConfig,
    params: Any,
    state: GenerativeState,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    hidden = take(state.hidden, nodes.slots)
    if candidates is None:
        logits = _logits(config, params, hidden)
    else:
        rows = _head(config, params)[candidates].astype(jnp.float32)
        logits = jnp.einsum("cbrwi,brwki->cbrwk", hidden.astype(jnp.float32), rows)
    step = logits - take(state.log_norm, nodes.slots)[..., None]
    above = take(state.log_likelihood, nodes.slots)
    likelihood = above[..., None] + step
    length = _length(state, nodes)
    longer = jnp.broadcast_to(length[..., None] + 1, likelihood.shape[1:])
    children = _posterior(config, params, likelihood, longer)
    itself = _posterior(config, params, above, length)
    return spare_ends(children, itself, candidates, config.network.end_tokens)


def _evaluate_prefixes(
    config: GenerativeConfig,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    classes, (batch, length) = len(config.classes), tokens.shape
    front, text = _fronts(config, prompt)
    behind = jnp.tile(tokens, (classes, 1))
    whole = jnp.concatenate([front.tokens, behind], axis=1)
    mask = jnp.concatenate([front.mask, jnp.ones(behind.shape, bool)], axis=1)
    _, stream, _, _ = read(config.network, params["network"], whole, mask)
    states = final_norm(config.network, params["network"], stream).astype(config.network.dtype)
    log_p = _log_p(config, params, states, whole)
    before = jnp.sum(text, axis=-1, dtype=jnp.int32)
    # Of the fronts the prompt's tokens count, which stand last.
    place = jnp.arange(log_p.shape[1])[None, :]
    counts = place >= log_p.shape[1] - length - jnp.tile(before, classes)[:, None]
    total = jnp.cumsum(jnp.where(counts, log_p, 0.0), axis=1)[:, -length:]
    total = jnp.moveaxis(total.reshape(classes, batch, length), 0, -1)
    likelihood = jnp.moveaxis(at_lengths(total, lengths), -1, 0)
    return _posterior(config, params, likelihood, before[:, None] + lengths)
