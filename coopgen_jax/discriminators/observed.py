"""Discriminators that report what every token changes in what they say.

A guided decoder asks far more than it writes: of every token that it considers, the discriminator
says what the text would be with it. An observed discriminator says the same as the one that it
wraps, and tells an observer on the host how far each token moved it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.host.call import in_parts
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, Slots, rooted, take, write

# Log-odds are cut here, in nats: of one in a million. Beyond it a classifier is sure, and how sure
# is rounding.
MOST = 13.8
# Called with tokens `[n]` and changes `[n, C]`.
Observer = Callable[[np.ndarray, np.ndarray], None]


@struct.dataclass
class _State:
    """What the discriminator keeps, and log p(c|x) `[B, R, N, C]` of every node."""

    of: Any
    said: Slots


def observed(loaded: LoadedDiscriminator, observer: Observer) -> LoadedDiscriminator:
    """Returns a discriminator that tells `observer` what every token changes.

    The observer is called with `n` tokens and the changes of the log-odds of every class against
    all others, `[n, C]` float32 in nats, from a text to the text with the token behind it. Tokens
    that end a text are left out of nodes, and are among candidates; a candidate that is read too is
    told of twice. Calls come in any order; `jax.effects_barrier()` waits for the last one. Another
    observer is another program.
    """
    guide = loaded.discriminator
    bound = guide, observer
    seen = replace(
        guide,
        init=Bound(_init, guide),
        evaluate=Bound(_evaluate, bound),
        evaluate_children=guide.evaluate_children and Bound(_evaluate_children, bound),
    )
    return replace(loaded, discriminator=seen)


def _init(
    guide: Discriminator, params: Any, prompt: Prompt, hidden: jax.Array, *, capacity: Capacity
) -> tuple[jax.Array, _State]:
    log_class, state = guide.init(params, prompt, hidden, capacity=capacity)
    return log_class, _State(state, rooted(log_class, capacity))


def _evaluate(
    bound: tuple[Discriminator, Observer], params: Any, state: _State, nodes: Nodes
) -> tuple[jax.Array, _State]:
    guide, observer = bound
    log_class, own = guide.evaluate(params, state.of, nodes)
    change = _log_odds(log_class) - _log_odds(take(state.said, nodes.parent))
    _tell(observer, jnp.where(nodes.terminal, -1, nodes.token), change)
    return log_class, _State(own, write(state.said, nodes.start, log_class))


def _evaluate_children(
    bound: tuple[Discriminator, Observer],
    params: Any,
    state: _State,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    guide, observer = bound
    assert guide.evaluate_children is not None
    said: jax.Array = guide.evaluate_children(params, state.of, nodes, candidates)
    before = take(state.said, nodes.slots)[..., None, :]
    tokens = jnp.arange(said.shape[-2]) if candidates is None else candidates
    tokens = jnp.where(nodes.terminal[..., None], -1, tokens)
    _tell(observer, tokens, _log_odds(said) - _log_odds(before))
    return said


def _log_odds(log_class: jax.Array) -> jax.Array:
    """Returns the log-odds of every class against all others; of a reward, against none."""
    if log_class.shape[-1] == 1:
        others = jnp.log(jnp.maximum(-jnp.expm1(log_class), jnp.finfo(jnp.float32).tiny))
    else:
        # The others are added up, not taken from one: near one that would cancel.
        own = jnp.eye(log_class.shape[-1], dtype=bool)
        others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_class[..., None, :]), axis=-1)
    # Where both are impossible by rounding the difference is none.
    return jnp.clip(jnp.nan_to_num(log_class - others), -MOST, MOST)


def _tell(observer: Observer, tokens: jax.Array, change: jax.Array) -> None:
    call = Bound(_on_host, (observer, tokens.shape, change.shape))
    jax.debug.callback(call, *in_parts(tokens), *in_parts(change))


def _on_host(bound: tuple[Observer, tuple, tuple], *parts: Any) -> None:
    observer, shape, changes = bound
    count, flat = int(np.prod(shape)), [np.asarray(part) for part in parts]
    # The parts of the tokens come first, and together they have `count` elements.
    sizes = np.cumsum([len(part) for part in flat])
    split = int(np.searchsorted(sizes, count)) + 1 if count else 0
    tokens = np.concatenate(flat[:split])
    change = np.concatenate(flat[split:]).reshape(count, changes[-1])
    kept = tokens >= 0
    observer(tokens[kept], change[kept])
