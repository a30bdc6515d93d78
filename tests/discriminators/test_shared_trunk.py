"""The running mean along a tree against reading each text anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.discriminators.head import Head, HeadConfig, classify
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, features, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import init_decoder, tapped
from coopgen_jax.testing import TINY_LLAMA
from tests.discriminators.trees import CONFIG, ROWS, check_every_node, prompt_of

TAPS = (1, 3)
CLASSES = ("bad", "good", "none")
HEAD = HeadConfig(CLASSES, 2 * len(TAPS) * TINY_LLAMA.width, (16,))
PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)
HEAD_PARAMS = Head(HEAD).init(jax.random.key(1), jnp.zeros((1, HEAD.inputs)))["params"]
HEAD_PARAMS = HEAD_PARAMS | {"centre": jnp.full(HEAD.inputs, 0.1)}
MODEL = language_model(TINY_LLAMA, TAPS)


@jax.jit
def states_of(tokens, mask):
    x, _, streams, _ = read(TINY_LLAMA, PARAMS, tokens, mask)
    return tapped(TINY_LLAMA, PARAMS, x, streams, TAPS)[0]


def judged_anew(prompt: list[int], text: list[int], reads_prompt: bool) -> np.ndarray:
    padded = prompt_of([[*prompt, *text]], 16)
    states = states_of(padded.tokens, padded.mask)
    counted = states[-len(text) :] if not reads_prompt else states[-len(prompt) - len(text) :]
    inputs = features(states[-1], counted.mean(axis=0))
    return np.asarray(classify(HEAD, HEAD_PARAMS, inputs[None])[0])


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_every_node_is_judged_as_if_read_anew(reads_prompt):
    guide = shared_trunk(SharedTrunkConfig(TAPS, reads_prompt, HEAD))
    job = Job(
        prompt=prompt_of(ROWS),
        language_model=MODEL,
        params=PARAMS,
        discriminator=guide,
        discriminator_params=HEAD_PARAMS,
        target=jnp.asarray([0, 1]),
        config=CONFIG,
    )
    state = jax.jit(decoder.begin)(job)
    root = state.generation.log_class
    if reads_prompt:
        assert not np.allclose(root, root[..., :1])
    else:
        np.testing.assert_allclose(root, -np.log(3), rtol=1e-6)
    check_every_node(job, state, lambda row, text: judged_anew(ROWS[row], text, reads_prompt))


def test_equal_configs_make_equal_discriminators():
    again = HeadConfig(CLASSES, HEAD.inputs, (16,))
    config = SharedTrunkConfig(TAPS, False, HEAD)
    assert shared_trunk(config) == shared_trunk(SharedTrunkConfig(TAPS, False, again))
    assert shared_trunk(config).taps == TAPS


def test_a_head_standardises_its_input():
    head = HeadConfig(("a", "b"), 3, ())
    params = Head(head).init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    x = jnp.asarray([[1.0, -2.0, 0.5]])
    moved = params | {"centre": jnp.full(3, 5.0), "scale": jnp.full(3, 0.5)}
    np.testing.assert_allclose(
        classify(head, moved, 2 * x + 5), classify(head, params, x), atol=1e-6
    )
    np.testing.assert_allclose(jnp.exp(classify(head, params, x)).sum(), 1, rtol=1e-6)


def test_dropout_is_for_training_alone():
    head = HeadConfig(("a", "b"), 8, (4,), dropout=0.5)
    params = Head(head).init(jax.random.key(0), jnp.zeros((1, 8)))["params"]
    x = jnp.ones((1, 8))
    first, second = (
        Head(head).apply({"params": params}, x, training=True, rngs={"dropout": jax.random.key(k)})
        for k in (0, 1)
    )
    assert (first != second).any()
    np.testing.assert_array_equal(classify(head, params, x), classify(head, params, x))
