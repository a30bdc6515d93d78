"""Runs in a process of its own with eight virtual devices; prints one JSON object of what it found.

Run by test_mesh.py: the devices of a process are fixed before its first computation.
"""

import dataclasses
import functools
import json
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding import on_mesh as spread
from coopgen_jax.decoding.decode import (
    beam_search,
    blockwise,
    das,
    fudge,
    gedi,
    mcts,
    rerank,
    sample,
    smc,
    stochastic_beam_search,
)
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.on_mesh import on_mesh
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.watermark import Watermark, marking_of
from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.prompt import with_context
from coopgen_jax.parallel.mesh import BATCH, P, make_mesh, map_over_mesh
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from coopgen_jax.text_generation import generate
from tests.discriminators.conditional import conditional as toy_conditional
from tests.parallel.parallel_models import CONFIG, PLAIN, PROMPTS, guide, model, rows_of, same
from tests.parallel.sharded_checks import shared_parameters, shared_state
from tests.parallel.tensor_checks import (
    attended,
    combination,
    foreseen,
    kept_whole,
    kernels,
    largest,
    reference,
    sharded,
    shifted,
    sources,
    truncated,
)
from tests.tiny_encoder import make_encoder

jax.config.update("jax_numpy_rank_promotion", "raise")
STATIC = ("language_model", "discriminator", "config")
SEARCH = SearchConfig(simulations=6, wave=2, candidates=4, depth=4, reused_nodes=4)
SHIFTED = PPLMConfig(new_tokens=3, samples=2, iterations=1, bags=((3, 4),))


def marked() -> None:
    """Marked texts are those of one device, with a message a row, under both mappers."""
    language = ToyLanguage(vocab_size=6)
    prompt, key = rows_of(8, 6), jax.random.key(5)
    rules = Rules(watermark=Watermark("gumbel", window=2), min_tokens=8)
    given = {
        "language_model": toy_language_model(language),
        "params": language.tables(1),
        "config": SamplingConfig(new_tokens=8, samples=2, rules=rules),
        "marking": marking_of(np.arange(4), np.arange(8) % 6),
    }
    alone = jax.jit(sample, static_argnames=STATIC)(key, prompt, **given)
    silent = given | {"marking": marking_of(np.arange(4), np.zeros(8))}
    assert not same(alone, jax.jit(sample, static_argnames=STATIC)(key, prompt, **silent))
    for mapper, devices in (("shard_map", 8), ("pmap", 4)):
        decode = on_mesh(sample, make_mesh(devices), mapper=mapper)
        assert same(alone, jax.jit(decode, static_argnames=STATIC)(key, prompt, **given)), mapper


def conditional() -> None:
    """What is known of each row beside its text is split by rows too."""
    language = ToyLanguage(vocab_size=6)
    context = 4 * jax.random.normal(jax.random.key(1), (8, 2))
    prompt, key = with_context(rows_of(8, 6), context, range(8)), jax.random.key(5)
    given = {
        "language_model": toy_language_model(language),
        "params": language.tables(1),
        "discriminator": toy_conditional(language),
        "discriminator_params": language.tables(1),
        "config": FudgeConfig(new_tokens=4, samples=2),
        "target": jnp.asarray([0, 1] * 4),
    }
    alone = jax.jit(fudge, static_argnames=STATIC)(key, prompt, **given)
    other = with_context(prompt, context, range(7, -1, -1))
    assert not same(alone, jax.jit(fudge, static_argnames=STATIC)(key, other, **given))
    for mapper, devices in (("shard_map", 8), ("pmap", 4)):
        decode = on_mesh(fudge, make_mesh(devices), mapper=mapper)
        assert same(alone, jax.jit(decode, static_argnames=STATIC)(key, prompt, **given)), mapper


