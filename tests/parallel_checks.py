"""Runs in a process of its own with eight virtual devices; prints one JSON object of what it found.

Run by test_parallel.py: the devices of a process are fixed before its first computation.
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
import tokenizers

from coopgen_jax.decoding import spread
from coopgen_jax.decoding.beam import BeamConfig, beam_search
from coopgen_jax.decoding.blockwise import BlockwiseConfig, blockwise
from coopgen_jax.decoding.das import DASConfig, das
from coopgen_jax.decoding.fudge import FudgeConfig, fudge
from coopgen_jax.decoding.gedi import GediConfig, by_class, gedi
from coopgen_jax.decoding.mcts import mcts
from coopgen_jax.decoding.mcts_config import MCTSConfig
from coopgen_jax.decoding.pplm_config import PPLMConfig
from coopgen_jax.decoding.rerank import RerankConfig, rerank
from coopgen_jax.decoding.sampling import SamplingConfig, sample
from coopgen_jax.decoding.smc import SMCConfig, smc
from coopgen_jax.decoding.spread import on_mesh
from coopgen_jax.decoding.stochastic_beam import StochasticBeamConfig, stochastic_beam_search
from coopgen_jax.decoding.truncation import top_k_and_nucleus, typical
from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.crossing import Crossing
from coopgen_jax.discriminators.generative import (
    GenerativeConfig,
    generative,
    generative_params,
)
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.layout import separate_layers
from coopgen_jax.models.pretrained.combined import combined
from coopgen_jax.models.pretrained.loading import LoadedModel
from coopgen_jax.models.sharding import shard_decoder, undivided
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.t5 import T5Config, init_t5
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.parallel import BATCH, OWN, P, make_mesh, map_over_mesh, place, top_k
from coopgen_jax.search import SearchConfig
from coopgen_jax.shell import generate
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator, toy_language_model
from coopgen_jax.text import Tokenizer
from tests.conftest import tiny_encoder
from tests.sharded_checks import shared_moments

jax.config.update("jax_numpy_rank_promotion", "raise")
STATIC = ("language_model", "discriminator", "config")
SEARCH = SearchConfig(simulations=6, wave=2, candidates=4, depth=4, kept=4)
CONFIG = MCTSConfig(
    new_tokens=3, samples=2, visit_temperature=1.0,
    search=SearchConfig(simulations=4, candidates=4, depth=4, kept=4),
)  # fmt: skip
PLAIN = SamplingConfig(new_tokens=3, samples=2, top_k=4)
SHIFTED = PPLMConfig(new_tokens=3, samples=2, iterations=1, bags=((3, 4),))
NETWORK = dataclasses.replace(TINY_LLAMA, vocab_size=304, layers=2, context=256, end_tokens=(256,))
PROMPTS = ["a b c d", "b", "cc", "another one", "d"]


def rows_of(count: int, vocabulary: int) -> Prompt:
    tokens = np.random.default_rng(0).integers(0, vocabulary - 1, (count, 5)).astype(np.int32)
    mask = np.arange(5)[None, :] >= np.arange(count)[:, None] % 4
    return Prompt(jnp.asarray(tokens), jnp.asarray(mask), jnp.arange(count))


@functools.cache
def model(config: DecoderConfig = NETWORK) -> LoadedModel:
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    core = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(letters)}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(["<end>"])
    params = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(0), config))
    return LoadedModel(config, params, Tokenizer(core), "tiny", "0" * 64, None)


@functools.cache
def guide() -> LoadedDiscriminator:
    head = HeadConfig(("bad", "good"), 2 * 2 * NETWORK.width, (8,))
    params = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig((1, 2), False, head)), params, {})


def same(one, other) -> bool:
    """Tells whether two pytrees are equal bit for bit, NaN included."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)


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
        "config": MCTSConfig(new_tokens=4, samples=2, visit_temperature=1.0, search=SEARCH),
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
        "config": dataclasses.replace(given["config"], kl=0.3),
    }
    static = (*STATIC, "reference")
    left = jax.jit(mcts, static_argnames=static)(key, prompt, **charged)
    assert not same(alone, left)
    decode = on_mesh(mcts, make_mesh(4))
    assert same(left, jax.jit(decode, static_argnames=static)(key, prompt, **charged))
    drawing = given["config"]
    for write, config in (
        (mcts, dataclasses.replace(drawing, full_share=0.5)),
        (fudge, FudgeConfig(new_tokens=4, samples=2)),
        (gedi, GediConfig(new_tokens=4, samples=2, greedy=False, strength=1.0)),
        (rerank, RerankConfig(SamplingConfig(new_tokens=4), of=3, samples=2)),
        (smc, SMCConfig(new_tokens=4, samples=4, threshold=1.0)),
        (blockwise, BlockwiseConfig(new_tokens=4, block=2, of=3, samples=2)),
        (das, DASConfig(new_tokens=4, beams=3, pool=5, samples=2)),
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
    given["config"] = SamplingConfig(new_tokens=6, samples=2, top_k=3)
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
    encoder = tiny_encoder.__wrapped__()
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


def largest() -> None:
    """The vocabulary-sharded top-K is that of one device, ties included, and gathers little."""
    mesh = make_mesh(2, 4)
    logits = np.random.default_rng(0).integers(0, 4, (6, 2, 64)).astype(np.float32)
    logits[0, 0, 10:] = -np.inf
    logits[1] = 0.0
    placed = place(jnp.asarray(logits), mesh, P(BATCH, None, "tensor"))
    for count in (1, 3, 16, 20, 64):
        cut = functools.partial(top_k, count=count, shards=4)
        mapped = jax.jit(map_over_mesh(cut, mesh, (P(BATCH),), P(BATCH)))
        assert same(mapped(placed), jax.lax.top_k(jnp.asarray(logits), count)), count
        with jax.set_mesh(mesh):
            assert same(jax.jit(cut)(placed), jax.lax.top_k(jnp.asarray(logits), count)), count
    cut = functools.partial(top_k, count=3, shards=4)
    mapped = jax.jit(map_over_mesh(cut, mesh, (P(BATCH),), P(BATCH)))
    program = mapped.lower(placed).compile().as_text()
    gathers = [line for line in program.splitlines() if " all-gather(" in line]
    assert gathers and all("[3,2,12]" in line for line in gathers), gathers


def truncated() -> None:
    """A vocabulary in parts is cut as on one device, ties included, and never gathered."""
    mesh = make_mesh(2, 4)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 2, 64)).astype(np.float32)
    logits[0, 0, 10:] = -np.inf
    logits[1] = rng.integers(0, 2, (2, 64))  # half of the rows have no ties, half have
    said = rng.integers(-3, 0, logits.shape).astype(np.float32)
    given = [place(jnp.asarray(array), mesh, P(BATCH, None, "tensor")) for array in (logits, said)]

    def cut(logits: jax.Array, said: jax.Array) -> tuple[jax.Array, ...]:
        nucleus = top_k_and_nucleus(logits, top_p=0.7, shards=4)
        return nucleus, typical(logits, 0.7), by_class(logits, said, mass=0.7, certain=1.0)

    alone = jax.jit(cut)(logits, said)
    mapped = jax.jit(map_over_mesh(cut, mesh, (P(BATCH), P(BATCH)), (P(BATCH),) * 3))
    assert same(mapped(*given), alone)
    with jax.set_mesh(mesh):
        assert same(jax.jit(cut)(*given), alone)
    program = mapped.lower(*given).compile().as_text()
    crossing = [line for line in program.splitlines() if " all-reduce(" in line]
    assert crossing and "64]" not in "".join(crossing), crossing
    assert " all-gather(" not in program


