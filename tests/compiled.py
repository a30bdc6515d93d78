"""Records whose functions are compiled whole where a test calls them by themselves.

Without it they run operation by operation, and JAX compiles every operation separately for every
shape: a hundred of them take as long as the test.
"""

import dataclasses
import functools
from typing import Any

import jax

STATIC = {"prefill": ("capacity",), "init": ("capacity",)}


@functools.cache
def compiled(record: Any) -> Any:
    """Returns a language model or a discriminator with its functions under `jit`."""
    functions = {
        field.name: jax.jit(function, static_argnames=STATIC.get(field.name, ()))
        for field in dataclasses.fields(record)
        if callable(function := getattr(record, field.name))
    }
    return dataclasses.replace(record, **functions)