def toy() -> None:
    """The toy model's texts are those of one device, bit for bit, under both mappers."""
    language = ToyLanguage(vocab_size=6)
    params = language.tables(1)
    prompt = rows_of(8, 6)
    given = {
        "language_model": toy_language_model(language),
        "params": params,
        "discriminator": toy_discriminator(language),
        "discriminator_params": params,
        "config": MCTSConfig(
            new_tokens=4, samples=2, search=SEARCH, choice=ByVisits(visit_temperature=1.0)
        ),
        "target": jnp.asarray([0, 1] * 4),
    }
    key = jax.random.key(5)
    alone = jax.jit(mcts, static_argnames=STATIC)(key, prompt, **given)
    assert len({tuple(text) for text in np.asarray(alone.tokens).reshape(-1, 4)}) > 8
    for mapper, devices in (("shard_map", 8), ("pmap", 4)):
        decode = on_mesh(mcts, make_mesh(devices), mapper=mapper)
        assert same(alone, jax.jit(decode, static_argnames=STATIC)(key, prompt, **given)), mapper
    charged = given | {
        "reference": toy_language_model(language),
        "reference_params": language.tables(2),
        "config": given["config"].with_settings(kl=0.3),
    }
    static = (*STATIC, "reference")
    left = jax.jit(mcts, static_argnames=static)(key, prompt, **charged)
    assert not same(alone, left)
    decode = on_mesh(mcts, make_mesh(4))
    assert same(left, jax.jit(decode, static_argnames=static)(key, prompt, **charged))
    drawing = given["config"]
    for write, config in (
        (mcts, drawing.with_settings(mix_base=0.5)),
        (mcts, drawing.with_settings(visit_temperature=0.0, value_power=1.0)),
        (fudge, FudgeConfig(new_tokens=4, samples=2)),
        (gedi, GediConfig(new_tokens=4, samples=2, draw=True, strength=1.0)),
        (rerank, RerankConfig(new_tokens=4, of=3, samples=2)),
        (smc, SMCConfig(new_tokens=4, samples=4, threshold=1.0)),
        (blockwise, BlockwiseConfig(new_tokens=4, block=2, of=3, samples=2)),
        (das, DASConfig(new_tokens=4, beams=3, candidates=5, samples=2)),
        (beam_search, BeamConfig(new_tokens=4, beams=3, samples=2)),
        (stochastic_beam_search, StochasticBeamConfig(new_tokens=4, samples=3)),
    ):
        given["config"] = config
        if not config.guided:
            given.pop("target", None)
        alone = jax.jit(write, static_argnames=STATIC)(key, prompt, **given)
        decode = on_mesh(write, make_mesh(4))
        found = jax.jit(decode, static_argnames=STATIC)(key, prompt, **given)
        assert same(alone, found), write.__name__
    given = {name: given[name] for name in ("language_model", "params")}
    given["config"] = SamplingConfig(new_tokens=6, samples=2, rules=Rules(top_k=3))
    alone = jax.jit(sample, static_argnames=STATIC)(key, prompt, **given)
    decode = on_mesh(sample, make_mesh())
    assert same(alone, jax.jit(decode, static_argnames=STATIC)(key, prompt, **given))


def batch() -> None:
    """`generate` writes the same on a mesh, whatever divides the batch, and compiles once."""
    write = functools.partial(
        generate, model(), PROMPTS, discriminator=guide(), target="good", seed=3, batch_size=3
    )
    cases = (("shard_map", 8, CONFIG, 8), ("shard_map", 2, SHIFTED, 4), ("pmap", 2, PLAIN, 4))
    for mapper, devices, config, rows in cases:
        heard = []
        mesh = make_mesh(devices)
        alone = write(config=config)
        together = write(config=config, mesh=mesh, mapper=mapper, listener=heard.append)
        assert [text.tokens for text in together] == [text.tokens for text in alone], mapper
        assert np.allclose([t.log_prob for t in together], [t.log_prob for t in alone], atol=1e-4)
        assert heard[0].generation.tokens.shape[:2] == (rows, 2), heard[0].generation.tokens.shape
    counted = spread._advance._cache_size()
    write(config=PLAIN, mesh=mesh, mapper="pmap")
    assert spread._advance._cache_size() == counted


