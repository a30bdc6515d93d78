"""Both networks of cooperative training, and what samples and reads with them over a mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from coopgen_jax.data.pairs import rows_behind
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.on_mesh import on_mesh
from coopgen_jax.discriminators.causal import CausalConfig, causal, read_tokens
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, Params, unembed
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh
from coopgen_jax.training import losses
from coopgen_jax.training.objectives import Join, whole

CLASSES = ("generated", "human")
HUMAN = 1


@dataclass(frozen=True)
class Networks:
    """Both networks' shapes and how their parameters are put together.

    generator: the shape of the language model; join: `(learnt, fixed) -> params` of it.
    judge: the discriminator's; judge_join: `(learnt, fixed) -> {"network", "head"}`.
    first: `fixed -> params` of the generator before all training.
    """

    generator: DecoderConfig
    judge: CausalConfig
    join: Join = whole
    judge_join: Join = whole
    first: Callable[[Any], Params] = lambda fixed: fixed


def gather_rows(prompt: Any, generation: Generation) -> dict[str, jax.Array]:
    """Returns the texts of a generation `[B, R]` behind their sources; see `rows_behind`."""
    return rows_behind(prompt, generation.tokens, generation.length)


def make_sampler(
    networks: Networks, config: Any, *, guided: bool, mesh: Mesh, mapper: Mapper = "shard_map"
) -> Callable[..., Generation]:
    """Returns a compiled decoder over a mesh, `(key, prompt, generator, judge, fixed) -> texts`."""
    network = language_model(networks.generator)
    given = {"language_model": network, "config": config}
    if guided:
        given["discriminator"] = causal(networks.judge)
    spread = on_mesh(partial(decode, **given), mesh, mapper=mapper)

    def write(key: jax.Array, prompt: Any, generator: Any, judge: Any, fixed: Any) -> Generation:
        params = networks.join(generator, fixed["generator"])
        if not guided:
            return spread(key, prompt, params=params)
        return spread(
            key,
            prompt,
            params=params,
            discriminator_params=networks.judge_join(judge, fixed["judge"]),
            target=jnp.full(prompt.tokens.shape[0], HUMAN, jnp.int32),
        )

    return jax.jit(write)


def make_readers(
    networks: Networks, *, mesh: Mesh, mapper: Mapper = "shard_map"
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns what reads whole rows over a mesh.

    Returns:
      `(learnt, fixed, rows) -> log p(human | text)` `[M]` of a discriminator, and `(params, rows)
      -> log p(text | source)` `[M]` of a language model shaped as the generator.
    """

    def human(learnt: Any, fixed: Any, rows: Any) -> jax.Array:
        params = networks.judge_join(learnt, fixed)
        return read_tokens(networks.judge, params, rows["tokens"], rows["mask"])[:, HUMAN]

    def likely(params: Any, rows: Any) -> jax.Array:
        _, stream, _, _ = read(networks.generator, params, rows["tokens"], rows["mask"])
        logits = unembed(networks.generator, params, stream)
        each = jax.vmap(losses.log_likelihoods)(logits, rows["tokens"], rows["written"])
        return each.sum(axis=-1)

    by_rows: Any = P(BATCH)
    return (
        jax.jit(map_over_mesh(human, mesh, (P(), P(), by_rows), by_rows, mapper=mapper)),
        jax.jit(map_over_mesh(likely, mesh, (P(), by_rows), by_rows, mapper=mapper)),
    )
