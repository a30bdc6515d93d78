"""What is said of a node's children stays the same when the node becomes the root."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import Job, read_nodes, read_prompts, roots
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.trunk_layers import trunk_layers
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from tests.discriminators.small_layers import GUIDE_PARAMS, PARAMS, SHAPE
from tests.discriminators.trees import CONFIG, ROWS, prompt_of

NETWORK = dataclasses.replace(TINY_LLAMA, layers=1)


def bayes() -> LoadedDiscriminator:
    config = GenerativeConfig(NETWORK, ("bad", "good"), ((7,), (8, 9)), reads_prompt=True)
    network = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(3), NETWORK))
    return LoadedDiscriminator(generative(config), generative_params(network, 2, scale=1.7))


def trunk() -> LoadedDiscriminator:
    return LoadedDiscriminator(trunk_layers(SHAPE), GUIDE_PARAMS)


def both() -> LoadedDiscriminator:
    return compose([Term(bayes(), "good"), Term(trunk(), "bad", negated=True, weight=2.0)])


@pytest.mark.parametrize("made", [bayes, trunk, both])
def test_a_node_has_the_same_children_in_the_tree_and_at_the_root(made):
    judge = made()
    job = Job(
        prompt=prompt_of(ROWS), params=PARAMS, discriminator_params=judge.params,
        language_model=language_model(TINY_LLAMA, judge.discriminator.taps),
        discriminator=judge.discriminator, config=CONFIG,
    )  # fmt: skip
    texts = jnp.asarray([[[4, 11], [2, 30]], [[6, 3], [8, 8]]])  # [B, R, W]

    @jax.jit
    def walk(job):
        _, log_class, states = read_prompts(job, Capacity(2, 2, 3), 4)
        nodes = Nodes(
            start=jnp.int32(1),
            token=texts,
            parent=jnp.zeros(texts.shape, jnp.int32),
            path=jnp.full((*texts.shape, 1), -1),
            depth=jnp.ones(texts.shape, jnp.int32),
            committed=jnp.zeros((2, 2), jnp.int32),
            terminal=jnp.zeros(texts.shape, bool),
        )
        none = jnp.zeros((2, 2), jnp.int32)

        def children(states, nodes):
            evaluate = job.discriminator.evaluate_children
            return evaluate(job.discriminator_params, states[1], nodes, None)

        bare = children(states, roots(none))
        above = jnp.broadcast_to(log_class[:, :, None], (2, 2, 2, log_class.shape[-1]))
        _, judged, states = read_nodes(job, states, nodes, above)
        in_tree = children(states, nodes)
        # The second lane becomes the root.
        states = commit(move(states, jnp.full((2, 2, 1), 2)), none)
        return bare, judged, in_tree, children(states, roots(none + 1))

    bare, judged, in_tree, at_root = walk(job)
    np.testing.assert_allclose(at_root[:, :, 0], in_tree[:, :, 1], atol=1e-5)
    assert np.abs(in_tree[:, :, 1] - in_tree[:, :, 0]).max() > 1e-3
    if made is bayes:
        for row, sample, lane in np.ndindex(2, 2, 2):
            np.testing.assert_allclose(
                bare[row, sample, 0, texts[row, sample, lane]], judged[row, sample, lane], atol=1e-4
            )
