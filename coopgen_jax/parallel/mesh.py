"""The mesh, and the one place that maps a per-device function over it.

A mesh has up to two axes. Along "batch" every device works on rows of its own, and a function
written for one device is mapped over them, by `jax.shard_map` or by `jax.pmap`. Along "tensor" the
devices share every row and hold a part of the weights each; there XLA splits the work by the
sharding of the arrays, inside the mapped function (GSPMD; Xu et al., 2021, arXiv 2105.04663).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from coopgen_jax.errors import UserError

BATCH, TENSOR = "batch", "tensor"
Mapper = Literal["shard_map", "pmap"]


# Marks what every device keeps to itself; see `map_over_mesh`.
OWN = "own"


def make_mesh(
    batch: int | None = None, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns a mesh of `batch` times `tensor` devices; the second axis is there if it is needed.

    Args:
      batch: how many parts the rows are split into; None for as many as there are devices.
      tensor: how many devices share one part's weights.
      devices: the devices to take, the first ones first; None for all that JAX knows. Of several
        processes each gives its own, `jax.local_devices()`, to work on its own.

    Raises:
      UserError: there are not so many devices.
    """
    found = list(jax.devices() if devices is None else devices)
    if tensor < 1 or (batch is not None and batch < 1):
        raise UserError(f"a mesh of {batch} by {tensor} devices: give 1 or more of each")
    if batch is None:
        batch = max(1, len(found) // tensor)
    if batch * tensor > len(found):
        raise UserError(
            f"a mesh of {batch} by {tensor} needs {batch * tensor} devices and this machine shows "
            f"{len(found)}: ask for fewer (a CPU poses as n devices under JAX_NUM_CPU_DEVICES=n)"
        )
    # An axis of one device would keep `pmap`, whose mesh has one axis, from working on this one.
    axes = {BATCH: batch, TENSOR: tensor} if tensor > 1 else {BATCH: batch}
    return jax.make_mesh(
        tuple(axes.values()),
        tuple(axes),
        # Explicit axes, the default, forbid the gathers that a tree search consists of.
        axis_types=(AxisType.Auto,) * len(axes),
        devices=found[: batch * tensor],
    )


def shares(mesh: Mesh | None) -> int:
    """Returns how many devices share the weights."""
    return 1 if mesh is None else int(mesh.shape.get(TENSOR, 1))


def place(tree: Any, mesh: Mesh, specs: Any = None) -> Any:
    """Puts a pytree of arrays onto a mesh; what lies there already is not copied.

    Where there is no like pytree of `PartitionSpec`s, every device is given everything.
    """
    if specs is None:
        return jax.device_put(tree, NamedSharding(mesh, P()))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)
    return jax.device_put(tree, shardings)


def share(rows: Any, mesh: Mesh) -> Any:
    """Puts host arrays, this process's rows of all, onto its part of a mesh's "batch" axis.

    Raises:
      UserError: the rows cannot be split evenly.
    """
    parts = max(1, mesh.shape[BATCH] // jax.process_count())
    _each(lambda spec, leaf: _check_even(spec, leaf, parts), P(BATCH), rows)
    sharding = NamedSharding(mesh, P(BATCH))
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), rows)


def map_over_mesh(
    function: Callable,
    mesh: Mesh,
    in_specs: tuple,
    out_specs: Any,
    *,
    mapper: Mapper = "shard_map",
) -> Callable:
    """Maps a function written for one device over the mesh's "batch" axis.

    The function may call collectives over the axis, such as `jax.lax.pmean(x, "batch")`. Without
    them its devices need not keep step: a `while_loop` may take more turns on one than on another.
    A host callback runs once per device. The result is meant to be called under `jax.jit`.

    Args:
      function: takes and returns pytrees of one device's part.
      mesh: the mesh; along "tensor" arrays keep whatever sharding they have.
      in_specs: for every argument a prefix tree of it with one of three kinds of leaf.
        `P("batch")` (or with leading Nones) splits that axis into equal parts; `P()` gives every
        device the whole; `OWN` takes an array with a leading axis of devices, of which each sees
        its own entry without that axis, so that opaque state needs no knowledge of its axes.
      out_specs: the same for what it returns. `P()` promises that all devices return the same, as
        they do behind a collective; it is not checked.
      mapper: "shard_map", or "pmap" for the same over `jax.pmap`, which knows no "tensor" axis.

    Returns:
      A function of whole arrays.

    Raises:
      UserError: there is no such mapper, `pmap` is to share weights, or, once it is called, an
        axis cannot be split evenly.
    """
    if mapper not in get_args(Mapper):
        raise UserError(f"there is no mapper {mapper!r}: choose one of shard_map, pmap")
    parts = mesh.shape[BATCH]
    if mapper == "pmap":
        if shares(mesh) > 1:
            raise UserError(
                f"pmap cannot share weights among {shares(mesh)} devices: use shard_map, or "
                "tensor=1"
            )
        mapped = _by_pmap(function, mesh, in_specs, out_specs)
    else:
        mapped = _by_shard_map(function, mesh, in_specs, out_specs)

    def checked(*args: Any) -> Any:
        _each(lambda spec, leaf: _check_even(spec, leaf, parts), in_specs, args)
        return mapped(*args)

    return checked


