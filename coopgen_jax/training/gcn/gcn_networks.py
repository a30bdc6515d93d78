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
from coopgen_jax.models.transformer import DecoderConfig, Params
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh
from coopgen_jax.training.objectives import Join, all_trainable, text_log_likelihoods

CLASSES = ("generated", "human")
HUMAN = 1


@dataclass(frozen=True)
class Networks:
    """Both networks' shapes and how their parameters are put together.

    Attributes:
      generator: the shape of the language model.
      discriminator: the shape of the discriminator.
      join: `(trainable, frozen) -> params` of the generator.
      discriminator_join: `(trainable, frozen) -> {"network", "head"}` of the discriminator.
      first: `frozen -> params` of the generator before all training.
    """

    generator: DecoderConfig
    discriminator: CausalConfig
    join: Join = all_trainable
    discriminator_join: Join = all_trainable
    first: Callable[[Any], Params] = lambda frozen: frozen


def gather_rows(prompt: Any, generation: Generation) -> dict[str, jax.Array]:
    """Returns the texts of a generation `[B, R]` behind their sources; see `rows_behind`."""
    return rows_behind(prompt, generation.tokens, generation.length)


def make_sampler(
    networks: Networks, config: Any, *, guided: bool, mesh: Mesh, mapper: Mapper = "shard_map"
) -> Callable[..., Generation]:
    """Returns a compiled decoder over a mesh.

    It is called as `(key, prompt, generator, discriminator, frozen) -> Generation`, with the
    trainable parameters of both networks.
    """
    given: dict[str, Any] = {"language_model": language_model(networks.generator), "config": config}
    if guided:
        given["discriminator"] = causal(networks.discriminator)
    spread = on_mesh(partial(decode, **given), mesh, mapper=mapper)

    def write(
        key: jax.Array, prompt: Any, generator: Any, discriminator: Any, frozen: Any
    ) -> Generation:
        params = {"params": networks.join(generator, frozen["generator"])}
        if guided:
            own = networks.discriminator_join(discriminator, frozen["discriminator"])
            target = jnp.full(prompt.tokens.shape[0], HUMAN, jnp.int32)
            params |= {"discriminator_params": own, "target": target}
        return spread(key, prompt, **params)

    return jax.jit(write)


def make_readers(
    networks: Networks, *, mesh: Mesh, mapper: Mapper = "shard_map"
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns functions that score full rows over a mesh.

    Returns:
      `(trainable, frozen, rows) -> log p(human | text)` `[M]` of a discriminator, and
      `(params, rows) -> log p(text | source)` `[M]` of a language model shaped as the generator.
    """

    def human(trainable: Any, frozen: Any, rows: Any) -> jax.Array:
        params = networks.discriminator_join(trainable, frozen)
        return read_tokens(networks.discriminator, params, rows["tokens"], rows["mask"])[:, HUMAN]

    def likely(params: Any, rows: Any) -> jax.Array:
        given = rows["tokens"], rows["mask"], rows["written"]
        return text_log_likelihoods(networks.generator, params, *given).sum(axis=-1)

    by_rows: Any = P(BATCH)
    return (
        jax.jit(map_over_mesh(human, mesh, (P(), P(), by_rows), by_rows, mapper=mapper)),
        jax.jit(map_over_mesh(likely, mesh, (P(), by_rows), by_rows, mapper=mapper)),
    )
