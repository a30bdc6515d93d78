"""How a decoder's parameters lie in memory: their dtype, and one stack of layers or separate ones.

A scan slices every layer out of a stack. XLA's processor backend copies what it slices, and where a
matrix does not stay in the caches the copy takes about as long as multiplying few rows by it: a row
takes GPT-2 small, whose largest matrix has 9.4 MB, 37.9 ms stacked and 23.5 ms separate, on two
cores of an AMD EPYC in float32. Separate layers are read where they lie, but are traced and
compiled one by one, which takes SmolLM2-135M (3.5 MB) as long as it gains in a text. In bfloat16 a
stack takes a processor three times as long as in float32, whatever its size. XLA's GPU backend
copies the slices too: compiled for an H100, a wave of GPT-2 small reads and writes 2.0 GB stacked
and 1.6 GB separate. A TPU reads them in place.

Trained as a whole, a stack costs more: every layer's gradient is written into a stack of zeros, and
what a layer keeps for its gradient is copied into another one and out of it again. On a processor
layers are therefore trained one by one, at any size and with any part trainable.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey

from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.platform import on_accelerator, platform

# Bytes of the largest matrix above which a processor gets separate layers.
CACHED = 4 * 2**20


def separate_layers(params: Params) -> Params:
    """Returns a decoder's parameters with every layer's in arrays of their own, if they are not."""
    layers = params["layers"]
    if isinstance(layers, tuple):
        return params

    def one(number: int) -> Params:
        return jax.tree.map(lambda leaf: leaf[number], layers)

    count = len(jax.tree.leaves(layers)[0])
    return {**params, "layers": tuple(one(number) for number in range(count))}


def stack_layers(params: Params) -> Params:
    """Returns a decoder's parameters with its layers in one stack; undoes `separate_layers`."""
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
        return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

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
        return leaf.astype(dtype) if kernel or names[-1:] == ["head"] else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def for_this_device(params: Params) -> Params:
    """Returns stacked parameters as the platform multiplies few rows by them fastest."""
    return separate_layers(params) if _is_faster_separate(params) else params


def _is_faster_separate(params: Params) -> bool:
    if platform() != "cpu":
        # A TPU reads a layer where it lies in the stack, a GPU copies it out first.
        return platform() == "gpu"
    leaves = jax.tree.leaves(params["layers"])
    largest = max(leaf.size * leaf.dtype.itemsize // leaf.shape[0] for leaf in leaves)
    # Slices of bfloat16 are converted on their way out.
    return largest > CACHED or any(leaf.dtype == jnp.bfloat16 for leaf in leaves)


def for_training(params: Params) -> Params:
    """Returns stacked parameters as the platform trains them, or beside them, fastest."""
    return params if on_accelerator() else separate_layers(params)
