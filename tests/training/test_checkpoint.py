"""A checkpoint is that of its training, however the layers of its networks lie."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import relaid, separate_layers
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.checkpoint import Checkpoints
from coopgen_jax.training.step import TrainState, begin_on

PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)


def begun(params, *, count: float = 1.0) -> TrainState:
    """A state whose leaves all differ."""
    state = begin_on(make_mesh(1), params, optax.adam(1e-3))
    moments = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(count), state.optimiser_state)
    return replace(state, optimiser_state=moments)


@pytest.mark.parametrize("separate", [False, True], ids=["stacked", "separate"])
def test_layers_are_restored_from_either_layout(separate, tmp_path):
    stacked, apart = begun(PARAMS), begun(separate_layers(PARAMS))
    saved, other = (apart, stacked) if separate else (stacked, apart)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, saved, {"best": 1})
    for template in (saved, other):
        state, notes = checkpoints.restore(jax.tree.map(jnp.zeros_like, template))
        jax.tree.map(np.testing.assert_array_equal, state, template)
        for leaf, wanted in zip(*map(jax.tree.leaves, (state, template)), strict=True):
            assert leaf.sharding == wanted.sharding
        assert notes == {"best": 1}


def test_another_optimisers_state_is_refused_in_either_layout(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, begun(PARAMS), {})
    other = begin_on(make_mesh(1), PARAMS, optax.sgd(1e-3, momentum=0.9))
    for template in (other, relaid(other)):
        with pytest.raises(UserError, match="is of another training: give an empty folder"):
            checkpoints.restore(template)