def callback() -> None:
    """A discriminator on the host is called by every device for its own rows."""
    encoder = make_encoder()
    crossing = Crossing(model().tokenizer, encoder.tokenizer, width=12)
    head = HeadConfig(("bad", "good"), 8, (4,))
    config = BidirectionalConfig(encoder.config, head, crossing, reads_prompt=True)
    weights = Head(head).init(jax.random.key(1), jnp.zeros((1, 8)))["params"]
    params = {"encoder": encoder.params, "head": weights}
    judge = LoadedDiscriminator(bidirectional(config), params, {}, (crossing,))
    write = functools.partial(
        generate, model(), ["a b", "c", "a c", "b"], discriminator=judge, target="good",
        config=dataclasses.replace(PLAIN, new_tokens=2, samples=1),
    )  # fmt: skip
    alone = write()
    calls = crossing.counts.calls
    together = write(mesh=make_mesh(4))
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert crossing.counts.calls > 2 * calls
    try:
        write(mesh=make_mesh(2, 2))
    except UserError as error:
        assert "calls the host" in str(error)
    else:
        raise AssertionError("weights are shared under a host callback")


def training() -> None:
    """A step with averaged gradients gives every device the gradient of the whole batch."""
    key = jax.random.key(0)
    rows, weights = jax.random.normal(key, (8, 3)), jnp.ones(3)

    def loss(weights, rows):
        return jnp.mean(jnp.tanh(rows @ weights))

    def step(weights, rows):
        value, gradient = jax.value_and_grad(loss)(weights, rows)
        value, gradient = jax.lax.pmean((value, gradient), BATCH)
        return weights - 0.1 * gradient, value

    value, gradient = jax.value_and_grad(loss)(weights, rows)
    for mapper in ("shard_map", "pmap"):
        mapped = map_over_mesh(step, make_mesh(4), (P(), P(BATCH)), (P(), P()), mapper=mapper)
        found, mean = jax.jit(mapped)(weights, rows)
        assert np.allclose(found, weights - 0.1 * gradient, atol=1e-6)
        assert np.allclose(mean, value, atol=1e-6)
        try:
            jax.jit(mapped)(weights, rows[:6])
        except UserError as error:
            assert "6 rows cannot be split evenly over 4 devices" in str(error)
        else:
            raise AssertionError("6 rows were split over 4 devices")
    try:
        map_over_mesh(step, make_mesh(2, 2), (P(), P(BATCH)), (P(), P()), mapper="pmap")
    except UserError as error:
        assert "pmap cannot share weights among 2 devices" in str(error)
    else:
        raise AssertionError("pmap shared weights")


CHECKS = {
    "sources": sources,
    "toy": toy,
    "reference": reference,
    "batch": batch,
    "marked": marked,
    "conditional": conditional,
    "callback": callback,
    "largest": largest,
    "kept whole": kept_whole,
    "kernels": kernels,
    "attended": attended,
    "truncated": truncated,
    "combination": combination,
    "foreseen": foreseen,
    "shifted": shifted,
    "training": training,
    "shared optimiser state": shared_state,
    "shared parameters": shared_parameters,
    "8 key/value heads": functools.partial(
        sharded, 16, 8, shares=8, vocabulary=304, decoder=CONFIG
    ),
    "3 key/value heads": functools.partial(sharded, 12, 3, shares=4, vocabulary=304, decoder=PLAIN),
    "3 key/value heads by 8": functools.partial(
        sharded, 24, 3, shares=8, vocabulary=300, decoder=PLAIN
    ),
}


def main() -> None:
    """Runs every check and prints what failed."""
    failures, seconds = {}, {}
    for name, check in CHECKS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        started = time.perf_counter()
        try:
            check()
        except Exception:
            failures[name] = traceback.format_exc()
        seconds[name] = round(time.perf_counter() - started, 1)
    print(json.dumps({"seconds": seconds, "failures": failures}))


if __name__ == "__main__":
    main()
