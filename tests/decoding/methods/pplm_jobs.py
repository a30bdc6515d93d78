"""Tiny networks and guides whose history is shifted, as jobs and as their slow references."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.job import Job, write_all
from coopgen_jax.decoding.methods import pplm as decoder
from coopgen_jax.decoding.methods.pplm import PPLMConfig
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
    trunk_layers,
)
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from tests.decoding.methods.pplm_reference import Network, Reference, double
from tests.decoding.toy import prompt_of

FAMILIES = {"llama": TINY_LLAMA, "gpt2": TINY_GPT2}
TAPS = (1, 2)
KEY = jax.random.key(7)
ROWS = [[3, 4, 5, 6], [9], [2, 8]]
BAGS = ((5, 9, 30), (11, 12))
BOTH = PPLMConfig(
    new_tokens=4, samples=2, bags=BAGS, iterations=2, step_size=0.5, kl=0.3, fusion=0.7, gamma=1.2
)


@functools.cache
def params_of(family: str):
    # Larger than drawn, so that tokens differ; the states that heads read are then of order one.
    return jax.tree.map(lambda leaf: 2 * leaf, init_decoder(jax.random.key(0), FAMILIES[family]))


@functools.cache
def head_of(*, reads_prompt: bool = True) -> LoadedDiscriminator:
    head = HeadConfig(("bad", "good"), 2 * len(TAPS) * TINY_LLAMA.width, (8,))
    weights = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    # So that nothing is certain: a certain judge has no slope.
    weights = jax.tree.map(lambda leaf: 0.3 * leaf, weights)
    weights["scale"] = jnp.ones(head.inputs)
    weights["centre"] = jnp.linspace(-0.2, 0.2, head.inputs)
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig(TAPS, reads_prompt, head)), weights)


@functools.cache
def layers_of() -> LoadedDiscriminator:
    shape = TrunkLayersConfig(
        TAPS, TINY_LLAMA.width, small_network(layers=1, width=32, context=40),
        HeadConfig(("bad", "good"), 32, ()),
    )  # fmt: skip
    weights = init_trunk_layers(jax.random.key(2), shape)
    return LoadedDiscriminator(trunk_layers(shape), weights)


def composed() -> LoadedDiscriminator:
    return compose([Term(head_of(), "good"), Term(layers_of(), "bad", weight=0.5, negated=True)])


def job_of(
    config: PPLMConfig, prompt=None, *, family="llama", guide=None, target=1, end_tokens=()
) -> Job:
    prompt = prompt_of(*ROWS) if prompt is None else prompt
    rows = len(prompt.tokens)
    network = replace(FAMILIES[family], end_tokens=end_tokens)
    return Job(
        prompt=prompt,
        params=params_of(family),
        discriminator_params=guide.params if guide else None,
        target=jnp.full(rows, target, jnp.int32) if guide else None,
        language_model=language_model(network, guide.discriminator.taps if guide else ()),
        discriminator=guide.discriminator if guide else None,
        config=config,
    )


begin, advance = jax.jit(decoder.begin), jax.jit(decoder.advance)
fused_logits = jax.jit(decoder.fused_logits)
write = jax.jit(lambda key, job: write_all(decoder.begin, decoder.advance, key, job))


def after(job: Job, step: int):
    """The state behind some drawn tokens: plainly drawn, since that compiles sooner."""
    plain = job.replace(config=replace(job.config, bags=BAGS, iterations=0))
    state = begin(plain)
    for _ in range(step):
        state, _ = advance(KEY, plain, state)
    return state


def text_of(job: Job, state, row: int, sample: int) -> list[int]:
    length = int(state.generation.length[row, sample])
    return [*ROWS[row], *np.asarray(state.generation.tokens[row, sample, :length]).tolist()]


def reference_of(job: Job, state, row: int, sample: int, *, family="llama", reads_prompt=True):
    network = Network(FAMILIES[family], double(params_of(family)))
    head = double(job.discriminator_params) if job.target is not None else None
    return Reference(
        network, job.config, text_of(job, state, row, sample), head, TAPS,
        prompt=0 if reads_prompt else len(ROWS[row]), target=1,
    )  # fmt: skip
