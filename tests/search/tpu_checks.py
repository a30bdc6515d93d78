"""Compiles for TPUs that are not there what a search has kernels for; started by test_kernels.py.

Each check is named on the command line. A check compiles and runs nothing.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, SingleDeviceSharding

from coopgen_jax.decoding import on_mesh
from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.sharding import decoder_specs
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import BATCH, P, make_mesh
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.search import Halving, SearchConfig, new_tree
from coopgen_jax.search.kernels.backup_kernel import backup_waves
from coopgen_jax.search.kernels.select_kernel import fits, select_waves
from coopgen_jax.testing import TINY_LLAMA
from tests.tpu import devices, laid

DEFAULT = PRESETS["default"].search
# The settings, and whether edges earn rewards. The last ones take nearly all room that there is.
SEARCHES: dict[str, tuple[SearchConfig, bool]] = {
    "default": (DEFAULT, False),
    "rewards": (dataclasses.replace(DEFAULT, first_play_urgency="value"), True),
    "wide": (SearchConfig(simulations=64, wave=8, candidates=300, reused_nodes=64), False),
    "large": (
        SearchConfig(
            simulations=1024, wave=64, root=Halving(64), candidates=64, depth=120, reused_nodes=900
        ),
        True,
    ),
    "many nodes": (SearchConfig(simulations=2048, wave=16, reused_nodes=1100, depth=60), False),
}


def wave(topology: str, name: str) -> None:
    """Selection and backup of a wave are two kernels."""
    config, rewarded = SEARCHES[name]
    size = (config.nodes, config.candidates, 2)
    tree = jax.eval_shape(functools.partial(new_tree, 3, 2, *size, rewards=rewarded))
    assert fits(tree, config), name

    def both(tree: Any, active: Any, limit: Any, start: Any, value: Any) -> Any:
        tree, leaves = select_waves(tree, active, limit, start, config=config)
        return backup_waves(tree, leaves, value), leaves

    shapes = [((3, 2), bool), ((3, 2), jnp.int32), ((), jnp.int32), ((3, 2, config.wave), float)]
    given = (tree, *(jax.ShapeDtypeStruct(shape, kind) for shape, kind in shapes))
    given = laid(given, SingleDeviceSharding(devices(topology)[0]))
    check(jax.jit(both, donate_argnums=0).lower(*given).compile().as_text())


def check(program: str) -> None:
    calls = [line for line in program.splitlines() if '"tpu_custom_call"' in line]
    for name in ("select_wave", "backup_wave"):
        assert sum(f"/{name}/" in line for line in calls) == 1, (name, calls)


def spread(topology: str, batch: int, tensor: int, mapper: on_mesh.Mapper) -> None:
    """A guided generation on four chips, each of which runs both kernels on its own rows."""
    mesh = make_mesh(batch, tensor, devices=devices(topology))
    head = HeadConfig(("bad", "good"), 2 * TINY_LLAMA.width, ())
    guide = shared_trunk(SharedTrunkConfig((1,), False, head))
    model = language_model(TINY_LLAMA, guide.taps, tensor=tensor)
    config = MCTSConfig(
        new_tokens=2,
        samples=2,
        search=SearchConfig(simulations=8, wave=4, candidates=8, depth=4, reused_nodes=8),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(functools.partial(init_decoder, config=TINY_LLAMA), key)
    specs = decoder_specs(TINY_LLAMA, params, tensor)
    assert tensor == 1 or any("tensor" in spec for spec in jax.tree.leaves(specs))
    params = jax.tree.map(lambda a, spec: laid(a, NamedSharding(mesh, spec)), params, specs)
    inputs = jnp.zeros((1, head.inputs))
    judge = jax.eval_shape(lambda: Head(head).init(jax.random.key(0), inputs)["params"])
    rows = jax.ShapeDtypeStruct((8, 5), jnp.int32, sharding=NamedSharding(mesh, P(BATCH)))
    row = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=NamedSharding(mesh, P(BATCH)))
    prompt = Prompt(tokens=rows, mask=rows.update(dtype=bool), index=row)

    @jax.jit
    def written(key: Any, prompt: Any, params: Any, judge: Any, target: Any) -> Any:
        decode = on_mesh.on_mesh(mcts, mesh, mapper=mapper)
        return decode(
            key,
            prompt,
            params=params,
            discriminator_params=judge,
            target=target,
            language_model=model,
            discriminator=guide,
            config=config,
        )

    whole = NamedSharding(mesh, P())
    with made_for("tpu"):
        given = (laid(key, whole), prompt, params, laid(judge, whole), row)
        check(written.lower(*given).compile().as_text())


CHECKS = {
    **{f"{name} on v5e": functools.partial(wave, "v5e:1x1", name) for name in SEARCHES},
    **{f"{name} on v6e": functools.partial(wave, "v6e:1x1", name) for name in SEARCHES},
    "batch 4 by shard_map": functools.partial(spread, "v5e:2x2", 4, 1, "shard_map"),
    "batch 4 by pmap": functools.partial(spread, "v5e:2x2", 4, 1, "pmap"),
    "batch 2, tensor 2": functools.partial(spread, "v5e:2x2", 2, 2, "shard_map"),
}

if __name__ == "__main__":
    for check_name in sys.argv[1:]:
        CHECKS[check_name]()
        print(check_name, flush=True)
