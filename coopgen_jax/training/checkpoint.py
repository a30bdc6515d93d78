"""Checkpoints of a training run: kept by orbax, complete or not there at all."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import relaid
from coopgen_jax.parallel.mesh import P

# What orbax raises where a checkpoint is not like the template.
_UNLIKE = (ValueError, KeyError, TypeError)


class Checkpoints:
    """The checkpoints in a folder.

    A checkpoint is written beside its place and then renamed, so that a run killed at any moment
    leaves the last complete one.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        """Opens `folder`, which is made, and clears what an interrupted run left unfinished."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: Any, notes: dict[str, Any]) -> None:
        """Writes arrays `state` and plain values `notes` as the checkpoint of `step`.

        Raises UserError where it cannot, as where the disk is full; older ones stay complete.
        """
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
        )
        before = self.latest()
        try:
            self._manager.save(step, args=arguments, force=True)
        except (OSError, ValueError) as error:
            kept = "none has been" if before is None else f"the one of step {before} is whole"
            why = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self._manager.directory} and "
                f"{kept}: make room and start again ({why})"
            ) from error

    def latest(self) -> int | None:
        """Returns the step of the last complete checkpoint, None without any."""
        step: int | None = self._manager.latest_step()
        return step

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the last checkpoint's state, lying as `template` does, and its notes.

        A network's layers may have been saved in a stack or one by one (see
        `models.layer_layout`): what a device of one kind has begun goes on on another. Raises
        UserError where there is no checkpoint, or it is of other shapes.
        """
        step = self.latest()
        if step is None:
            raise UserError(f"{self._manager.directory} has no checkpoint to resume from")
        try:
            try:
                return self._read(step, template)
            except _UNLIKE:
                state, notes = self._read(step, _relaid_shapes(template))
                there = jax.tree.map(lambda leaf: leaf.sharding, template)
                return jax.device_put(relaid(state), there), notes
        except _UNLIKE as error:
            raise UserError(
                f"the checkpoint in {self._manager.directory} is of another training: give an "
                "empty folder, or the settings that it was begun with"
            ) from error

    def _read(self, step: int, template: Any) -> tuple[Any, dict[str, Any]]:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(shapes), notes=ocp.args.JsonRestore()
        )
        found = self._manager.restore(step, args=arguments)
        return found["state"], found["notes"]

    def close(self) -> None:
        """Waits for whatever is being written."""
        self._manager.close()


def _relaid_shapes(template: Any) -> Any:
    """Returns the shapes of a state laid out the other way, in full on every device."""
    sharding = jax.tree.leaves(template)[0].sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, P())

    def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, jax.eval_shape(relaid, template))
