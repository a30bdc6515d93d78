"""Compiles training steps for four chips of a TPU v5e that is not there; prints what they take.

Parameters are divided. The last line of output is a JSON object by case: bytes of arguments,
temporary bytes, the number formats of all matrices that are gathered, and the bytes of the state.
"""

import json
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jax.experimental import topologies
from jax.sharding import NamedSharding

from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import BATCH, P, make_mesh
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.optimiser_shards import divided, lying
from coopgen_jax.training.step import begin, make_step

CONFIG = replace(
    TINY_LLAMA, vocab_size=2048, layers=4, width=256, heads=4, kv_heads=4, head_width=64,
    ffn_width=1024, context=256, tied=True, dtype="bfloat16",
)  # fmt: skip
CASES: dict[str, dict] = {"kept": {"remat": "none"}, "default": {}}


def main() -> None:
    """Compiles every case."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = make_mesh(4, devices=topology.devices)
    optimiser = optax.adamw(1e-3)
    state = jax.eval_shape(lambda: begin(init_decoder(jax.random.key(0), CONFIG), optimiser))

    def lie(tree, specs):
        return jax.tree.map(
            lambda leaf, there: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
            tree, lying(specs, mesh),
        )  # fmt: skip

    by_rows = NamedSharding(mesh, P(BATCH))
    batch = {
        name: jax.ShapeDtypeStruct((16, 256), dtype, sharding=by_rows)
        for name, dtype in (("tokens", jnp.int32), ("mask", jnp.bool_))
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = {}
    for name, how in CASES.items():
        with made_for("tpu"):
            step = make_step(
                language_model_loss(CONFIG), optimiser, mesh=mesh, sharded_parameters=True,
                dtype="bfloat16", **how,
            )  # fmt: skip
            given = lie(state, divided(state, mesh)), None, batch, key
            program = step.lower(*given).compile()
        memory = program.memory_analysis()
        gathers = re.findall(
            r"= \(?(\w+)\[([\d,]+)\]\S* all-gather(?:-start)?\(", program.as_text()
        )
        # Norms cross over in float32, and are few.
        large = [
            kind
            for kind, shape in gathers
            if math.prod(map(int, shape.split(","))) >= CONFIG.width**2
        ]
        found[name] = {
            "arguments": memory.argument_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            "state": sum(4 * leaf.size for leaf in jax.tree.leaves(state)),
            "gathered": large,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
