"""Several discriminators as one: products with weights, negations, thresholds, many targets.

A composition has one class, "all". Its terms i multiply, each with a weight and a threshold:

    log p(all | x) = sum_i w_i * min(log q_i - log t_i, 0),    q_i = p_i(c_i|x) or 1 - p_i(c_i|x).

With weights and thresholds of 1 this is the conjunction of independent judgements. Weights,
thresholds and classes are arrays in `params`: changing them compiles nothing anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.discriminators.discriminator import LEAST, Discriminator
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound, Nodes, Prompt
from coopgen_jax.models.slots import Capacity

# The class of a composition.
ALL = "all"


@dataclass(frozen=True, eq=False)
class Term:
    """One wish of several.

    Attributes:
      discriminator: who judges it.
      target: the class that the text is to have, or not to have.
      weight: the exponent of its probability; 0 leaves it out.
      threshold: the probability from which on the wish counts as fulfilled, above 0 and at most 1.
      negated: whether the text is to have any class but `target`.
    """

    discriminator: LoadedDiscriminator
    target: str
    weight: float = 1.0
    threshold: float = 1.0
    negated: bool = False


@dataclass(frozen=True)
class CompositionConfig:
    """What is composed.

    Attributes:
      parts: each is asked once per node.
      terms: of every term its part's number and its negation.
      names: what the terms' own probabilities are called; none where they are not told.
    """

    parts: tuple[Discriminator, ...]
    terms: tuple[tuple[int, bool], ...]
    names: tuple[str, ...] = ()


def compose(terms: Sequence[Term], *, names: Sequence[str] = ()) -> LoadedDiscriminator:
    """Makes one discriminator of several wishes.

    Terms with the same loaded discriminator have it read a text once.

    Args:
      terms: the wishes.
      names: where there are as many as terms, they are classes behind "all": the probability of
        each term's wish, without weight and threshold. These classes do not sum to one.

    Returns:
      The discriminator of the class "all". Its params hold those of the `parts` and, per term, the
      `weight`, the `threshold` and the number of the `target` class.

    Raises:
      UserError: there are no terms, a target is unknown, a weight negative, a threshold not in
        (0, 1], or there are not as many different names.
    """
    if names and len({ALL, *names}) != len(terms) + 1:
        raise UserError(f"the names are {', '.join(names)}: give each of the terms its own")
    if not terms:
        raise UserError("there is nothing to compose: give at least one term")
    loaded = list(dict.fromkeys(term.discriminator for term in terms))
    targets = []
    for term in terms:
        classes = term.discriminator.discriminator.classes
        if term.target not in classes:
            raise UserError(f"unknown target {term.target!r}: choose one of {', '.join(classes)}")
        if not term.weight >= 0:
            raise UserError(f"the weight of {term.target!r} is {term.weight}: it must be 0 or more")
        if not 0 < term.threshold <= 1:
            raise UserError(
                f"the threshold of {term.target!r} is {term.threshold}: it must be above 0 and at "
                "most 1"
            )
        targets.append(classes.index(term.target))
    config = CompositionConfig(
        tuple(one.discriminator for one in loaded),
        tuple((loaded.index(term.discriminator), term.negated) for term in terms),
        tuple(names),
    )
    params = {
        "parts": tuple(one.params for one in loaded),
        "target": jnp.asarray(targets, jnp.int32),
        "weight": jnp.asarray([term.weight for term in terms], jnp.float32),
        "threshold": jnp.asarray([term.threshold for term in terms], jnp.float32),
    }
    calls = tuple(dict.fromkeys(call for one in loaded for call in one.calls))
    return LoadedDiscriminator(composition(config), params, calls=calls)


def composition(config: CompositionConfig) -> Discriminator:
    """Returns the discriminator of the class "all"; its params are those that `compose` makes."""
    parts = config.parts
    ahead = all(part.evaluate_children is not None for part in parts)
    tokenizers = dict.fromkeys(part.tokenizer for part in parts if part.tokenizer)
    return Discriminator(
        init=Bound(_init, config),
        evaluate=Bound(_evaluate, config),
        evaluate_children=Bound(_evaluate_children, config) if ahead else None,
        classes=(ALL, *config.names),
        taps=_taps(config),
        reads_prompt=any(part.reads_prompt for part in parts),
        differentiable=all(part.differentiable for part in parts),
        tokenizer=", ".join(tokenizers) or None,
        parts=parts,
    )


def _taps(config: CompositionConfig) -> tuple[int, ...]:
    return tuple(sorted({tap for part in config.parts for tap in part.taps}))


def _own(config: CompositionConfig, part: Discriminator, hidden: jax.Array) -> jax.Array:
    """Returns the states `[..., J, E]` of one part's taps out of those of all."""
    places = [_taps(config).index(tap) for tap in part.taps]
    return hidden[..., jnp.asarray(places, jnp.int32), :]


def _combined(config: CompositionConfig, params: Any, judged: list[jax.Array]) -> jax.Array:
    """Returns log p(all | x) `[..., 1]` of what every part says, `[..., C]` each.

    Where terms have names, log p of each follows.
    """
    alone = []
    total = jnp.zeros(judged[0].shape[:-1], jnp.float32)
    for number, (part, negated) in enumerate(config.terms):
        log_class = jnp.maximum(judged[part], jnp.log(LEAST))
        log_p = jnp.take(log_class, params["target"][number], axis=-1)
        if negated:
            log_p = jnp.log(jnp.maximum(-jnp.expm1(log_p), LEAST))
        alone.append(log_p)
        short = jnp.minimum(log_p - jnp.log(params["threshold"][number]), 0.0)
        total = total + params["weight"][number] * short
    return jnp.stack([total, *alone] if config.names else [total], axis=-1)


def _init(
    config: CompositionConfig,
    params: Any,
    prompt: Prompt,
    hidden: jax.Array,
    *,
    capacity: Capacity,
) -> tuple[jax.Array, tuple]:
    pairs = [
        part.init(own, prompt, _own(config, part, hidden), capacity=capacity)
        for part, own in zip(config.parts, params["parts"], strict=True)
    ]
    judged, states = zip(*pairs, strict=True)
    return _combined(config, params, list(judged)), states


def _evaluate(
    config: CompositionConfig, params: Any, state: tuple, nodes: Nodes
) -> tuple[jax.Array, tuple]:
    assert nodes.hidden is not None
    pairs = [
        part.evaluate(own, before, replace(nodes, hidden=_own(config, part, nodes.hidden)))
        for part, own, before in zip(config.parts, params["parts"], state, strict=True)
    ]
    judged, states = zip(*pairs, strict=True)
    return _combined(config, params, list(judged)), states


def _evaluate_children(
    config: CompositionConfig,
    params: Any,
    state: tuple,
    nodes: Nodes,
    candidates: jax.Array | None,
) -> jax.Array:
    judged = []
    for part, own, before in zip(config.parts, params["parts"], state, strict=True):
        assert part.evaluate_children is not None
        judged.append(part.evaluate_children(own, before, nodes, candidates))
    return _combined(config, params, judged)