def _by_shard_map(function: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    def per_device(*args: Any) -> Any:
        args = _each(lambda spec, leaf: leaf[0] if spec is OWN else leaf, in_specs, args)
        return _each(
            lambda spec, leaf: leaf[None] if spec is OWN else leaf, out_specs, function(*args)
        )

    def plain(specs: Any) -> Any:
        return jax.tree.map(lambda s: P(BATCH) if s is OWN else s, specs, is_leaf=_is_spec)

    return jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=plain(in_specs),
        out_specs=plain(out_specs),
        axis_names={BATCH},
        # The check would have every loop's first carry marked as different on every device.
        check_vma=False,
    )


def _by_pmap(function: Callable, mesh: Mesh, in_specs: tuple, out_specs: Any) -> Callable:
    parts = mesh.shape[BATCH]

    def split(spec: Any, leaf: jax.Array) -> jax.Array:
        axis = _axis(spec)
        if spec is OWN or axis is None:
            return leaf
        rest = leaf.shape[axis] // parts
        return leaf.reshape(*leaf.shape[:axis], parts, rest, *leaf.shape[axis + 1 :])

    def join(spec: Any, leaf: jax.Array) -> jax.Array:
        axis = _axis(spec)
        if spec is OWN or axis is None:
            return leaf
        # Not -1, which an array of nothing leaves open.
        rows = leaf.shape[axis] * leaf.shape[axis + 1]
        return leaf.reshape(*leaf.shape[:axis], rows, *leaf.shape[axis + 2 :])

    per_device = jax.pmap(
        function,
        axis_name=BATCH,
        in_axes=jax.tree.map(_axis, in_specs, is_leaf=_is_spec),
        out_axes=jax.tree.map(_axis, out_specs, is_leaf=_is_spec),
        devices=list(mesh.devices.flat),
    )
    return lambda *args: _each(join, out_specs, per_device(*_each(split, in_specs, args)))


def _is_spec(value: Any) -> bool:
    return value is OWN or isinstance(value, P)


def _axis(spec: Any) -> int | None:
    """Returns the axis that runs over the devices of "batch", None where there is none."""
    axes = [BATCH] if spec is OWN else list(spec)
    return axes.index(BATCH) if BATCH in axes else None


def _each(function: Callable, specs: Any, tree: Any) -> Any:
    """Applies `function(spec, leaf)` to every leaf of `tree`, of which `specs` is a prefix."""

    def under(spec: Any, branch: Any) -> Any:
        return jax.tree.map(lambda leaf: function(spec, leaf), branch)

    return jax.tree.map(under, specs, tree, is_leaf=_is_spec)


def _check_even(spec: Any, leaf: jax.Array, parts: int) -> None:
    axis = _axis(spec)
    if axis is not None and spec is not OWN and leaf.shape[axis] % parts:
        raise UserError(
            f"{leaf.shape[axis]} rows cannot be split evenly over {parts} devices: give a multiple "
            f"of {parts}"
        )


def top_k(logits: jax.Array, count: int, *, shards: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns the largest values and their places, as `jax.lax.top_k` does, the lower place first.

    Where the vocabulary of logits `[..., V]` lies in `shards` equal parts on the devices of the
    "tensor" axis, under `map_over_mesh` or `jax.set_mesh`, each finds the largest of its part and
    only those cross over: `shards * count` values instead of `V`.

    Returns:
      Values and int32 places, both `[..., count]`.
    """
    if shards == 1:
        return _top_k(logits, count)
    size = logits.shape[-1] // shards
    spec = P(*[None] * (logits.ndim - 1), TENSOR)

    def local(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        best, place = _top_k(part, min(count, size))
        return best, place + jax.lax.axis_index(TENSOR) * size

    # XLA would gather the vocabulary in front of a top-k rather than split it.
    best, places = jax.shard_map(
        local, in_specs=spec, out_specs=spec, axis_names={TENSOR}, check_vma=False
    )(logits)
    # Equal values stand in the order of their places, part by part, and so stay in it.
    best, at = _top_k(best, count)
    return best, jnp.take_along_axis(places, at, axis=-1)


def _top_k(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    # Of more than two axes a TPU sorts the whole last one.
    best, places = jax.lax.top_k(values.reshape(-1, values.shape[-1]), count)
    shape = (*values.shape[:-1], count)
    return best.reshape(shape), places.reshape(shape)


def left_to_xla() -> set[str]:
    """Returns the mesh's axes along which XLA splits what is traced now."""
    mesh = jax.sharding.get_abstract_mesh()
    return {name for name in mesh.auto_axes if mesh.shape[name] > 1}


def on_every_device(function: Callable) -> Callable:
    """Has devices that share the weights each compute a function of whole arrays, all the same.

    XLA cannot split a kernel along "tensor" as it splits its own operations; nor does it know that
    each device may run it alone. Inside `map_over_mesh`, or under `jax.set_mesh`, the function and
    what it returns are kept whole; elsewhere, and where no axis is left to XLA, it is as it was.
    """

    def whole(*args: Any) -> Any:
        split = left_to_xla()
        if not split:
            return function(*args)
        return jax.shard_map(
            function, in_specs=P(), out_specs=P(), axis_names=split, check_vma=False
        )(*args)

    return whole
