"""A disk on which no file becomes larger than so many bytes."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def full_behind(size: int) -> Iterator[None]:
    """Has the system refuse what would stand behind the first `size` bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    # JAX warns where it cannot keep what it compiles, and a warning is an error in a test.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    # Python ignores the signal that comes with it, and sees the error.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
