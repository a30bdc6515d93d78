"""The slot cache against whole-sequence reading, one flat cache and the ancestor mask."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models import wave_attention
from coopgen_jax.models.attention import attend_causal
from coopgen_jax.models.decoder import language_model, new_cache
from coopgen_jax.models.layer_layout import separate_layers, stored
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity, Slots, commit, move
from coopgen_jax.models.transformer import embed, init_decoder, run_layers, tapped, unembed
from coopgen_jax.models.wave_attention import How
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from tests.compiled import compiled
from tests.models.trees import D, full_logits, grown_tree, nodes_of, prompt_of

CONFIGS = {"llama": TINY_LLAMA, "gpt2": TINY_GPT2}


@pytest.fixture(params=["cpu", "gpu", "tpu"])
def device(request, monkeypatch) -> Iterator[str]:
    """A processor gathers paths, an accelerator reads all slots, a TPU does so in a kernel."""
    jax.clear_caches()  # a function that has been traced is not traced again
    monkeypatch.setattr(wave_attention, "How", functools.partial(How, interpret=True))
    with made_for(request.param):
        yield request.param
    jax.clear_caches()


@pytest.mark.parametrize("lay_out", [None, separate_layers], ids=["stacked", "separate"])
@pytest.mark.parametrize("family", CONFIGS)
def test_cached_equals_uncached(family, lay_out, device):
    config = CONFIGS[family]
    stack = init_decoder(jax.random.key(1), config)
    params = lay_out(stack) if lay_out else stack
    model = compiled(language_model(config, taps=(0, 1, config.layers)))
    rows = [[3, 4, 5, 6, 7], [9], [2, 8, 1]]
    prompt = prompt_of(rows, 8)
    logits, hidden, cache = model.prefill(params, prompt, capacity=Capacity(2, 4, 12))
    assert hidden.shape == (3, 8, 3, config.width)
    for b, row in enumerate(rows):
        np.testing.assert_allclose(logits[b], full_logits(config, stack, row), atol=2e-5)
    waves, texts = grown_tree(np.random.default_rng(0), 3, 2, 3, 3)
    extend = model.extend
    for token, parent, path, depth, slot in waves:
        nodes = nodes_of(token, parent, path, depth, start=slot, committed=0)
        logits, hidden, cache = extend(params, cache, nodes)
        for b in range(3):
            for r in range(2):
                for w in range(3):
                    text = rows[b] + texts[b, r][slot + w][0]
                    expected = full_logits(config, stack, text)
                    np.testing.assert_allclose(logits[b, r, w], expected, atol=2e-5)
    assert hidden.shape == (3, 2, 3, 3, config.width)


def test_move_and_commit_keep_the_text(device):
    """A subtree moved under a committed root reads on as if its text had been the prompt."""
    config = TINY_LLAMA
    params = init_decoder(jax.random.key(2), config)
    model = compiled(language_model(config))
    prompt = prompt_of([[3, 4, 5], [9, 8, 7]], 3)
    _, _, cache = model.prefill(params, prompt, capacity=Capacity(1, 2, 8))
    # slot 1 = token 11 under the root; slot 2 = 12 under 1; slot 3 = 13 under 2
    for slot, path in ((1, []), (2, [1]), (3, [1, 2])):
        padded = np.full((2, 1, 1, D), -1)
        padded[..., : len(path)] = path
        token = np.full((2, 1, 1), 10 + slot)
        parent = np.full((2, 1, 1), slot - 1)
        depth = np.full((2, 1, 1), len(path) + 1)
        nodes = nodes_of(token, parent, padded, depth, start=slot, committed=0)
        _, _, cache = model.extend(params, cache, nodes)
    source = jnp.broadcast_to(jnp.asarray([1, 2, 3]), (2, 1, 3))
    cache = commit(move(cache, source), jnp.zeros((2, 1), jnp.int32))
    # old slot 3 is slot 2 now, at depth 2; its new child is at depth 3
    path = np.broadcast_to([1, 2, -1, -1], (2, 1, 1, D))
    ones = np.ones((2, 1, 1))
    nodes = nodes_of(ones * 14, ones * 2, path, ones * 3, start=5, committed=1)
    logits, _, _ = model.extend(params, cache, nodes)
    for b, row in enumerate([[3, 4, 5], [9, 8, 7]]):
        expected = full_logits(config, params, [*row, 11, 12, 13, 14])
        np.testing.assert_allclose(logits[b, 0, 0], expected, atol=2e-5)


def test_regions_equal_one_flat_cache_under_the_ancestor_mask(device):
    """Prompt, trunk and paths equal one sequence in which ancestors alone are visible."""
    config = TINY_LLAMA
    params = init_decoder(jax.random.key(3), config)
    model = compiled(language_model(config, taps=(2, 3)))
    prompt = prompt_of([[3, 4, 5, 6]], 4)
    _, _, cache = model.prefill(params, prompt, capacity=Capacity(1, 2, 10))
    none = np.full((1, 1, 1, D), -1)
    one = np.ones((1, 1, 1))
    for t in range(2):  # two committed tokens, read through slot 0
        nodes = nodes_of(one * (20 + t), one * 0, none, one, start=0, committed=t)
        _, _, cache = model.extend(params, cache, nodes)
        cache = commit(cache, jnp.full((1, 1), t))
    waves, texts = grown_tree(np.random.default_rng(1), 1, 1, 3, 3)
    got_logits, got_hidden = [], []
    for token, parent, path, depth, slot in waves:
        nodes = nodes_of(token, parent, path, depth, start=slot, committed=2)
        logits, hidden, cache = model.extend(params, cache, nodes)
        got_logits.append(logits[0, 0])
        got_hidden.append(hidden[0, 0])

    flat = [3, 4, 5, 6, 20, 21] + [int(t) for wave in waves for t in wave[0][0, 0]]
    size = len(flat)
    mask = np.tril(np.ones((size, size), bool))
    positions = np.arange(size)
    for slot in range(1, 10):
        ancestors = texts[0, 0][slot][1]
        mask[5 + slot, 6:] = False
        mask[5 + slot, [5 + a for a in ancestors]] = True
        positions[5 + slot] = 6 + len(ancestors) - 1
    x, angles = embed(config, params, jnp.asarray([flat]), jnp.asarray([positions]))
    last, streams, _ = run_layers(
        config,
        params,
        x,
        angles,
        lambda number, regions: (
            lambda query, key, value: attend_causal(query, key, value, jnp.asarray(mask)[None])
        ),
    )
    expected = unembed(config, params, last)[0, 6:]
    np.testing.assert_allclose(jnp.concatenate(got_logits), expected, atol=2e-5)
    states = tapped(config, params, x, streams, (2, 3))[0, 6:]
    np.testing.assert_allclose(jnp.concatenate(got_hidden), states, atol=2e-5)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_a_tpu_moves_rows_as_any_device_does(lead):
    draw = np.random.default_rng(0)
    nodes = jnp.asarray(draw.normal(size=(*lead, 2, 3, 32, 5)).astype(np.float32))
    source = jnp.asarray(draw.integers(-1, 32, (2, 3, 18)))
    slots = Slots(nodes, None, lead=len(lead))
    expected = move(slots, source).nodes
    with made_for("tpu"):
        found = move(slots, source).nodes
        text = str(jax.make_jaxpr(move)(slots, source))
    rows = 6 * 32 * int(np.prod(lead))
    assert f"[{rows},5]" in text, "rows are not on one axis"
    np.testing.assert_array_equal(found, expected)
    assert (found[..., :18, :] != nodes[..., :18, :]).any()


def test_only_a_tpu_fills_up_what_many_slots_leave_of_registers():
    def nodes_of_cache(slots: int) -> int:
        entries = jnp.zeros((1, 1, 2, 4))
        mask = jnp.ones((1, 2), bool)
        return new_cache(entries, entries, mask, Capacity(1, 2, slots)).keys.nodes.shape[3]

    assert [nodes_of_cache(slots) for slots in (1, 15, 16, 49)] == [1, 15, 16, 49]
    with made_for("tpu"):
        assert [nodes_of_cache(slots) for slots in (1, 15, 16, 49)] == [1, 15, 16, 64]


@pytest.mark.parametrize(("slots", "reads_all"), [(48, True), (49, False)])
def test_all_slots_are_read_where_that_is_less_than_to_gather(slots, reads_all, device):
    config = TINY_LLAMA
    params = init_decoder(jax.random.key(6), config)
    model = language_model(config)
    prompt = prompt_of([[3, 4, 5]], 4)
    _, _, cache = model.prefill(params, prompt, capacity=Capacity(1, 2, slots))
    ones = np.ones((1, 1, 4))
    nodes = nodes_of(ones, ones * 0, np.full((1, 1, 4, D), -1), ones, start=1, committed=0)
    text = str(jax.make_jaxpr(model.extend)(params, cache, nodes))
    gathered = f"1,1,4,{D},{config.kv_heads * config.head_width}]"
    assert (gathered not in text) == (reads_all and device != "cpu")
    assert ("attend_wave" in text) == (reads_all and device == "tpu")


def test_score_is_the_log_probability_of_the_continuation():
    config = TINY_GPT2
    params = init_decoder(jax.random.key(4), config)
    model = compiled(language_model(config))
    rows = [[3, 4, 5], [9]]
    prompt = prompt_of(rows, 4)
    tokens = jnp.asarray([[[1, 2, 3], [4, 5, 6]], [[7, 8, 0], [10, 0, 0]]])
    mask = jnp.asarray([[[1, 1, 1], [1, 1, 1]], [[1, 1, 0], [1, 0, 0]]], bool)
    got = model.score(params, prompt, tokens, mask)
    for b in range(2):
        for r in range(2):
            text = list(rows[b])
            for s in range(3):
                if not mask[b, r, s]:
                    assert got[b, r, s] == 0
                    continue
                log_probs = jax.nn.log_softmax(full_logits(config, params, text))
                np.testing.assert_allclose(got[b, r, s], log_probs[tokens[b, r, s]], atol=2e-5)
                text.append(int(tokens[b, r, s]))


def test_embeddings_stand_in_for_tokens():
    config = TINY_LLAMA
    params = init_decoder(jax.random.key(5), config)
    model = compiled(language_model(config))
    plain = prompt_of([[3, 4, 5]], 4)
    vectors = jnp.zeros((1, 4, config.width)).at[0, 2].set(params["embedding"][4])
    instead = plain.replace(
        tokens=plain.tokens.at[0, 2].set(0),
        embeddings=vectors,
        embedded=jnp.asarray([[False, False, True, False]]),
    )
    capacity = Capacity(1, 1, 2)
    expected, _, cache = model.prefill(params, plain, capacity=capacity)
    got, _, same = model.prefill(params, instead, capacity=capacity)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    tokens = jnp.asarray([[[7, 8]]])
    mask = jnp.ones((1, 1, 2), bool)
    np.testing.assert_allclose(
        model.score(params, instead, tokens, mask),
        model.score(params, plain, tokens, mask),
        atol=1e-6,
    )
    one, path = np.ones((1, 1, 1)), np.full((1, 1, 1, D), -1)
    node = nodes_of(one * 6, one * 0, path, one, start=1, committed=0)
    embedding = params["embedding"][6][None, None, None]
    by_vector = dataclasses.replace(node, token=node.token * 0, embedding=embedding)
    np.testing.assert_allclose(
        model.extend(params, same, by_vector)[0], model.extend(params, cache, node)[0], atol=1e-6
    )


def test_extend_is_differentiable_in_cache_and_embedding(device):
    config = TINY_LLAMA
    params = init_decoder(jax.random.key(6), config)
    model = compiled(language_model(config))
    prompt = prompt_of([[3, 4, 5]], 4)
    _, _, cache = model.prefill(params, prompt, capacity=Capacity(1, 1, 3))
    one, path = np.ones((1, 1, 1)), np.full((1, 1, 1, D), -1)
    node = nodes_of(one * 6, one * 0, path, one, start=1, committed=0)

    @jax.jit
    def first_logit(prompt_keys, embedding):
        logits, _, _ = model.extend(
            params, cache.replace(prompt_keys=prompt_keys), node.replace(embedding=embedding)
        )
        return logits[0, 0, 0, 0]

    at = (cache.prompt_keys, params["embedding"][6][None, None, None])
    gradients = jax.grad(first_logit, argnums=(0, 1))(*at)
    for argument, gradient in enumerate(gradients):
        step = 2e-4
        direction = jax.random.normal(jax.random.key(argument), gradient.shape)
        moved = [list(at), list(at)]
        moved[0][argument] = at[argument] + step * direction
        moved[1][argument] = at[argument] - step * direction
        slope = (first_logit(*moved[0]) - first_logit(*moved[1])) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=2e-2, atol=1e-4)
        assert jnp.abs(gradient).max() > 0


def test_no_token_sees_a_later_one():
    config = TINY_GPT2
    params = init_decoder(jax.random.key(7), config)
    x, angles = embed(config, params, jnp.asarray([[1, 2, 3, 4]]), jnp.arange(4)[None])

    def third(stream):
        mask = jnp.tril(jnp.ones((1, 4, 4), bool))
        last, _, _ = run_layers(
            config,
            params,
            stream,
            angles,
            lambda n, c: lambda q, k, v: attend_causal(q, k, v, mask),
        )
        return last[0, 2].sum()

    seen = jnp.abs(jax.grad(third)(x))[0].max(axis=-1) > 0
    assert seen.tolist() == [True, True, True, False]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_a_prompt_read_in_chunks_is_the_same_prompt(family, chunk):
    config = CONFIGS[family]
    params = init_decoder(jax.random.key(0), config)
    rows = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [8], [7, 7, 2, 60, 0]]
    prompt = prompt_of(rows, 10)
    embedded = prompt.mask & (prompt.tokens == 5)
    vectors = jax.random.normal(jax.random.key(1), (*prompt.tokens.shape, config.width))
    prompt = dataclasses.replace(prompt, embeddings=vectors, embedded=embedded)
    taps = (0, 1, config.layers)

    def prefilled(**options):
        model = language_model(config, taps, **options)
        return jax.jit(functools.partial(model.prefill, capacity=Capacity(1, 2, 3)))(params, prompt)

    logits, hidden, cache = prefilled()
    chunked_logits, chunked_hidden, chunked = prefilled(chunk=chunk)
    np.testing.assert_allclose(chunked_logits, logits, atol=1e-5)
    real = np.asarray(prompt.mask)
    np.testing.assert_allclose(chunked_hidden[real], hidden[real], atol=1e-5)
    for found, expected in zip(jax.tree.leaves(chunked), jax.tree.leaves(cache), strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype
    for name in ("prompt_keys", "prompt_values"):
        found, expected = getattr(chunked, name), getattr(cache, name)
        np.testing.assert_allclose(found[:, real], expected[:, real], atol=1e-5)


def test_chunks_save_the_memory_of_squares():
    config = dataclasses.replace(TINY_LLAMA, context=1024)
    shapes = jax.eval_shape(lambda: init_decoder(jax.random.key(0), config))
    prompt = jax.eval_shape(lambda: prompt_of([[1] * 512], 512))

    def temporaries(chunk: int) -> int:
        prefill = functools.partial(
            language_model(config, chunk=chunk).prefill, capacity=Capacity(1, 2, 3)
        )
        return jax.jit(prefill).lower(shapes, prompt).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(32) < temporaries(512) / 3


def test_an_empty_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk is 0"):
        language_model(TINY_LLAMA, chunk=0)


def test_equal_configs_make_equal_models():
    again = dataclasses.replace(TINY_LLAMA)
    assert language_model(TINY_LLAMA, (1,)) == language_model(again, (1,))
    assert hash(language_model(TINY_LLAMA)) == hash(language_model(again))
    assert language_model(TINY_LLAMA, (1,)) != language_model(TINY_LLAMA, (2,))
    with pytest.raises(ValueError, match="tap 4 is not a layer"):
        language_model(TINY_LLAMA, taps=(4,))


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
def test_layers_are_added_up_in_single_precision(kind):
    """Rounded after every layer, a deep network's stream loses 2 % of perplexity."""
    config = dataclasses.replace(TINY_LLAMA, dtype="bfloat16")
    tokens = jnp.zeros((1, 3), jnp.int32)
    with made_for(kind):
        params = jax.eval_shape(lambda: stored(init_decoder(jax.random.key(0), config), "bfloat16"))
        found = jax.eval_shape(functools.partial(read, config), params, tokens, tokens == 0)
    x, last, streams, (keys, _) = found
    assert x.dtype == last.dtype == streams.dtype == jnp.float32
    assert keys.dtype == (jnp.float32 if kind == "cpu" else jnp.bfloat16)
