"""Compiles a wave's attention for TPUs that are not there; started by test_wave_attention.py.

Each check is named on the command line. A check compiles and runs nothing.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, SingleDeviceSharding

from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.published_shapes import gpt2, llama
from coopgen_jax.models.sharding import decoder_specs
from coopgen_jax.models.slots import FULL, Capacity
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.parallel.mesh import BATCH, OWN, P, make_mesh, map_over_mesh
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_LLAMA
from tests.models.waves import Shape
from tests.tpu import devices, laid

SMALL = {"vocab_size": 256, "layers": 2, "ffn_width": 64, "context": 2048}
# A network, and how the search is.
SEARCHES: dict[str, tuple[DecoderConfig, Shape]] = {
    "gpt2-small": (
        gpt2(width=768, heads=12, dtype="bfloat16", **SMALL),
        Shape(8, 1, 16, 12, 12, 64, prompt=64, trunk=64, nodes=257),
    ),
    "llama-1b": (
        llama(width=2048, heads=32, kv_heads=8, dtype="bfloat16", **SMALL),
        Shape(4, 2, 16, 32, 8, 64, prompt=200, trunk=64, nodes=600),
    ),
    "llama-1b in float32": (
        llama(width=2048, heads=32, kv_heads=8, **SMALL),
        Shape(4, 1, 16, 32, 8, 64, prompt=64, trunk=64, nodes=600),
    ),
    "wide heads": (
        llama(width=1024, heads=8, kv_heads=4, dtype="bfloat16", **SMALL),
        Shape(2, 2, 5, 8, 4, 128, prompt=3, trunk=1, nodes=18),
    ),
    "tiny": (TINY_LLAMA, Shape(2, 1, 3, 4, 2, 8)),
}


def given(config: DecoderConfig, shape: Shape) -> tuple[Any, Prompt, Nodes]:
    """Returns the shapes of parameters, prompts and a wave of nodes."""
    params = jax.eval_shape(functools.partial(init_decoder, config=config), jax.random.key(0))
    rows = jax.ShapeDtypeStruct((shape.batch, shape.prompt), jnp.int32)
    prompt = Prompt(rows, rows.update(dtype=bool), rows.update(shape=rows.shape[:1]))
    per_sample = jax.ShapeDtypeStruct((shape.batch, shape.samples), jnp.int32)
    wave = per_sample.update(shape=(*per_sample.shape, shape.wave))
    # So long that to gather the paths is more than to read all slots, spare ones included.
    path = wave.update(shape=(*wave.shape, (shape.nodes + FULL) // (3 * shape.wave) + 1))
    start = per_sample.update(shape=())
    return params, prompt, Nodes(start, wave, wave, path, wave, per_sample, wave.update(dtype=bool))


def read(model: Any, shape: Shape, params: Any, prompt: Prompt, nodes: Nodes) -> tuple:
    """Reads prompts and a wave behind them; a TPU's own compiler makes one kernel of a layer."""
    capacity = Capacity(shape.samples, shape.trunk, shape.nodes)
    _, _, cache = model.prefill(params, prompt, capacity=capacity)
    logits, _, cache = model.extend(params, cache, nodes)
    return logits, cache


def wave(topology: str, name: str) -> None:
    """All layers' attention of a wave is one kernel in the loop over them."""
    config, shape = SEARCHES[name]
    function = functools.partial(read, language_model(config), shape)
    with made_for("tpu"):
        arguments = laid(given(config, shape), SingleDeviceSharding(devices(topology)[0]))
        check(jax.jit(function).lower(*arguments).compile().as_text())


def check(program: str) -> None:
    calls = [line for line in program.splitlines() if '"tpu_custom_call"' in line]
    assert sum("/attend_wave/" in line for line in calls) == 1, calls


def spread(topology: str, batch: int, tensor: int, heads: int, kv_heads: int) -> None:
    """Four chips attend in rows of their own, and in heads of their own where they divide."""
    mesh = make_mesh(batch, tensor, devices=devices(topology))
    config = llama(width=64 * heads, heads=heads, kv_heads=kv_heads, dtype="bfloat16", **SMALL)
    shape = Shape(4, 1, 4, heads, kv_heads, 64, nodes=40)
    params, prompt, nodes = given(config, shape)
    specs = decoder_specs(config, params, tensor)
    params = jax.tree.map(lambda a, spec: laid(a, NamedSharding(mesh, spec)), params, specs)
    by_row = Nodes(P(), *[P(BATCH)] * 6)
    lie = lambda spec, array: laid(array, NamedSharding(mesh, spec))  # noqa: E731
    nodes = jax.tree.map(lie, by_row, nodes, is_leaf=lambda leaf: isinstance(leaf, P))
    prompt = laid(prompt, NamedSharding(mesh, P(BATCH)))
    model = language_model(config, tensor=tensor)
    mapped = map_over_mesh(
        functools.partial(read, model, shape), mesh, (P(), P(BATCH), by_row), (P(BATCH), OWN)
    )
    with made_for("tpu"):
        program = jax.jit(mapped).lower(params, prompt, nodes).compile().as_text()
    check(program)
    # A chip reads all heads' numbers of the node slots, or those of its own heads.
    width = 64 * (kv_heads if kv_heads % tensor else kv_heads // tensor)
    (call,) = (line for line in program.splitlines() if "/attend_wave/" in line and "= " in line
               and '"tpu_custom_call"' in line)  # fmt: skip
    slots = shape.nodes + -shape.nodes % FULL
    assert f"[2,{4 // batch},1,{slots},{width}]" in call, call


CHECKS = {
    **{f"{name} on v5e": functools.partial(wave, "v5e:1x1", name) for name in SEARCHES},
    **{f"{name} on v6e": functools.partial(wave, "v6e:1x1", name) for name in SEARCHES},
    "batch 4": functools.partial(spread, "v5e:2x2", 4, 1, 8, 4),
    "batch 2, tensor 2": functools.partial(spread, "v5e:2x2", 2, 2, 8, 4),
    "batch 2, tensor 2, 3 heads": functools.partial(spread, "v5e:2x2", 2, 2, 6, 3),
}

if __name__ == "__main__":
    for check_name in sys.argv[1:]:
        CHECKS[check_name]()
        print(check_name, flush=True)
