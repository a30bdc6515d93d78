"""How fast a machine reads, multiplies and sorts, measured in a few seconds."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.product import bits, numbers, rows_times
from coopgen_jax.parallel.platform import activation_dtype, on_accelerator

# Rows of the products that are timed.
ROWS = (1, 2, 4, 8, 16, 64, 256)


@dataclass(frozen=True)
class Machine:
    """What a prediction needs to know.

    bandwidth: bytes per second at which weights are read.
    rate: floating-point operations per second of large matrix products.
    ranking: logits per second out of which the likeliest are picked.
    step: seconds that one layer costs however small it is.
    stacked, separate: rows and, for so many, the seconds that a product takes per weight, of layers
      in one stack and of matrices in arrays of their own (see `models.layer_layout`); empty where
      nothing has been measured and a product takes what its bandwidth or its rate takes, the
      longer one.
    """

    bandwidth: float
    rate: float
    ranking: float
    step: float
    stacked: tuple[tuple[int, float], ...] = ()
    separate: tuple[tuple[int, float], ...] = ()


def _median_seconds(function: Callable, *arguments: Any) -> float:
    """Returns the median seconds of three calls, after one that compiles."""
    program = jax.jit(function)
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _product(rows: jax.Array, weight: jax.Array) -> jax.Array:
    """Multiplies `[rows, I]` by a kernel as the networks keep it, `[O, I]`."""
    found = rows_times(rows, weight, str(weight.dtype)) / weight.shape[0]
    return found.astype(rows.dtype)


def _through_stack(rows: jax.Array, weights: jax.Array) -> jax.Array:
    def step(rows: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        return _product(rows, numbers(weight)), None

    return jax.lax.scan(step, rows, weights)[0]


def _through_each(rows: jax.Array, weights: tuple[jax.Array, ...]) -> jax.Array:
    for weight in weights:
        rows = _product(rows, weight)
    return rows


def _as_stacked(weights: jax.Array) -> jax.Array:
    """Returns a stack of matrices as `layer_layout.for_this_device` lays it out."""
    return weights if on_accelerator() else bits(weights)


def measure(dtype: str = "float32") -> Machine:
    """Measures the machine that JAX runs on, for weights of a dtype.

    All weights together are more than a cache holds. On a processor the matrices of a stack are 3
    MB: larger ones of float32 are not stacked there (see `models.layer_layout`).
    """
    large, item = on_accelerator(), jnp.dtype(dtype).itemsize
    activations = activation_dtype(dtype)
    width, layers = (8192, 8) if large else (2048, 48 // item)
    low, deep = (8192, 8) if large else (math.isqrt(3 * 2**20 // item), 64)
    each = tuple(jnp.ones((width, width), dtype) for _ in range(layers))
    stack = _as_stacked(jnp.ones((deep, low, low), dtype))

    def curve(function: Callable, weights: Any, width: int) -> tuple[tuple[int, float], ...]:
        count = sum(leaf.size for leaf in jax.tree.leaves(weights))
        return tuple(
            (rows, _median_seconds(function, jnp.ones((rows, width), activations), weights) / count)
            for rows in ROWS
        )

    separate = curve(_through_each, each, width)
    stacked = curve(_through_stack, stack, low)
    square = each[0]
    multiply = _median_seconds(jnp.matmul, square, square)
    logits = jax.random.normal(jax.random.key(0), (16, 32768))
    rank = _median_seconds(lambda x: (jax.lax.top_k(x, 50), jax.nn.logsumexp(x, axis=-1)), logits)
    small = _as_stacked(jnp.ones((64, 64, 64), dtype))
    step = _median_seconds(_through_stack, jnp.ones((1, 64), activations), small) / len(small)
    # A layer of a transformer is some twenty operations, of which this one had two.
    return Machine(
        bandwidth=square.dtype.itemsize / separate[0][1],
        rate=2 * width**3 / multiply,
        ranking=logits.size / rank,
        step=10 * step,
        stacked=stacked,
        separate=separate,
    )
