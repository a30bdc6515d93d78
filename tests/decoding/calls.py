"""How often, and how wide, a decoder's step calls the language model."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.job import Job
from tests.decoding.toy import JUDGE, MODEL, PARAMS


def calls_of(decoder, config, prompt) -> list[tuple[int, ...]]:
    """Returns the shape `[B, R, W]` of the nodes of every call in one `advance`."""
    calls = []

    def extend(params, cache, nodes):
        calls.append(nodes.token.shape)
        return MODEL.extend(params, cache, nodes)

    job = Job(
        prompt=prompt,
        params=PARAMS,
        discriminator_params=PARAMS,
        target=jnp.zeros(len(prompt.index), jnp.int32),
        language_model=replace(MODEL, extend=extend),
        discriminator=JUDGE,
        config=config,
    )
    state = jax.eval_shape(decoder.begin, job)
    jax.eval_shape(decoder.advance, jax.random.key(0), job, state)
    return calls
