"""A text's history with its keys and values shifted, and the shift that makes an objective grow.

The slot cache itself stays as it is. The last token is read once more, as a node below a cache in
which everything in front of it stands as the trunk, plus the shift. A query weighs what it attends
to and not its order, so the newest token comes first: what is missing in front of a short text, its
padding, is then at the end, where a trunk that is not full has nothing either.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import per_sample
from coopgen_jax.decoding.job import Job
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.slots import Slots

# Keys and values, each `[L, B, R, S, G * Eh]` float32.
Pair = tuple[jax.Array, jax.Array]


@struct.dataclass
class History:
    """What stands in front of the last token of every text.

    recent: keys and values of the `S` newest tokens, which may be shifted, the newest first.
    inside: `[B, S]` bool, true where there is such a token.
    rest: the cache of the older tokens, in which the trunk's newest are missing.
    committed: `[B, R]` int32 how many tokens the trunk has once `recent` stands in front of it.
    """

    recent: Pair
    inside: jax.Array
    rest: SlotCache
    committed: jax.Array


def history_of(cache: SlotCache, step: jax.Array, *, window: int = 0) -> History:
    """Returns what stands in front of the last token, apart from those that may be shifted.

    The last token is committed, or the prompt's. A text of fewer tokens than `step` gets what means
    nothing. Of the window's tokens `S`, or of all where it is 0, each may be shifted.
    """
    assert cache.keys.trunk is not None and cache.values.trunk is not None
    samples, room = cache.keys.trunk.shape[2:4]
    length = cache.prompt_mask.shape[1]
    whole = length + room - 1
    size = min(window, whole) if window else whole
    # Prompts end in their last column, so that prompt and trunk are one sequence.
    column = length + step - 2 - jnp.arange(size)
    at_prompt = jnp.clip(column, 0, length - 1)
    committed = (column >= length)[None, None, None, :, None]

    def newest(prompt: jax.Array, trunk: jax.Array) -> jax.Array:
        of_prompt = jnp.take(prompt, at_prompt, axis=2)[:, :, None]
        of_trunk = jnp.take(trunk, jnp.clip(column - length, 0, room - 1), axis=3)
        return jnp.where(committed, of_trunk, of_prompt).astype(jnp.float32)

    there = (column >= 0)[None] & jnp.take(cache.prompt_mask, at_prompt, axis=1)
    inside = (column >= length)[None] | there
    # Where everything may be shifted nothing is left over, whatever the step.
    older, first = (0, 0) if size == whole else (length, room)
    before = jnp.arange(older)[None] < length + step - 1 - size
    rest = replace(
        cache,
        prompt_keys=cache.prompt_keys[:, :, :older],
        prompt_values=cache.prompt_values[:, :, :older],
        prompt_mask=cache.prompt_mask[:, :older] & before,
        keys=replace(cache.keys, trunk=cache.keys.trunk[:, :, :, :first]),
        values=replace(cache.values, trunk=cache.values.trunk[:, :, :, :first]),
    )
    count = jnp.sum(inside, axis=-1, dtype=jnp.int32) + jnp.maximum(step - 1 - size, 0)
    return History(
        recent=(
            newest(cache.prompt_keys, cache.keys.trunk),
            newest(cache.prompt_values, cache.values.trunk),
        ),
        inside=inside,
        rest=rest,
        committed=per_sample(count, samples),
    )


def read_shifted(job: Job, history: History, shift: Pair, last: Nodes) -> jax.Array:
    """Returns the logits `[B, R, V]` behind the last token when what is before it is shifted.

    The shift is added to keys and values and means nothing outside `history.inside`; the last token
    is one node `[B, R, 1]` without ancestors.
    """
    keys, values = jax.tree.map(jnp.add, history.recent, shift)

    def behind(shifted: jax.Array, slots: Slots) -> Slots:
        assert slots.trunk is not None
        # In float32 even where the cache is not: a shift is small beside what it is added to.
        return replace(slots, trunk=jnp.concatenate([shifted, slots.trunk], axis=3))

    rest = history.rest
    cache = replace(rest, keys=behind(keys, rest.keys), values=behind(values, rest.values))
    node = replace(last, committed=history.committed)
    logits, _, _ = job.language_model.extend(job.params, cache, node)
    return jnp.asarray(logits[:, :, 0])


def climb(
    objective: Callable[[Pair], jax.Array],
    history: History,
    *,
    iterations: int,
    step_size: float,
    gamma: float,
    decay: bool,
) -> Pair:
    """Returns the shift after some steps of normalised gradient ascent from none.

    In each layer of each text, keys and values together, g being the gradient times the weights,

        shift <- shift + step_size * g / |g|^gamma.

    With `decay` the weights fall from 1 at the newest token to 1/S at the oldest. The objective is
    `shift -> [B, R]`, each text's of its own entries alone.
    """
    size = history.inside.shape[-1]
    weight = history.inside.astype(jnp.float32)
    if decay:
        weight = weight * (1 - jnp.arange(size, dtype=jnp.float32) / size)[None]
    weight = weight[None, :, None, :, None]

    def step(_: jax.Array, shift: Pair) -> Pair:
        slope = jax.grad(lambda shift: objective(shift).sum())(shift)
        # A slope that is no number, such as that of an impossible judgement, moves nothing.
        slope = jax.tree.map(lambda part: jnp.nan_to_num(part * weight, posinf=0, neginf=0), slope)
        square = sum(jnp.sum(part**2, axis=(3, 4), keepdims=True) for part in slope)
        norm = jnp.sqrt(square)
        # Where there is nothing in front of the last token, there is nothing to go along.
        scale = jnp.where(norm > 0, step_size * norm**-gamma, 0.0)
        moved: Pair = jax.tree.map(lambda part, along: part + scale * along, shift, slope)
        return moved

    start: Pair = jax.tree.map(jnp.zeros_like, history.recent)
    shift: Pair = jax.lax.fori_loop(0, iterations, step, start)
    return shift
