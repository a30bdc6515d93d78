"""One training step, written for one device and mapped over a mesh.

A loss returns sums and weights instead of means, so that gradients and metrics are those of the
whole batch however it is split: over devices, over micro-batches, over rows of different lengths.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from coopgen_jax.errors import UserError
from coopgen_jax.models.rematerialisation import Remat, check_remat, rematerialised
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh, place, share, shares
from coopgen_jax.training.checkpoint_names import stored_as
from coopgen_jax.training.optimiser_shards import divided, gathered, lying, summed

# By name of a metric, "loss" among them: what it adds up to over the rows, and over what weight.
Sums = dict[str, tuple[jax.Array, jax.Array]]
# (trainable, frozen, batch, key) -> Sums
Loss = Callable[[Any, Any, Any, jax.Array], Sums]


@stored_as(trainable="learnt", optimiser_state="moments")
@dataclass(frozen=True)
class TrainState:
    """What training changes.

    Attributes:
      trainable: the parameters that are trained.
      optimiser_state: the optimiser's state.
      step: `[]` int32 steps taken.
    """

    trainable: Any
    optimiser_state: Any
    step: jax.Array


def begin(trainable: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """Returns the state in front of the first step."""
    return TrainState(trainable, optimiser.init(trainable), jnp.int32(0))


def begin_on(
    mesh: Mesh,
    trainable: Any,
    optimiser: optax.GradientTransformation,
    *,
    sharded: bool = False,
    sharded_parameters: bool = False,
) -> TrainState:
    """Returns the state in front of the first step as it lies on a mesh.

    Every device gets all parameters and all of the optimiser's state; where `sharded`, its share of
    the state only, and where `sharded_parameters`, its share of both, as `optimiser_shards.divided`
    cuts them: no device ever holds all of it. The parameters that were divided are then deleted.
    """
    if not sharded and not sharded_parameters:
        return place(begin(trainable, optimiser), mesh)
    trainable = _divide(trainable, mesh) if sharded_parameters else place(trainable, mesh)
    specs = divided(jax.eval_shape(optimiser.init, trainable), mesh)
    optimiser_state = jax.jit(optimiser.init, out_shardings=lying(specs, mesh))(trainable)
    return TrainState(trainable, optimiser_state, place(jnp.int32(0), mesh))


def _divide(trainable: Any, mesh: Mesh) -> Any:
    specs = divided(trainable, mesh)
    shares = place(trainable, mesh, specs)
    if mesh.shape[BATCH] > 1:
        # The device that they lay on would keep all of them as long as the caller does.
        for spec, leaf in zip(jax.tree.leaves(specs), jax.tree.leaves(trainable), strict=True):
            lies = NamedSharding(mesh, spec)
            if BATCH not in spec or not isinstance(leaf, jax.Array):
                continue
            if not leaf.sharding.is_equivalent_to(lies, leaf.ndim):
                leaf.delete()
    return shares


def _means(sums: Sums) -> dict[str, jax.Array]:
    return {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in sums.items()}


def gradient(
    loss: Loss,
    trainable: Any,
    frozen: Any,
    batch: Any,
    key: jax.Array,
    *,
    micro_batches: int,
    remat: Remat | None = None,
) -> tuple[Any, Sums]:
    """Returns the gradient of a loss's sum over a batch, micro-batch by micro-batch, and all sums.

    A batch is a pytree of arrays with a leading axis of rows, which are read in `micro_batches`
    equal parts, one after another (gradient accumulation). Raises UserError where they cannot be.
    Layers are rematerialised as `remat` says; see `rematerialised`.
    """

    def total_loss(trainable: Any, part: Any) -> tuple[jax.Array, Sums]:
        sums = loss(trainable, frozen, part, key)
        return sums["loss"][0], sums

    def gradient_of(part: Any) -> tuple[Any, Sums]:
        with rematerialised(remat):
            (_, sums), grads = jax.value_and_grad(total_loss, has_aux=True)(trainable, part)
        # Sums over micro-batches and devices would lose bits in less than single precision.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), grads), sums

    rows = len(jax.tree.leaves(batch)[0])
    if micro_batches < 1 or rows % micro_batches:
        raise UserError(
            f"{rows} rows cannot be split into {micro_batches} equal micro-batches: give a divisor"
        )
    if micro_batches == 1:
        return gradient_of(batch)
    parts = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch)
    shapes = jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient_of(part)), None

    total: tuple[Any, Sums] = jax.lax.scan(add, zeros, parts)[0]
    return total


def make_step(
    loss: Loss,
    optimiser: optax.GradientTransformation,
    *,
    mesh: Mesh,
    mapper: Mapper = "shard_map",
    micro_batches: int = 1,
    sharded: bool = False,
    sharded_parameters: bool = False,
    dtype: str = "float32",
    remat: Remat | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns a compiled step over a mesh, `(state, frozen, batch, key) -> (state, means)`.

    The state is donated. A batch's rows are split over the devices and must be a multiple of their
    number times `micro_batches`; `key` is that of the full training and is folded with the step.

    The loss is that of one device's rows. The optimiser sees full arrays, however they are sharded,
    so that a global norm is that of the full gradient. Where `sharded`, every device keeps and
    updates its share of the optimiser's state only; where `sharded_parameters`, its share of the
    parameters too, and gathers them in front of a step, in the `dtype` that the network multiplies
    in (see `optimiser_shards`). `begin_on` makes such a state. `remat` says what is kept of a layer
    for the gradient; see `rematerialised`. None of them changes the result but for rounding.

    Raises:
      UserError: weights are sharded along "tensor", and the optimiser's state is to be sharded
        along "batch"; or there is no such rematerialisation.
    """
    check_remat(remat)
    sharded = sharded or sharded_parameters
    if sharded and shares(mesh) > 1:
        raise UserError(
            f"{shares(mesh)} devices share the weights: the optimiser's state can only be shared "
            "where each device has all of them, so use tensor=1"
        )

    constrain = jax.lax.with_sharding_constraint

    def step(
        state: TrainState, frozen: Any, batch: Any, key: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        replicated = jax.tree.map(lambda _: P(), state.trainable)
        specs = divided(state.trainable, mesh) if sharded else replicated

        def on_device(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> tuple[Any, Sums]:
            grads, sums = gradient(
                loss, trainable, frozen, batch, key, micro_batches=micro_batches, remat=remat
            )
            return summed(grads, specs), jax.lax.psum(sums, BATCH)

        inputs = (P(), P(), P(BATCH), P())
        mapped = map_over_mesh(on_device, mesh, inputs, (specs, P()), mapper=mapper)
        trainable, optimiser_state = state.trainable, state.optimiser_state
        complete = gathered(trainable, mesh, dtype) if sharded_parameters else trainable
        grads, sums = mapped(complete, frozen, batch, jax.random.fold_in(key, state.step))
        weight = jnp.maximum(sums["loss"][1], 1e-9)
        grads = jax.tree.map(lambda leaf: leaf / weight, grads)
        if sharded:
            # Each device reads its part of the parameters, and only updated parts are sent.
            trainable = constrain(trainable, lying(specs, mesh))
        updates, optimiser_state = optimiser.update(grads, optimiser_state, trainable)
        trainable = optax.apply_updates(trainable, updates)
        if sharded:
            kept = specs if sharded_parameters else replicated
            trainable = constrain(trainable, lying(kept, mesh))
            optimiser_state = constrain(
                optimiser_state, lying(divided(optimiser_state, mesh), mesh)
            )
        means = _means(sums) | {"gradient_norm": optax.tree.norm(grads)}
        return TrainState(trainable, optimiser_state, state.step + 1), means

    return jax.jit(step, donate_argnums=0)


def make_validation(
    loss: Loss,
    *,
    mesh: Mesh,
    mapper: Mapper = "shard_map",
    sharded_parameters: bool = False,
    dtype: str = "float32",
) -> Callable[[Any, Any, Any, jax.Array], Sums]:
    """Returns a loss's compiled sums over a mesh, `(trainable, frozen, batch, key) -> Sums`.

    Where `sharded_parameters`, they are gathered as `make_step` gathers them.
    """

    def on_device(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        sums: Sums = jax.lax.psum(loss(trainable, frozen, batch, key), BATCH)
        return sums

    mapped = map_over_mesh(on_device, mesh, (P(), P(), P(BATCH), P()), P(), mapper=mapper)

    def validate(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        complete = gathered(trainable, mesh, dtype) if sharded_parameters else trainable
        found: Sums = mapped(complete, frozen, batch, key)
        return found

    return jax.jit(validate)


def mean_over(batches: Any, validate: Callable[[Any], Sums]) -> dict[str, float]:
    """Returns the means of all metrics over batches; raises UserError where there are none."""
    if not batches:
        raise UserError("there are no texts to validate on")
    total = jax.tree.map(lambda *leaves: sum(leaves), *map(validate, batches))
    return {name: float(mean) for name, mean in _means(total).items()}


def share_part(tree: Any, mesh: Mesh) -> Any:
    """Puts host arrays, of which every process has all rows, onto its part of the mesh."""
    parts, number = jax.process_count(), jax.process_index()

    def part(array: np.ndarray) -> np.ndarray:
        rows = len(array) // parts
        return array[number * rows : (number + 1) * rows]

    return share(jax.tree.map(part, tree), mesh)


def row_keys(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns a key per row `[B]` from its number in the batch: its noise wherever it lies."""
    keys: jax.Array = jax.vmap(partial(jax.random.fold_in, key))(index)
    return keys
