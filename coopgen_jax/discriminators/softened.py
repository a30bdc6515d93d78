"""Discriminators at a temperature: the same order, less sure.

A classifier that is sure after a few words has nothing more to say: log p(c|x) of what it accepts
is 0 whatever follows. At a temperature T its probabilities are p^(1/T) over their sum, as in
calibration (Guo et al. 2017, arXiv 1706.04599), so that it goes on telling texts apart.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.discriminator import LEAST, Discriminator
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity


def softened(loaded: LoadedDiscriminator, temperature: float) -> LoadedDiscriminator:
    """Returns a discriminator of two or more classes at a temperature.

    The temperature is a run-time number in its params. A reward is refused with a UserError, as is
    a temperature that is not above 0.
    """
    guide = loaded.discriminator
    if not 0 < temperature < float("inf"):
        raise UserError(f"temperature is {temperature}: it must be above 0")
    if len(guide.classes) < 2:
        raise UserError("a reward has no temperature: give cg.reward another scale")
    ahead, prefixes = guide.evaluate_children, guide.evaluate_prefixes
    soft = replace(
        guide,
        init=Bound(_init, guide),
        evaluate=Bound(_evaluate, guide),
        evaluate_children=None if ahead is None else Bound(_evaluate_children, guide),
        evaluate_prefixes=None if prefixes is None else Bound(_evaluate_prefixes, guide),
    )
    params = {"of": loaded.params, "temperature": jnp.float32(temperature)}
    return replace(loaded, discriminator=soft, params=params)


def hardened(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Returns what a discriminator says `[..., C]` of what it says at a temperature."""
    logs = temperature * np.log(np.maximum(probabilities, LEAST))
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _soft(log_class: jax.Array, params: Any) -> jax.Array:
    least = jnp.log(jnp.float32(LEAST))
    return jax.nn.log_softmax(jnp.maximum(log_class, least) / params["temperature"])


def _init(
    guide: Discriminator, params: Any, prompt: Prompt, hidden: jax.Array, *, capacity: Capacity
) -> tuple[jax.Array, Any]:
    log_class, state = guide.init(params["of"], prompt, hidden, capacity=capacity)
    return _soft(log_class, params), state


def _evaluate(guide: Discriminator, params: Any, state: Any, nodes: Nodes) -> tuple[jax.Array, Any]:
    log_class, state = guide.evaluate(params["of"], state, nodes)
    return _soft(log_class, params), state


def _evaluate_children(
    guide: Discriminator, params: Any, state: Any, nodes: Nodes, candidates: jax.Array | None
) -> jax.Array:
    assert guide.evaluate_children is not None
    return _soft(guide.evaluate_children(params["of"], state, nodes, candidates), params)


def _evaluate_prefixes(
    guide: Discriminator,
    params: Any,
    prompt: Prompt,
    tokens: jax.Array,
    lengths: jax.Array,
    hidden: jax.Array,
) -> jax.Array:
    assert guide.evaluate_prefixes is not None
    said = guide.evaluate_prefixes(params["of"], prompt, tokens, lengths, hidden)
    return _soft(said, params)
