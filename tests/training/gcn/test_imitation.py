"""The generator's loss on weighted texts, against the scores of the language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.data.batches import pad
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import init_decoder, unembed
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from tests.compiled import compiled
from tests.discriminators.trees import prompt_of

ROWS = [[3, 4, 5], [9], [10, 11, 12, 13, 14]]
# One empty row, which must weigh nothing.
BATCH = jax.tree.map(jnp.asarray, pad([*ROWS, []], [0] * 4, np.arange(4)))
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def weighted():
    """A batch of weighted texts behind sources, a network and what it is held to."""
    config = TINY_LLAMA
    params, other = (init_decoder(jax.random.key(seed), config) for seed in (3, 4))
    places = jnp.arange(BATCH["mask"].shape[1])[None]
    batch = {
        **BATCH,
        "written": BATCH["mask"] & (places >= jnp.asarray([[1], [1], [2], [0]])),
        "weight": jnp.asarray([2.0, 0.5, -1.0, 0.0]),
    }  # fmt: skip
    return config, params, other, batch


def test_a_weighted_text_counts_its_weight_times_its_likelihood_behind_its_source(weighted):
    config, params, _, batch = weighted
    score = compiled(language_model(config)).score
    logs = []
    for row, cut in zip(ROWS, (1, 1, 2), strict=True):
        text = jnp.asarray(row[cut:] or [0], jnp.int32)[None, None]
        there = jnp.full(text.shape, bool(row[cut:]))
        logs.append(float(score(params, prompt_of([row[:cut]], cut), text, there).sum()))
    total, rows = jax.jit(weighted_likelihood_loss(config))(params, None, batch, KEY)["loss"]
    assert float(total) == pytest.approx(-(2 * logs[0] + 0.5 * logs[1] - logs[2]), abs=1e-4)
    assert float(rows) == 3


def test_the_divergence_is_that_of_both_distributions_at_every_written_token(weighted):
    config, params, other, batch = weighted
    held = weighted_likelihood_loss(config, reference=lambda fixed: fixed, kl=0.3)
    found = jax.jit(held)(params, other, batch, KEY)

    def log_probs(network):
        _, stream, _, _ = read(config, network, batch["tokens"], batch["mask"])
        return np.asarray(jax.nn.log_softmax(unembed(config, network, stream)), np.float64)

    ours, theirs = log_probs(params), log_probs(other)
    away = 0.0
    for row, at in zip(*np.nonzero(np.asarray(batch["written"])), strict=True):
        if at:
            here, there = ours[row, at - 1], theirs[row, at - 1]
            away += float(np.exp(here) @ (here - there))
    assert float(found["kl"][0]) == pytest.approx(away, rel=1e-4)
    free = jax.jit(weighted_likelihood_loss(config))(params, other, batch, KEY)["loss"][0]
    assert float(found["loss"][0]) == pytest.approx(float(free) + 0.3 * away, rel=1e-4)
    same = jax.jit(held)(params, params, batch, KEY)["kl"][0]
    assert float(same) == pytest.approx(0, abs=1e-5)
