"""One training step, written for one device and mapped over a mesh.

A loss returns sums and weights instead of means, so that gradients and metrics are those of the
whole batch however it is split: over devices, over pieces, over rows of different lengths.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh, place, shares
from coopgen_jax.training.optimiser_shards import divided, lying, summed

# By name of a metric, "loss" among them: what it adds up to over the rows, and over what weight.
Sums = dict[str, tuple[jax.Array, jax.Array]]
# (learnt, fixed, batch, key) -> Sums
Loss = Callable[[Any, Any, Any, jax.Array], Sums]


@struct.dataclass
class TrainState:
    """What training changes.

    learnt: the parameters that are trained.
    moments: the optimiser's state.
    step: `[]` int32 steps taken.
    """

    learnt: Any
    moments: Any
    step: jax.Array


def begin(learnt: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """Returns the state in front of the first step."""
    return TrainState(learnt, optimiser.init(learnt), jnp.int32(0))


def begin_on(
    mesh: Mesh, learnt: Any, optimiser: optax.GradientTransformation, *, sharded: bool = False
) -> TrainState:
    """Returns the state in front of the first step as it lies on a mesh.

    Args:
      mesh: the devices.
      learnt: the parameters to begin with, which every device gets.
      optimiser: the optimiser.
      sharded: whether every device gets its share of the moments only, as `sharded.divided` cuts
        them; no device ever holds them all.
    """
    if not sharded:
        return place(begin(learnt, optimiser), mesh)
    learnt = place(learnt, mesh)
    specs = divided(jax.eval_shape(optimiser.init, learnt), mesh)
    moments = jax.jit(optimiser.init, out_shardings=lying(specs, mesh))(learnt)
    return TrainState(learnt, moments, place(jnp.int32(0), mesh))


def _means(sums: Sums) -> dict[str, jax.Array]:
    return {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in sums.items()}


def gradient(
    loss: Loss, learnt: Any, fixed: Any, batch: Any, key: jax.Array, *, pieces: int
) -> tuple[Any, Sums]:
    """Returns the gradient of a loss's sum over a batch, piece by piece, and all sums.

    Args:
      loss: the loss.
      learnt: what the gradient is of.
      fixed: parameters that are not trained.
      batch: pytree of arrays with a leading axis of rows.
      key: typed key of the step.
      pieces: how many parts the rows are read in, one after another (gradient accumulation).
    """

    def summed(learnt: Any, piece: Any) -> tuple[jax.Array, Sums]:
        sums = loss(learnt, fixed, piece, key)
        return sums["loss"][0], sums

    def one(piece: Any) -> tuple[Any, Sums]:
        (_, sums), grads = jax.value_and_grad(summed, has_aux=True)(learnt, piece)
        # Sums over pieces and devices would lose bits in less than single precision.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), grads), sums

    rows = len(jax.tree.leaves(batch)[0])
    if pieces < 1 or rows % pieces:
        raise UserError(f"{rows} rows cannot be read in {pieces} equal pieces: give a divisor")
    if pieces == 1:
        return one(batch)
    parts = jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def more(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(piece)), None

    total: tuple[Any, Sums] = jax.lax.scan(more, nothing, parts)[0]
    return total


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    mesh: Mesh,
    mapper: Mapper = "shard_map",
    pieces: int = 1,
    sharded: bool = False,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns a compiled training step over a mesh, `(state, fixed, batch, key) -> (state, means)`.

    The state is donated. A batch's rows are split over the devices and must be a multiple of their
    number times `pieces`; `key` is that of the whole training and is folded with the step.

    Args:
      loss: the loss of one device's rows.
      optimiser: turns gradients into updates. It sees whole arrays, however they lie, so that a
        global norm is that of the whole gradient.
      mesh: the devices.
      mapper: "shard_map" or "pmap"; see `map_over_mesh`.
      pieces: see `gradient`.
      sharded: whether every device keeps and updates its share of the optimiser's state only (see
        `training.sharded`); `begin_on` makes such a state. The result is the same but for rounding.

    Raises:
      UserError: weights are shared along "tensor", and the moments are to be along "batch".
    """
    if sharded and shares(mesh) > 1:
        raise UserError(
            f"{shares(mesh)} devices share the weights: the optimiser's state can only be shared "
            "where each device has all of them, so use tensor=1"
        )

    constrain = jax.lax.with_sharding_constraint

    def step(
        state: TrainState, fixed: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = jax.tree.map(lambda _: P(), state.learnt)
        specs = divided(state.learnt, mesh) if sharded else whole

        def on_device(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> tuple[Any, Sums]:
            grads, sums = gradient(loss, learnt, fixed, batch, key, pieces=pieces)
            return summed(grads, specs), jax.lax.psum(sums, BATCH)

        given = (P(), P(), P(BATCH), P())
        mapped = map_over_mesh(on_device, mesh, given, (specs, P()), mapper=mapper)
        learnt, moments = state.learnt, state.moments
        grads, sums = mapped(learnt, fixed, batch, jax.random.fold_in(key, state.step))
        weight = jnp.maximum(sums["loss"][1], 1e-9)
        grads = jax.tree.map(lambda leaf: leaf / weight, grads)
        if sharded:
            # Each device reads its part of the parameters, and only the updated ones are sent.
            learnt = constrain(learnt, lying(specs, mesh))
        updates, moments = optimiser.update(grads, moments, learnt)
        learnt = optax.apply_updates(learnt, updates)
        if sharded:
            learnt = constrain(learnt, lying(whole, mesh))
            moments = constrain(moments, lying(divided(moments, mesh), mesh))
        means = _means(sums) | {"gradient_norm": optax.tree.norm(grads)}
        return TrainState(learnt, moments, state.step + 1), means

    return jax.jit(step, donate_argnums=0)


def make_validation(
    loss: Loss, *, mesh: Mesh, mapper: Mapper = "shard_map"
) -> Callable[[Any, Any, Any, jax.Array], Sums]:
    """Returns the compiled sums of a loss over a mesh, `(learnt, fixed, batch, key) -> Sums`."""

    def on_device(learnt: Any, fixed: Any, batch: Any, key: jax.Array) -> Sums:
        sums: Sums = jax.lax.psum(loss(learnt, fixed, batch, key), BATCH)
        return sums

    return jax.jit(map_over_mesh(on_device, mesh, (P(), P(), P(BATCH), P()), P(), mapper=mapper))


def mean_over(batches: Any, validate: Callable[[Any], Sums]) -> dict[str, float]:
    """Returns the means of all metrics over several batches.

    Raises:
      UserError: there are no batches.
    """
    if not batches:
        raise UserError("there are no texts to validate on")
    total = jax.tree.map(lambda *leaves: sum(leaves), *map(validate, batches))
    return {name: float(mean) for name, mean in _means(total).items()}


def row_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns a key per row `[B]` from its number in the batch: its noise wherever it lies."""
    keys: jax.Array = jax.vmap(partial(jax.random.fold_in, key))(index)
    return keys
