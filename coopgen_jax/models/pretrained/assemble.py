"""From named tensors of a file to a tree of parameters, checked on the way."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np
from jax.tree_util import DictKey, SequenceKey

from coopgen_jax.errors import UserError
from coopgen_jax.models.product import are_bits

Params = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from: the tensor of a name, in which `{}` stands for the layer.

    A transposed tensor has the parameter's two axes in the other order. Where queries, keys and
    values are one tensor, `third` says which third of its first axis is the parameter. Rows that
    are `interleaved` alternate between the two halves of the rotation, of so many heads, as GGUF
    files of the llama architecture have them. Layers are numbered from `first` on.
    """

    name: str
    transposed: bool = False
    third: int | None = None
    interleaved: int = 0
    first: int = 0


class Weights(Protocol):
    """Named tensors of one file or folder; `label` is what messages call it."""

    label: str

    def find(self, name: str) -> str | None:
        """Returns the name under which the tensor `name` is kept, or None."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor that was found."""

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor that was found, as floating-point numbers."""


def assemble(
    shapes: Params, sources: Mapping[str, Source], weights: Weights, dtype: str = "float32"
) -> Params:
    """Reads every parameter of a dtype; those of norms and single numbers stay float32.

    The leaves of the tree `shapes` have a `shape`, and a `dtype` that tells bits (`product.bits`)
    from numbers; what is under a "layers" is stacked on a leading layer axis, or a tuple of layers.
    `sources` says where each leaf comes from, by its path, as in "layers/query/kernel". Tensors
    have the right shapes and hold finite numbers, or UserError is raised.
    """

    def leaf(path: tuple[Any, ...], spec: Any) -> jax.Array:
        keys = [entry.key for entry in path if isinstance(entry, DictKey)]
        numbers = [entry.idx for entry in path if isinstance(entry, SequenceKey)]
        source = sources["/".join(keys)]
        exact = math.prod(spec.shape) == 1 or any(key.endswith("norm") for key in keys)
        kind = np.float32 if exact else jax.numpy.dtype(dtype)
        values = np.empty(spec.shape, kind)
        if "layers" in keys and not numbers:
            for layer in range(len(values)):
                name = source.name.format(source.first + layer)
                values[layer] = _tensor(source, name, spec.shape[1:], weights)
        else:
            values[...] = _tensor(source, source.name.format(*numbers), spec.shape, weights)
        return jax.device_put(values.view(spec.dtype) if are_bits(spec) else values)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def _tensor(source: Source, name: str, shape: tuple[int, ...], weights: Weights) -> np.ndarray:
    stored = weights.find(name)
    if stored is None:
        raise UserError(
            f"{weights.label} has no tensor {name!r}: the file is incomplete, or its configuration "
            "is another model's"
        )
    expected = shape if source.third is None else (3 * shape[0], *shape[1:])
    if source.transposed:
        expected = expected[::-1]
    found = weights.shape(stored)
    if found != expected:
        raise UserError(
            f"tensor {stored!r} of {weights.label} has the shape {list(found)} where its "
            f"configuration asks for {list(expected)}: the two belong to different models"
        )
    values = weights.read(stored)
    # A sum reads the memory once and allocates nothing; only a suspicious one is looked into.
    with np.errstate(all="ignore"):
        total = values.sum(dtype=np.float32)
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise UserError(
            f"tensor {stored!r} of {weights.label} holds numbers that are not finite: the file is "
            "damaged, fetch it again"
        )
    if source.interleaved:
        pairs = values.reshape(source.interleaved, -1, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    if source.transposed:
        values = values.T
    if source.third is not None:
        values = np.split(values, 3)[source.third]
    return values
