"""The networks' matrix products: operands of a network's dtype, sums and results in float32.

XLA's processor backend computes a bfloat16 product with a bfloat16 result by conversion. One with a
float32 result uses the processor's own bfloat16 instructions, if it has any. The products of a
gradient are of the same kind.
"""

from functools import partial

import jax
import jax.numpy as jnp

from coopgen_jax.parallel.platform import on_accelerator

# With fewer rows XLA does not call its library of processor products for bfloat16.
FEWEST_ROWS = 4

BITS = jnp.dtype("uint16")


def bits(array: jax.Array) -> jax.Array:
    """Returns a bfloat16 array as its bits, uint16, and any other as it is.

    XLA's processor backend copies whole numbers as they are, and bfloat16 by way of float32.
    """
    return jax.lax.bitcast_convert_type(array, BITS) if array.dtype == jnp.bfloat16 else array


def are_bits(array: jax.Array) -> bool:
    """Tells whether an array is what `bits` makes of bfloat16."""
    return array.dtype == BITS


def numbers(array: jax.Array) -> jax.Array:
    """Returns the bfloat16 numbers of an array of bits, and any other array as it is."""
    return jax.lax.bitcast_convert_type(array, jnp.bfloat16) if are_bits(array) else array


def product(equation: str, one: jax.Array, other: jax.Array, dtype: str) -> jax.Array:
    """Returns the Einstein sum of two arrays that are rounded to a dtype, in float32.

    Every letter of an operand stands in the other one or in the result, and none of them twice in a
    term: then a gradient is a sum of the same kind.

    Args:
      equation: as `jnp.einsum` reads it, such as "ni,oi->no".
      one: the first operand, of any dtype.
      other: the second operand, of any dtype.
      dtype: what operands are rounded to, in the gradient as well: "float32" or "bfloat16".

    Raises:
      TypeError: an operand is bits, which `numbers` reads.
    """
    if are_bits(one) or are_bits(other):
        raise TypeError("a product has bits for an operand: read them with numbers()")
    if dtype == "float32":
        return jnp.einsum(equation, one.astype(dtype), other.astype(dtype))
    return _rounded(equation, dtype, one, other)


def rows_times(rows: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """Returns the product `[n, out]` in float32 of rows `[n, in]` and a kernel `[out, in]`."""
    count = rows.shape[0]
    if dtype != "float32" and not on_accelerator() and count < FEWEST_ROWS:
        rows = jnp.pad(rows, ((0, FEWEST_ROWS - count), (0, 0)))
    return product("ni,oi->no", rows, kernel, dtype)[:count]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(equation: str, dtype: str, one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation, one.astype(dtype), other.astype(dtype), preferred_element_type=jnp.float32
    )


def _forwards(equation: str, dtype: str, one: jax.Array, other: jax.Array) -> tuple:
    kept = (one.astype(dtype), other.astype(dtype))
    # An array of nothing tells the gradient's dtype.
    dtypes = (jnp.zeros((), one.dtype), jnp.zeros((), other.dtype))
    return _rounded(equation, dtype, *kept), (kept, dtypes)


def _backwards(equation: str, dtype: str, residuals: tuple, change: jax.Array) -> tuple:
    (one, other), (first, second) = residuals
    terms, result = equation.split("->")
    left, right = terms.split(",")
    to_one = _rounded(f"{result},{right}->{left}", dtype, change, other)
    to_other = _rounded(f"{result},{left}->{right}", dtype, change, one)
    return to_one.astype(first.dtype), to_other.astype(second.dtype)


_rounded.defvjp(_forwards, _backwards)
