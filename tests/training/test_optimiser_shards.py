"""Which axis of an array devices divide among themselves."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from coopgen_jax.parallel.mesh import BATCH, P
from coopgen_jax.training.optimiser_shards import divided


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((), P()),
        ((3,), P()),
        ((8,), P(BATCH)),
        ((24, 16), P(BATCH)),
        ((16, 24), P(None, BATCH)),
        ((24, 3), P(BATCH)),
        ((2, 8, 8), P(None, BATCH)),
        ((4096, 1024), P(BATCH)),
        ((4097, 1024), P(None, BATCH)),
        ((16, 1024, 2048), P(None, None, BATCH)),
    ],
)
def test_the_axis_that_devices_divide(shape, spec):
    mesh = SimpleNamespace(shape={BATCH: 4})
    assert divided({"leaf": jax.ShapeDtypeStruct(shape, jnp.float32)}, mesh) == {"leaf": spec}
