"""A discriminator's judgement of a text, as a decoder has it read."""

import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Capacity
from tests.compiled import compiled
from tests.discriminators.trees import prompt_of


def judged(discriminator, params, text: list[int]) -> np.ndarray:
    """log p(class | text) of a text read token by token, as a decoder has it read."""
    prompt = prompt_of([[1]], 1)
    room = Capacity(1, 1, 8)
    discriminator = compiled(discriminator)
    _, state = discriminator.init(params, prompt, jnp.zeros((1, 1, 0, 1)), capacity=room)
    for at, token in enumerate(text):
        path = [*range(1, at + 1), *[-1] * (6 - at)]
        nodes = Nodes(
            start=jnp.int32(at + 1),
            token=jnp.full((1, 1, 1), token, jnp.int32),
            parent=jnp.full((1, 1, 1), at, jnp.int32),
            path=jnp.asarray(path, jnp.int32).reshape(1, 1, 1, -1),
            depth=jnp.full((1, 1, 1), at + 1, jnp.int32),
            committed=jnp.zeros((1, 1), jnp.int32),
            terminal=jnp.zeros((1, 1, 1), bool),
        )
        log_class, state = discriminator.evaluate(params, state, nodes)
    return np.asarray(log_class[0, 0, 0])
