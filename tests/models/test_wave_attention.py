"""Attention of a wave in one kernel: interpreted on a processor, and compiled for absent TPUs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.attend_kernel import fits
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.wave_attention import How, attend_wave
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from tests.models.attend_checks import CHECKS
from tests.models.waves import LAYER, Shape, drawn, plain, regions_of
from tests.tpu import last_line_of, needs_libtpu, slow_but

CASES = {
    "one node": Shape(batch=2, samples=1, wave=1, heads=4, kv_heads=4, width=64),
    "grouped queries": Shape(batch=1, samples=2, wave=4, heads=8, kv_heads=2, width=64),
    "wide heads": Shape(batch=1, samples=1, wave=16, heads=6, kv_heads=3, width=128, nodes=300),
    "narrow heads": Shape(batch=2, samples=3, wave=3, heads=4, kv_heads=2, width=8),
    "no trunk": Shape(batch=2, samples=1, wave=4, heads=2, kv_heads=2, width=64, trunk=0),
    "no prompt": Shape(batch=2, samples=1, wave=4, heads=2, kv_heads=1, width=64, prompt=0),
    "full registers": Shape(
        batch=1, samples=1, wave=8, heads=2, kv_heads=2, width=64, prompt=128, trunk=128, nodes=128
    ),
    "several grid steps": Shape(
        batch=2, samples=2, wave=4, heads=24, kv_heads=24, width=64, prompt=3, trunk=2, nodes=5
    ),
    "bfloat16": Shape(
        batch=2, samples=2, wave=16, heads=8, kv_heads=4, width=64, nodes=37, dtype="bfloat16"
    ),
    "bfloat16 wide": Shape(
        batch=1, samples=1, wave=4, heads=4, kv_heads=2, width=128, dtype="bfloat16"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_plain_attention(case):
    shape = CASES[case]
    own, cache, seen = drawn(shape)
    scale = 0.3 if case == "grouped queries" else None
    regions = regions_of(cache)
    # The kernel reads the whole cache; its own layer's part is for a gradient.
    unread = jax.tree.map(lambda array: jnp.full_like(array, jnp.nan), regions)
    found = jax.jit(attend_wave, static_argnums=0)(
        How(scale, interpret=True), own, unread, jnp.int32(LAYER), cache, seen
    )
    expected = jax.jit(functools.partial(plain, scale=scale))(own, regions, seen)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    slack = 2e-2 if shape.dtype == "bfloat16" else 2e-6
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32), rtol=slack, atol=slack
    )


def test_a_gradient_is_that_of_plain_attention():
    shape = CASES["grouped queries"]
    own, cache, seen = drawn(shape)
    regions = regions_of(cache)

    def by_kernel(own: tuple, regions: tuple) -> jax.Array:
        how = How(0.3, interpret=True)
        return jnp.sum(attend_wave(how, own, regions, jnp.int32(LAYER), cache, seen) ** 2)

    def by_plain(own: tuple, regions: tuple) -> jax.Array:
        return jnp.sum(plain(own, regions, seen, 0.3) ** 2)

    gradients = [jax.jit(jax.grad(f, argnums=(0, 1)))(own, regions) for f in (by_kernel, by_plain)]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[1]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *gradients)


def cache_of(shape: Shape) -> SlotCache:
    return jax.eval_shape(lambda: drawn(shape)[1])


@pytest.mark.parametrize("config", [TINY_GPT2, TINY_LLAMA], ids=["gpt2", "llama"])
def test_what_has_no_room_does_not_fit(config):
    shape = Shape(2, 1, 16, config.heads, config.kv_heads, config.head_width, nodes=20)
    cache = cache_of(shape)
    assert fits(cache, 16, config)
    endless = cache_of(dataclasses.replace(shape, prompt=60_000))
    assert not fits(endless, 16, config) and not fits(cache, 20_000, config)
    assert not fits(cache_of(dataclasses.replace(shape, batch=0)), 16, config)


FAST = ("gpt2-small on v5e",)


@needs_libtpu
@pytest.mark.parametrize("check", slow_but(FAST, CHECKS))
def test_a_tpu_s_compiler_takes_it(check):
    assert last_line_of("tests.models.attend_checks", check) == check
