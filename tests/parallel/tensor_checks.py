"""Weights that several devices share write what one device writes; checks of parallel_checks.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding import on_mesh as spread
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig, by_class
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.truncation import top_k_and_nucleus, typical
from coopgen_jax.discriminators.generative import (
    GenerativeConfig,
    generative,
    generative_params,
)
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.attend_kernel import Seen
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.pretrained.combined_model import combined
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.sharding import shard_cache, shard_decoder, undivided
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.t5 import T5Config, init_t5
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.models.wave_attention import How, attend_wave
from coopgen_jax.parallel.mesh import (
    BATCH,
    OWN,
    P,
    make_mesh,
    map_over_mesh,
    on_every_device,
    place,
    top_k,
)
from coopgen_jax.search import Tree
from coopgen_jax.testing import ToyLanguage, toy_discriminator
from coopgen_jax.text_generation import generate
from coopgen_jax.tokenizer import Tokenizer
from tests.models.waves import LAYER, Shape, drawn, plain, regions_of
from tests.oracle import Language
from tests.parallel.parallel_models import (
    CONFIG,
    NETWORK,
    PLAIN,
    PROMPTS,
    guide,
    model,
    rows_of,
    same,
)
from tests.search.toy import Toy, config_of


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
    assert gathers and all("[6,12]" in line for line in gathers), gathers


def kernels() -> None:
    """Devices that share weights run a search's kernels whole: the trees are those of one."""
    mesh, config = make_mesh(2, 4), config_of(simulations=8, wave=4, candidates=6, depth=4)
    toy = Toy(Language(1, 9), config, kernels=True)
    begun = toy.begin(np.arange(4)[:, None])
    alone, _, _ = toy.search(*begun)

    def searched(*begun) -> Tree:
        return toy.search(*begun)[0]

    mapped = jax.jit(map_over_mesh(searched, mesh, (P(BATCH), P(BATCH)), P(BATCH)))
    assert same(mapped(*begun), alone)


def kept_whole() -> None:
    """Where an axis is left to XLA, which cannot split a kernel, all its devices do all."""
    mesh, array = make_mesh(2, 4), jnp.arange(8)
    left = []

    def whole(array: jax.Array) -> jax.Array:
        left.append(jax.sharding.get_abstract_mesh().auto_axes)
        return array[::-1] if left[-1] == () else array

    inside = map_over_mesh(on_every_device(whole), mesh, (P(),), P())
    assert same(jax.jit(inside)(array), array[::-1]) and left.pop() == ()
    with jax.set_mesh(mesh):
        assert same(jax.jit(on_every_device(whole))(array), array[::-1]) and left.pop() == ()
    assert same(jax.jit(on_every_device(whole))(array), array[::-1])


def attended() -> None:
    """A TPU's kernel attends in the heads that lie on a device, or in all where none lie apart."""
    mesh = make_mesh(2, 4)
    stacked = P(None, BATCH)
    cache_spec = SlotCache(stacked, stacked, P(BATCH), stacked, stacked)
    for heads, kv_heads in ((8, 4), (6, 3)):
        own, cache, seen = drawn(Shape(2, 1, 3, heads, kv_heads, 8))
        regions = regions_of(cache)

        def attend(own: tuple, cache: SlotCache, seen: Seen) -> jax.Array:
            cache = shard_cache(cache, kv_heads, 4)  # noqa: B023
            how, number = How(interpret=True), jnp.int32(LAYER)
            return attend_wave(how, own, regions_of(cache), number, cache, seen)

        mapped = map_over_mesh(attend, mesh, (P(BATCH), cache_spec, P(BATCH)), P(BATCH))
        found = jax.jit(mapped)(own, cache, seen)
        assert np.allclose(found, plain(own, regions, seen, None), atol=1e-5)
        # The rows that a device's kernel holds.
        width = 8 * (1 if kv_heads == 4 else kv_heads)
        text = str(jax.make_jaxpr(mapped)(own, cache, seen))
        assert f"{{f32[128,{width}]}}" in text, text[-4000:]


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
        GediConfig(new_tokens=3, samples=2, draw=True, strength=2.0),
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


def shifted() -> None:
    """A shift goes along the same gradient where weights are shared among devices."""
    config = PPLMConfig(new_tokens=3, samples=2, iterations=2, step_size=0.5)
    # A certain judge has no slope, and along rounding no two devices go together.
    named = guide().params
    mild = jax.tree.map(lambda leaf: 0.03 * leaf, named)
    mild |= {name: named[name] for name in ("centre", "scale")}
    judge = dataclasses.replace(guide(), params=mild)
    given = {"discriminator": judge, "target": "good"}
    write = functools.partial(generate, model(), PROMPTS[:2], config=config, **given)
    alone, together = write(), write(mesh=make_mesh(1, 2))
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    shifts, same_shifts, none = (
        np.array([text.log_proposal for text in texts])
        for texts in (alone, together, write(config=dataclasses.replace(config, iterations=0)))
    )
    assert np.allclose(same_shifts, shifts, atol=1e-3)
    assert np.abs(none - shifts).max() > 0.1


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
        assert shape(entries)[-1] == part(kv_heads) * config.head_width, shape(entries)
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
    config = CONFIG.with_settings(kl=0.2)
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
