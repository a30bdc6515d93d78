"""How a decoder's parameters lie in memory: their dtype, and one stack of layers or separate ones.

A scan slices every layer out of a stack. XLA's processor backend copies what it slices, and where a
matrix does not stay in the caches the copy takes about as long as multiplying few rows by it: a row
takes GPT-2 small, whose largest matrix has 9.4 MB, 37.9 ms stacked and 23.5 ms separate, on two
cores of an AMD EPYC in float32. Separate layers are read where they lie, but are traced and
compiled one by one, which takes SmolLM2-135M (3.5 MB) as long as it gains in a text. XLA's GPU
backend copies the slices too: compiled for an H100, a wave of GPT-2 small reads and writes 2.0 GB
stacked and 1.6 GB separate. A TPU reads them in place.

XLA's processor backend converts a slice of a bfloat16 stack to float32 and back, which takes three
times as long as a product in float32. A slice of whole numbers of 16 bits it copies as they are. On
a processor a stack of bfloat16 therefore lies there as its bits, and a layer reads its own as
bfloat16 (`product.numbers`). On two cores with bfloat16 products 16 rows go through the matrices of
SmolLM2-135M in 23 ms, through separate ones in 29, through a stack of bfloat16 in 133 and through
one of float32 in 53.

Trained as a whole, a stack costs more: every layer's gradient is written into a stack of zeros, and
what a layer keeps for its gradient is copied into another one and out of it again. On a processor
layers are therefore trained one by one, at any size and with any part trainable.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from coopgen_jax.models.product import are_bits, bits, numbers
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.platform import on_accelerator, platform

# Bytes of the largest matrix above which a processor gets separate layers, and of bfloat16: 13 MB
# are copied as bits and multiplied as fast as a separate matrix is, 34 MB are not.
CACHED = 4 * 2**20
CACHED_BITS = 16 * 2**20


def separate_layers(params: Params) -> Params:
    """Returns a decoder's parameters with every layer's in arrays of their own, if they are not."""
    params = _with_numbers(params)
    layers = params["layers"]
    if isinstance(layers, tuple):
        return params

    def one(number: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[number], layers)

    count = len(jax.tree.leaves(layers)[0])
    return {**params, "layers": tuple(one(number) for number in range(count))}


def stack_layers(params: Params) -> Params:
    """Returns a decoder's parameters with its layers in one stack; undoes `separate_layers`."""
    params = _with_numbers(params)
    layers = params["layers"]
    if not isinstance(layers, tuple):
        return params
    return {**params, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def relaid(tree: Any) -> Any:
    """Returns a tree whose decoders are stacked where they were separate, and the other way round.

    A decoder's parameters are known by their "layers", and so is what an optimiser keeps of each.
    """

    def one(branch: Any) -> Any:
        if not _has_layers(branch):
            return branch
        separate = isinstance(branch["layers"], tuple)
        return stack_layers(branch) if separate else separate_layers(branch)

    return jax.tree.map(one, tree, is_leaf=_has_layers)


def _has_layers(branch: Any) -> bool:
    return isinstance(branch, dict) and "layers" in branch


def stored(params: Params, dtype: str) -> Params:
    """Returns a network's parameters as a loaded model has them: of a dtype, its norms float32."""

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf if "norm" in jax.tree_util.keystr(path) else numbers(leaf).astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def rounded_matrices(params: Any, dtype: str) -> Any:
    """Returns parameters in which the matrices of networks are rounded to a `dtype`.

    The network rounds them itself in front of every product, so that its results are the same.
    Their gradients are rounded on every device, where they would be added up in float32. What stays
    float32 is read in float32: norms, tables, whose gradients add up over many tokens, a
    discriminator's head; and LoRA's additions, which are scaled before they are rounded.
    """

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        names = [str(part.key) for part in path if isinstance(part, DictKey)]
        kernel = "layers" in names and names[-1] == "kernel"
        # Of an untied network this is the output layer; a discriminator's head has leaves below it.
        return numbers(leaf).astype(dtype) if kernel or names[-1:] == ["head"] else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def stacked_numbers(params: Params) -> bool:
    """Tells whether layers lie in one stack of numbers: not one by one, and not as bits."""
    separate = isinstance(params["layers"], tuple)
    return not separate and not any(map(are_bits, jax.tree.leaves(params)))


def _with_numbers(params: Params) -> Params:
    """Returns parameters, stacked or separate, that are numbers where they were bits."""
    if not any(map(are_bits, jax.tree.leaves(params))):
        return params
    return jax.tree.map(numbers, params)


def for_this_device(params: Params) -> Params:
    """Returns stacked parameters as the platform multiplies few rows by them fastest.

    They are stacked, separate, or on a processor a stack of bfloat16's bits; so is the encoder of
    an encoder-decoder, which is never separate.
    """
    if _is_faster_separate(params):
        params = separate_layers(params)
    halves = any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(params["layers"]))
    if on_accelerator() or not halves:
        return params
    laid = {**params, "layers": _as_bits(params["layers"])}
    if "encoder" in params:
        encoder = params["encoder"]
        laid["encoder"] = {**encoder, "layers": _as_bits(encoder["layers"])}
    return laid


def _as_bits(layers: Any) -> Any:
    """Returns a stack of layers as its bits, and separate layers as they are."""
    return layers if isinstance(layers, tuple) else jax.tree.map(bits, layers)


def _is_faster_separate(params: Params) -> bool:
    if platform() != "cpu":
        # A TPU reads a layer where it lies in the stack, a GPU copies it out first.
        return platform() == "gpu"

    def exceeds(leaf: jax.Array) -> bool:
        cached = CACHED if leaf.dtype.itemsize > 2 else CACHED_BITS
        return leaf.size * leaf.dtype.itemsize // leaf.shape[0] > cached

    return any(map(exceeds, jax.tree.leaves(params["layers"])))


def for_training(params: Params) -> Params:
    """Returns stacked parameters as the platform trains them, or beside them, fastest."""
    return _with_numbers(params) if on_accelerator() else separate_layers(params)
