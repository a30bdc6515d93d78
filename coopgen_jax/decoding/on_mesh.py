"""A decode over a mesh: every device writes the texts of its own rows.

Rows share nothing but the weights, and a row's noise comes from its prompt's number, so the texts
are those of one device.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from flax import struct
from jax.sharding import Mesh

from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.rules.watermark import Marking
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.parallel.mesh import BATCH, OWN, Mapper, P, map_over_mesh

_ROWS: Any = P(BATCH)
_MARKING: Any = Marking(secret=P(), message=_ROWS)  # type: ignore[arg-type]


def _specs(job: Job) -> Job:
    """Returns how a job is split: prompts and targets by rows, weights not along this axis."""
    whole: Any = P()
    return replace(
        job,
        prompt=_ROWS,
        target=_ROWS,
        params=whole,
        discriminator_params=whole,
        reference_params=whole,
        marking=_MARKING if job.marking is not None else None,
        along=_ROWS if job.along is not None else None,
    )


@struct.dataclass
class SpreadState:
    """A decoder's state on a mesh.

    own: what every device keeps to itself, with a leading axis of devices; without the texts.
    generation: the texts of all rows, in their order.
    """

    own: Any
    generation: Generation


_STATE = SpreadState(own=OWN, generation=_ROWS)


@partial(jax.jit, static_argnames=("decoder", "mesh", "mapper"))
def _begin(job: Job, *, decoder: Any, mesh: Mesh, mapper: Mapper) -> SpreadState:
    def begin(job: Job) -> SpreadState:
        state = decoder.begin(job)
        return SpreadState(replace(state, generation=None), state.generation)

    return map_over_mesh(begin, mesh, (_specs(job),), _STATE, mapper=mapper)(job)


@partial(jax.jit, static_argnames=("decoder", "mesh", "mapper"), donate_argnames="state")
def _advance(
    key: jax.Array, job: Job, state: SpreadState, *, decoder: Any, mesh: Mesh, mapper: Mapper
) -> tuple[SpreadState, Any]:
    def advance(key: jax.Array, job: Job, state: SpreadState) -> tuple[SpreadState, Any]:
        whole = replace(state.own, generation=state.generation)
        after, tree = decoder.advance(key, job, whole)
        return SpreadState(replace(after, generation=None), after.generation), tree

    in_specs = (P(), _specs(job), _STATE)
    return map_over_mesh(advance, mesh, in_specs, (_STATE, P(BATCH)), mapper=mapper)(
        key, job, state
    )


def stepper(decoder: Any, mesh: Mesh, mapper: Mapper = "shard_map") -> tuple[Callable, Callable]:
    """Returns a decoder's compiled steps for a mesh; for the mapper see `map_over_mesh`.

    A job's rows are a multiple of the mesh's devices along "batch".

    Returns:
      `begin(job) -> SpreadState` and `advance(key, job, state) -> (SpreadState, trees)`, which
      donates the state; the trees are those of all rows.
    """
    static = {"decoder": decoder, "mesh": mesh, "mapper": mapper}
    return partial(_begin, **static), partial(_advance, **static)


def on_mesh(decode: Callable, mesh: Mesh, *, mapper: Mapper = "shard_map") -> Callable:
    """Returns a decoder such as `mcts` or `sample` that splits its rows over a mesh.

    It takes what `decode` takes and is meant to be called under `jit`; the rows must be a multiple
    of the devices along "batch". Where the mesh shares weights, give a language model made with
    `tensor` and parameters placed by `shard_decoder`. For the mapper see `map_over_mesh`.
    """
    networks = "params", "discriminator_params", "reference_params"
    kinds: dict[str, Any] = dict.fromkeys(networks, P())
    kinds["target"], kinds["marking"] = P(BATCH), _MARKING

    def spread(key: jax.Array, prompt: Prompt, **given: Any) -> Generation:
        given = {name: value for name, value in given.items() if value is not None}
        arrays = {name: given.pop(name) for name in kinds if name in given}

        def part(key: jax.Array, prompt: Prompt, arrays: dict[str, Any]) -> Generation:
            return decode(key, prompt, **arrays, **given)

        in_specs = (P(), P(BATCH), {name: kinds[name] for name in arrays})
        return map_over_mesh(part, mesh, in_specs, P(BATCH), mapper=mapper)(key, prompt, arrays)

    return spread
