"""How fast a machine reads, multiplies and sorts, measured in a few seconds."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Machine:
    """What a roofline needs to know.

    bandwidth: bytes per second at which weights are read.
    rate: floating-point operations per second of large matrix products.
    ranking: logits per second out of which the likeliest are picked.
    step: seconds that one layer costs however small it is.
    overlap: whether reading and multiplying go on at the same time, as on an accelerator.
    """

    bandwidth: float
    rate: float
    ranking: float
    step: float
    overlap: bool


def on_accelerator() -> bool:
    """Tells whether JAX's first device is something else than a processor."""
    return jax.devices()[0].platform != "cpu"


def best_seconds(function: Callable, *arguments: Any, repeats: int = 7) -> float:
    """Returns the median seconds of the faster half of the calls, after one that compiles."""
    program = jax.jit(function)
    jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(sorted(seconds)[: (repeats + 1) // 2])


def _through_layers(row: jax.Array, weights: jax.Array) -> jax.Array:
    def layer(row: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        return (row @ weight) / weight.shape[0], None

    return jax.lax.scan(layer, row, weights)[0]


def _through_each(row: jax.Array, weights: tuple[jax.Array, ...]) -> jax.Array:
    for weight in weights:
        row = jnp.einsum("ri,oi->ro", row, weight) / weight.shape[0]
    return row


def measure(dtype: str = "float32") -> Machine:
    """Measures the machine that JAX runs on, for weights of a dtype.

    Weights are read as separate layers are (`models.layout`): matrices that no cache holds
    together, each multiplied by one row where it lies.
    """
    large = on_accelerator()
    width, layers = (8192, 16) if large else (2048, 24)
    weights = tuple(jnp.ones((width, width), dtype) for _ in range(layers))
    read = best_seconds(_through_each, jnp.ones((1, width), dtype), weights)
    bandwidth = sum(weight.nbytes for weight in weights) / read
    del weights
    square = jnp.ones((width, width), dtype)
    multiply = best_seconds(jnp.matmul, square, square)
    logits = jax.random.normal(jax.random.key(0), (16, 32768))
    rank = best_seconds(lambda x: (jax.lax.top_k(x, 50), jax.nn.logsumexp(x, axis=-1)), logits)
    small = jnp.ones((64, 64, 64), dtype)
    step = best_seconds(_through_layers, jnp.ones((1, 64), dtype), small) / len(small)
    # A layer of a transformer is some twenty operations, of which this one had two.
    return Machine(
        bandwidth=bandwidth,
        rate=2 * width**3 / multiply,
        ranking=logits.size / rank,
        step=10 * step,
        overlap=large,
    )
