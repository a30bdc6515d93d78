"""How a class head begins: random weights, and a standardisation of what it reads."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.head import Head, HeadConfig


def begin_head(head: HeadConfig, *, seed: int, standardised: bool) -> dict[str, Any]:
    """Returns a head's first trainable parameters.

    Where a frozen `standardisation` is joined to them, their own is left out; without one the
    head's own, which changes nothing at first, is trained.
    """
    drawn = Head(head).init(jax.random.key(seed), jnp.zeros((1, head.inputs)))["params"]
    own = ("centre", "scale") if standardised else ()
    return {name: leaf for name, leaf in drawn.items() if name not in own}


def standardisation(parts: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the mean and the inverse deviation `[E]` of what a head sees, parts of `[n, E]`."""
    total, squares, count = 0.0, 0.0, 0
    for part in parts:
        states = part.astype(np.float64)
        total, squares = total + states.sum(axis=0), squares + (states**2).sum(axis=0)
        count += len(states)
    centre = total / count
    spread = np.sqrt(np.maximum(squares / count - centre**2, 0.0))
    scale = 1.0 / np.maximum(spread, 1e-6)
    return {"centre": np.asarray(centre, np.float32), "scale": np.asarray(scale, np.float32)}