def foreseen() -> None:
    """Whole vocabularies are judged beside logits that are split by vocabulary."""
    shallow = dataclasses.replace(NETWORK, layers=1)
    config = GenerativeConfig(shallow, ("bad", "good"), ((7,), (9,)))
    network = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(2), shallow))
    judge = LoadedDiscriminator(generative(config), generative_params(network, 2), {})
    for decoder in (
        GediConfig(new_tokens=3, samples=2, greedy=False, strength=2.0),
        FudgeConfig(new_tokens=3, samples=2, look_ahead=True),
    ):
        write = functools.partial(
            generate, model(shallow), PROMPTS[1:3], discriminator=judge, target="good"
        )
        alone, together = write(config=decoder), write(config=decoder, mesh=make_mesh(1, 2))
        assert [text.tokens for text in together] == [text.tokens for text in alone], decoder
        assert np.allclose(
            [t.log_proposal for t in together], [t.log_proposal for t in alone], atol=1e-3
        )


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


def sharded(
    heads: int, kv_heads: int, shares: int, vocabulary: int, decoder: MCTSConfig | SamplingConfig
) -> None:
    """Weights shared by tensor write the same texts; logits and caches agree to rounding."""
    config = dataclasses.replace(NETWORK, heads=heads, kv_heads=kv_heads, vocab_size=vocabulary)
    mesh = make_mesh(8 // shares, shares)
    loaded = model(config)
    params, placed = loaded.params, shard_decoder(loaded.params, config, mesh)

    def part(count: int) -> int:
        return count if count % shares else count // shares

    def shape(leaf: jax.Array) -> tuple[int, ...]:
        return leaf.addressable_shards[0].data.shape

    layers = placed["layers"]
    assert shape(layers["query"]["kernel"])[-2] == part(heads) * 8
    assert shape(layers["output"]["kernel"])[-1] == part(heads) * 8
    assert shape(layers["key"]["kernel"])[-2] == part(kv_heads) * 8
    assert shape(layers["gate"]["kernel"])[-2] == shape(layers["down"]["kernel"])[-1] == part(48)
    assert shape(placed["embedding"])[0] == shape(placed["head"])[0] == part(vocabulary)
    whole = {f"{kv_heads} key/value heads": kv_heads, f"{heads} query heads": heads}
    whole |= {f"{vocabulary} tokens of the vocabulary": vocabulary}
    assert set(undivided(config, shares)) == {w for w, n in whole.items() if n % shares}

    network = language_model(config, taps=(1,), tensor=shares)
    prompt = rows_of(8, vocabulary)
    nodes = Nodes(
        start=jnp.int32(1),
        token=jnp.full((8, 1, 2), 7),
        parent=jnp.zeros((8, 1, 2), jnp.int32),
        path=jnp.full((8, 1, 2, 2), -1),
        depth=jnp.ones((8, 1, 2), jnp.int32),
        committed=jnp.zeros((8, 1), jnp.int32),
        terminal=jnp.zeros((8, 1, 2), bool),
    )

    def read(network, params, prompt, nodes):
        first, _, cache = network.prefill(params, prompt, capacity=Capacity(1, 2, 4))
        logits, hidden, cache = network.extend(params, cache, nodes)
        return (first, logits, hidden), cache

    specs = dataclasses.replace(nodes, **dict.fromkeys(
        ("token", "parent", "path", "depth", "committed", "terminal"), P(BATCH)), start=P(),
    )  # fmt: skip
    mapped = jax.jit(map_over_mesh(
        functools.partial(read, network), mesh, (P(), P(BATCH), specs), (P(BATCH), OWN),
    ))  # fmt: skip
    found, cache = mapped(placed, prompt, nodes)
    expected, _ = jax.jit(functools.partial(read, language_model(config, taps=(1,))))(
        params, prompt, nodes
    )
    separate, _ = mapped(shard_decoder(separate_layers(params), config, mesh), prompt, nodes)
    for one, other, third in zip(found, expected, separate, strict=True):
        # Single precision has seven digits, and these sums reach hundreds.
        slack = 1e-4 + 1e-5 * np.abs(other).max()
        close = functools.partial(np.allclose, rtol=1e-5, atol=slack)
        assert close(one, other), np.abs(one - other).max()
        assert close(one, third), np.abs(one - third).max()
    for entries in (cache.keys.nodes, cache.values.trunk, cache.prompt_keys):
        assert shape(entries)[-2] == part(kv_heads), shape(entries)
    write = functools.partial(
        generate, loaded, PROMPTS[:4], discriminator=guide(), target="good", config=decoder
    )
    alone, together = write(), write(mesh=mesh)
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    counted = spread._advance._cache_size()
    write(mesh=mesh)
    assert spread._advance._cache_size() == counted


def combination() -> None:
    """Several networks as one write the same on a mesh, their weights shared or not."""
    other = dataclasses.replace(NETWORK, layers=1, heads=2, kv_heads=1)
    whole = combined(model(), anti_expert=model(other), negative_prompt="no", control_code="x")
    given = {"discriminator": guide(), "target": "good", "config": PLAIN}
    write = functools.partial(generate, whole, PROMPTS, **given)
    alone, plain = write(), generate(model(), PROMPTS, **given)
    assert [text.tokens for text in alone] != [text.tokens for text in plain]
    for mesh, mapper in ((make_mesh(4, 2), "shard_map"), (make_mesh(2), "pmap")):
        together = write(mesh=mesh, mapper=mapper)
        assert [text.tokens for text in together] == [text.tokens for text in alone], mapper
        assert np.allclose([t.log_prob for t in together], [t.log_prob for t in alone], atol=1e-3)


def reference() -> None:
    """A search is charged alike for leaving a reference where weights are shared among devices."""
    other = dataclasses.replace(NETWORK, layers=1, heads=2, kv_heads=1)
    config = dataclasses.replace(CONFIG, kl=0.2)
    write = functools.partial(
        generate, model(), PROMPTS[:4], reference=model(other), discriminator=guide(),
        target="good", config=config,
    )  # fmt: skip
    alone, together = write(), write(mesh=make_mesh(4, 2))
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert np.allclose([t.log_prob for t in together], [t.log_prob for t in alone], atol=1e-3)


def sources() -> None:
    """An encoder-decoder writes the same on a mesh, its weights shared or not."""
    config = T5Config(
        vocab_size=304, layers=2, width=32, heads=8, kv_heads=8, head_width=8, ffn_width=48,
        context=256, norm="rms", norm_epsilon=1e-6, activation="gelu_tanh", gated=True,
        positions="relative", tied=False, end_tokens=(256,), buckets=8, reach=20, scaled=False,
    )  # fmt: skip
    params = jax.tree.map(lambda leaf: 3 * leaf, init_t5(jax.random.key(0), config))
    tokenizer = Tokenizer(model().tokenizer.core, close_tokens=[256])
    loaded = LoadedModel(config, params, tokenizer, "tiny", "0" * 64, None)
    placed = shard_decoder(params, config, make_mesh(2, 4))
    for layers in (placed["layers"]["cross_key"], placed["encoder"]["layers"]["query"]):
        assert layers["kernel"].addressable_shards[0].data.shape[-2] == 16
    language = ToyLanguage(vocab_size=304)
    judge = {"scores": jnp.asarray(language.tables(0)["scores"])}
    judged = LoadedDiscriminator(toy_discriminator(language), judge, {})
    write = functools.partial(
        generate, loaded, PROMPTS[:4], discriminator=judged, target="one", config=CONFIG
    )
    alone = write()
    for mesh, mapper in ((make_mesh(2, 4), "shard_map"), (make_mesh(4), "pmap")):
        together = write(mesh=mesh, mapper=mapper)
        assert [text.tokens for text in together] == [text.tokens for text in alone], mapper
        assert np.allclose([t.log_prob for t in together], [t.log_prob for t in alone], atol=1e-3)


CHECKS = {
    "sources": sources,
    "toy": toy,
    "reference": reference,
    "batch": batch,
    "callback": callback,
    "largest": largest,
    "truncated": truncated,
    "combination": combination,
    "foreseen": foreseen,
    "training": training,
    "shared moments": shared_moments,
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
