"""What a region of another number format than the network's counts for."""

import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.attend_kernel import fits
from coopgen_jax.models.attention import SlotCache, attend_slots
from coopgen_jax.models.slots import Slots
from coopgen_jax.testing import TINY_LLAMA


@pytest.mark.parametrize(("dtype", "weight"), [("float32", 0.55), ("bfloat16", 0.5)])
def test_a_shift_that_bfloat16_would_lose_counts_in_a_float32_trunk(dtype, weight):
    half = jnp.bfloat16
    query = jnp.ones((1, 1, 1, 1), half)
    nothing = jnp.zeros((1, 1, 1, 1), half)
    trunk = jnp.asarray([100.0, 100.2], dtype).reshape(1, 1, 2, 1)
    values = jnp.asarray([0.0, 1.0], dtype).reshape(1, 1, 2, 1)
    prompt = (nothing[0], nothing[0], jnp.zeros((1, 1), bool))
    path = (nothing[..., None], nothing[..., None], jnp.zeros((1, 1, 1, 1), bool))
    written = jnp.ones((1, 1, 2), bool)
    found = attend_slots(
        query, -query, query * 0, prompt=prompt, trunk=(trunk, values, written), path=path, scale=1
    )
    assert found.dtype == half
    np.testing.assert_allclose(np.float32(found), weight, atol=5e-3)


def test_a_cache_of_two_formats_is_none_for_the_kernel():
    config, width = TINY_LLAMA, TINY_LLAMA.kv_heads * TINY_LLAMA.head_width

    def cache(trunk: str) -> SlotCache:
        slots = Slots(jnp.zeros((1, 1, 1, 16, width)), jnp.zeros((1, 1, 1, 2, width), trunk), 1)
        prompt = jnp.zeros((1, 1, 4, width))
        return SlotCache(prompt, prompt, jnp.ones((1, 4), bool), slots, slots)

    assert fits(cache("float32"), 4, config)
    assert not fits(cache("bfloat16"), 4, config)
