"""Dense layers and layer norms as plain functions of their parameters, and what shape those have.

Parameters of a layer are `{"kernel" [in, out], "bias" [out]}`, those of a norm `{"scale" [E],
"bias" [E]}`; a bias may be missing. Products take operands of a network's dtype; everything else
is float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from coopgen_jax.models.product import product

Params = dict[str, Any]


def affine(x: jax.Array, layer: Params, dtype: str) -> jax.Array:
    """Returns a dense layer's output `[n, ..., out]` in float32, from `x` `[n, ..., in]`."""
    rows = x.reshape(-1, x.shape[-1])
    y = product("ni,io->no", rows, layer["kernel"], dtype)
    if "bias" in layer:
        y = y + layer["bias"].astype(jnp.float32)[None, :]
    return y.reshape(*x.shape[:-1], -1)


def layer_norm(x: jax.Array, norm: Params, epsilon: float) -> jax.Array:
    """Returns `x` `[..., E]` with mean 0 and variance 1, times a scale and plus a bias."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    y = centred * jax.lax.rsqrt(variance + epsilon) * norm["scale"].reshape(shape)
    return y + norm["bias"].reshape(shape) if "bias" in norm else y


def array(*shape: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of a float32 parameter."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def dense_shape(inputs: int, outputs: int, *, bias: bool = True) -> Params:
    """Returns the shapes of a dense layer's parameters."""
    return {"kernel": array(inputs, outputs)} | ({"bias": array(outputs)} if bias else {})


def norm_shape(width: int, *, bias: bool = True) -> Params:
    """Returns the shapes of a norm's parameters."""
    return {"scale": array(width)} | ({"bias": array(width)} if bias else {})


def stacked(shapes: Params, layers: int) -> Params:
    """Returns shapes with a leading axis of so many layers."""
    return jax.tree.map(lambda leaf: array(layers, *leaf.shape), shapes)
