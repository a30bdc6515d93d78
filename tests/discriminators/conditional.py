"""A toy discriminator that knows something of every row beside its text."""

from dataclasses import replace
from typing import Any

import jax

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import Bound
from coopgen_jax.testing import ToyLanguage, toy_discriminator


def conditional(toy: ToyLanguage) -> Discriminator:
    """The toy's discriminator, to whose log-probabilities a row's context `[B, 2]` is added."""
    plain = toy_discriminator(toy)
    return replace(plain, init=Bound(_init, plain), evaluate=Bound(_evaluate, plain),
                   evaluate_children=None)  # fmt: skip


def _init(plain: Discriminator, params: Any, prompt: Any, hidden: Any, *, capacity: Any) -> Any:
    log_class, state = plain.init(params, prompt, hidden, capacity=capacity)
    return jax.nn.log_softmax(log_class + prompt.context), (state, prompt.context)


def _evaluate(plain: Discriminator, params: Any, state: Any, nodes: Any) -> Any:
    log_class, own = plain.evaluate(params, state[0], nodes)
    return jax.nn.log_softmax(log_class + state[1][:, None, None]), (own, state[1])
