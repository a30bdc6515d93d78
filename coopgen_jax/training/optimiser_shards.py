"""Which device keeps what of an optimiser's state and of the parameters, where none keeps all.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), stages 1 and 2: gradients are summed so that every
device gets its part of the sum only. It updates its part of the optimiser's state and of the
parameters, and the parameters are gathered. Stage 3: between steps a device keeps its part of the
parameters only, and they are gathered in front of a step. An array keeps its shape; only the place
of its parts changes, so that a checkpoint fits any number of devices.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from coopgen_jax.models.layer_layout import rounded_matrices
from coopgen_jax.parallel.mesh import BATCH, P


def divided(tree: Any, mesh: Mesh) -> Any:
    """Returns how devices share arrays: a `PartitionSpec` for every leaf, an array or its shape.

    Its longest axis that can be split evenly is, the first of equal ones; `P()` where there is
    none, as for a scalar, which every device then has in full.
    """
    parts = mesh.shape[BATCH]

    def one(leaf: Any) -> P:
        shape = leaf.shape
        even = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
        if not even:
            return P()
        return P(*[None] * max(even, key=lambda axis: shape[axis]), BATCH)

    return jax.tree.map(one, tree)


def lying(specs: Any, mesh: Mesh) -> Any:
    """Returns the shardings of arrays that lie on a mesh as their specs say."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def gathered(params: Any, mesh: Mesh, dtype: str) -> Any:
    """Returns parameters in full on every device, inside a compiled function.

    Matrices are rounded to `dtype` where they lie, as `layer_layout.rounded_matrices` says: two
    bytes of a number cross over instead of four.
    """
    constrain = jax.lax.with_sharding_constraint
    rounded = constrain(rounded_matrices(params, dtype), lying(divided(params, mesh), mesh))
    complete: Any = constrain(rounded, NamedSharding(mesh, P()))
    return complete


def in_full(params: Any, mesh: Mesh) -> Any:
    """Returns parameters in full on every device, also those of a mesh of several processes."""
    there = NamedSharding(mesh, P())
    leaves = jax.tree.leaves(params)
    if all(leaf.sharding.is_equivalent_to(there, leaf.ndim) for leaf in leaves):
        return params
    return jax.jit(lambda params: params, out_shardings=there)(params)


def summed(tree: Any, specs: Any) -> Any:
    """Adds up what devices have, inside a mapped function; each gets what its specs give it.

    That is the full sum for `P()`; for "batch" on an axis a device's own part of the sum, which
    takes half as much to send.
    """
    if jax.lax.psum(1, BATCH) == 1:
        # A processor would copy every array to add it to nothing.
        return tree

    def one(spec: P, leaf: jax.Array) -> jax.Array:
        if BATCH not in spec:
            return jax.lax.psum(leaf, BATCH)
        axis = list(spec).index(BATCH)
        return jax.lax.psum_scatter(leaf, BATCH, scatter_dimension=axis, tiled=True)

    return jax.tree.map(one, specs, tree)
