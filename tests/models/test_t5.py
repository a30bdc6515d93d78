"""The T5 family against transformers, on the same weights and equal ids."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from coopgen_jax.errors import UserError
from coopgen_jax.models import decoder
from coopgen_jax.models.combination import Member, combine_logits
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.networks import init_network, language_model
from coopgen_jax.models.pretrained.combined_model import combined, network_of, params_of
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.prompt import make_prompt
from coopgen_jax.models.relative import bias_around, bias_before, buckets_of
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.models.t5 import encode, read_pair
from tests.compiled import compiled
from tests.models.model_files import edit, tensors
from tests.models.t5_files import KINDS, reference_of, save_t5
from tests.models.trees import D, grown_tree, nodes_of, prompt_of

# The longest is longer than positions reach.
SOURCES = [[5, 9, 33, 1], [*range(30, 60), 1], [7, 1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cache(lambda kind: save_t5(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(scope="module")
def pair(folder):
    """Our network and that of transformers, by kind."""
    return cache(lambda kind: (load(folder(kind)), reference_of(folder(kind))))


def behind(reference, source: list[int], text) -> np.ndarray:
    """Transformers' logits behind a text, read anew."""
    with torch.no_grad():
        begun = torch.tensor([[0, *map(int, text)]])
        return reference(torch.tensor([source]), decoder_input_ids=begun).logits[0, -1].numpy()


@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (8, 20), (10, 64)])
def test_buckets_are_those_of_transformers(buckets, reach):
    theirs = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distance = np.arange(-300, 301)
    for both in (False, True):
        expected = theirs(torch.tensor(distance), both, buckets, reach).numpy()
        own = buckets // 2 if both else buckets
        got = buckets_of(np.maximum(-distance, 0), own, reach)
        if both:
            got = buckets_of(np.abs(distance), own, reach) + own * (distance > 0)
        np.testing.assert_array_equal(got, expected)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(buckets, 2)))
    np.testing.assert_array_equal(
        bias_before(table, jnp.asarray(distance), reach),
        table[buckets_of(np.maximum(distance, 0), buckets, reach)],
    )
    expected = theirs(torch.tensor(distance), True, buckets, reach).numpy()
    np.testing.assert_array_equal(bias_around(table, jnp.asarray(distance), reach), table[expected])


@pytest.mark.parametrize(("kind", "chunk"), [("t5", 256), ("flan", 256), ("flan", 7)])
def test_the_encoder_reads_what_transformers_reads_whatever_the_padding(kind, chunk, pair):
    loaded, reference = pair(kind)
    prompt = prompt_of(SOURCES, 40)
    tokens = jnp.where(prompt.mask, prompt.tokens, 17)
    read = jax.jit(encode, static_argnums=0, static_argnames="chunk")
    got = read(loaded.config, loaded.params, tokens, prompt.mask, chunk=chunk)
    for row, source in enumerate(SOURCES):
        with torch.no_grad():
            expected = reference.get_encoder()(torch.tensor([source])).last_hidden_state[0]
        np.testing.assert_allclose(got[row, 40 - len(source) :], expected, atol=1e-4)


@pytest.mark.parametrize("lay_out", [None, separate_layers], ids=["stacked", "separate"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_is_read_as_each_of_its_paths(kind, lay_out, pair):
    loaded, reference = pair(kind)
    params = lay_out(loaded.params) if lay_out else loaded.params
    model = language_model(loaded.config)
    prefill = jax.jit(model.prefill, static_argnames="capacity")
    logits, hidden, cache = prefill(params, prompt_of(SOURCES, 32), capacity=Capacity(2, 4, 12))
    assert hidden.shape == (3, 32, 0, 32)
    for b, source in enumerate(SOURCES):
        np.testing.assert_allclose(logits[b], behind(reference, source, []), atol=1e-4)
    waves, texts = grown_tree(np.random.default_rng(0), 3, 2, 3, 3)
    extend = jax.jit(model.extend)
    for token, parent, path, depth, slot in waves:
        nodes = nodes_of(token, parent, path, depth, start=slot, committed=0)
        logits, hidden, cache = extend(params, cache, nodes)
        for b, r, w in np.ndindex(3, 2, 3):
            expected = behind(reference, SOURCES[b], texts[b, r][slot + w][0])
            np.testing.assert_allclose(logits[b, r, w], expected, atol=1e-4)
    assert hidden.shape == (3, 2, 3, 0, 32) and extend._cache_size() == 1


def test_moved_and_committed_slots_read_on_as_one_text(pair):
    """24 tokens are committed one by one, then a subtree moves under a new root."""
    loaded, reference = pair("flan")
    model, params = compiled(language_model(loaded.config)), loaded.params
    sources = SOURCES[:2]
    _, _, cache = model.prefill(params, prompt_of(sources, 31), capacity=Capacity(1, 30, 8))
    extend = model.extend
    written = [list(map(int, row)) for row in np.random.default_rng(1).integers(2, 64, (2, 24))]

    def node(tokens, path, *, slot, committed):
        padded = np.full((2, 1, 1, D), -1)
        padded[..., : len(path)] = path
        parent = np.full((2, 1, 1), path[-1] if path else 0)
        depth = np.full((2, 1, 1), len(path) + 1)
        tokens = np.asarray(tokens).reshape(2, 1, 1)
        return nodes_of(tokens, parent, padded, depth, start=slot, committed=committed)

    for step in range(24):
        token = [row[step] for row in written]
        logits, _, cache = extend(params, cache, node(token, [], slot=0, committed=step))
        cache = commit(cache, jnp.full((2, 1), step))
    for b in range(2):
        expected = behind(reference, sources[b], written[b])
        np.testing.assert_allclose(logits[b, 0, 0], expected, atol=1e-4)
    for slot, path in ((1, []), (2, [1]), (3, [1, 2])):
        nodes = node([10 + slot] * 2, path, slot=slot, committed=24)
        _, _, cache = extend(params, cache, nodes)
    cache = commit(
        move(cache, jnp.broadcast_to(jnp.asarray([1, 2, 3]), (2, 1, 3))), jnp.full((2, 1), 24)
    )
    logits, _, _ = extend(params, cache, node([14, 15], [1, 2], slot=5, committed=25))
    for b in range(2):
        expected = behind(reference, sources[b], [*written[b], 11, 12, 13, 14 + b])
        np.testing.assert_allclose(logits[b, 0, 0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_score_is_the_log_probability_of_the_text(kind, pair):
    loaded, reference = pair(kind)
    tokens = np.random.default_rng(2).integers(2, 64, (3, 2, 5))
    mask = np.arange(5) < np.asarray([[5, 2], [3, 0], [1, 4]])[..., None]
    score = jax.jit(language_model(loaded.config).score)
    got = score(loaded.params, prompt_of(SOURCES, 32), jnp.asarray(tokens), jnp.asarray(mask))
    for b, r, s in np.ndindex(3, 2, 5):
        expected = 0.0
        if mask[b, r, s]:
            log_probs = jax.nn.log_softmax(behind(reference, SOURCES[b], tokens[b, r, :s]))
            expected = log_probs[tokens[b, r, s]]
        np.testing.assert_allclose(got[b, r, s], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_read_and_learnt_from_as_transformers_does(kind, pair):
    loaded, reference = pair(kind)
    prompt = prompt_of(SOURCES, 32)
    target = np.random.default_rng(3).integers(2, 64, (3, 6))
    mask = np.arange(6) < np.asarray([6, 3, 1])[:, None]
    labels = torch.tensor(np.where(mask, target, -100))
    asked = torch.tensor(np.asarray(prompt.mask), dtype=torch.long)
    given = {"input_ids": torch.tensor(np.asarray(prompt.tokens)).long(), "attention_mask": asked}
    theirs = reference(**given, labels=labels)

    @jax.jit
    def loss(params):
        logits = read_pair(loaded.config, params, prompt.tokens, prompt.mask, jnp.asarray(target))
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], -1)[..., 0]
        return -jnp.sum(log_p * mask) / mask.sum(), logits

    (value, logits), slope = jax.value_and_grad(loss, has_aux=True)(loaded.params)
    # What pads their labels is another token than what pads ours, and nothing sees it.
    expected = theirs.logits.detach().numpy()
    np.testing.assert_allclose(logits[mask], expected[mask], atol=1e-4)
    np.testing.assert_allclose(value, theirs.loss.item(), rtol=1e-5)
    reference.zero_grad()
    theirs.loss.backward()
    decoder_block = reference.decoder.block[1].layer
    for own, other in (
        (slope["embedding"], reference.shared.weight),
        (slope["encoder"]["layers"]["down"]["kernel"][0],
         reference.encoder.block[0].layer[1].DenseReluDense.wo.weight),
        (slope["layers"]["cross_key"]["kernel"][1], decoder_block[1].EncDecAttention.k.weight),
        (slope["relative"],
         reference.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight),
    ):  # fmt: skip
        assert np.abs(own).max() > 0
        np.testing.assert_allclose(own, other.grad.numpy(), atol=1e-4, rtol=1e-3)
    reference.zero_grad()


def test_a_source_ends_with_its_end_token_and_a_text_stands_by_itself(pair):
    tokenizer = pair("t5")[0].tokenizer
    assert tokenizer.close_tokens == (1,) and tokenizer.begin_tokens == ()
    prompt = make_prompt(tokenizer, ["the cat sat", "a mat</s>"], multiple=1)
    assert prompt.tokens.tolist() == [[4, 6, 7, 1], [0, 5, 10, 1]]
    assert prompt.mask.tolist() == [[True] * 4, [False, True, True, True]]
    assert tokenizer.written([6, 7, 1]) == "cat sat"
    assert tokenizer.continuation([6, 7, 1]) == " cat sat"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_loaded_as_it_was(kind, pair, tmp_path):
    first, reference = pair(kind)
    save_model(tmp_path, first.config, first.params, first.tokenizer, dtype="float32")
    second = load(tmp_path)
    assert second.config == first.config and second.tokenizer == first.tokenizer
    assert second.tokenizer.close_tokens == (1,)
    jax.tree.map(np.testing.assert_array_equal, second.params, first.params)
    again = reference_of(tmp_path)
    for source in SOURCES:
        expected = behind(reference, source, [5, 6])
        np.testing.assert_allclose(behind(again, source, [5, 6]), expected, atol=1e-5)


def test_parameters_lie_as_they_are_initialised(pair):
    for kind in KINDS:
        loaded, _ = pair(kind)
        made = jax.jit(init_network, static_argnums=1)(jax.random.key(0), loaded.config)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (made, loaded.params)]
        assert shapes[0] == shapes[1]
        assert loaded.config.scaled == loaded.config.tied == (kind == "t5")
        source = jnp.asarray(SOURCES[1:2])
        read = jax.jit(partial(read_pair, loaded.config))
        logits = read(made, source, source > 0, jnp.asarray([[3, 4]]))
        assert 0.1 < jnp.std(logits) < 10


def test_mt5_is_t5_with_an_output_layer_of_its_own(tmp_path):
    folder = save_t5(tmp_path, "flan", family="mt5")
    loaded, reference = load(folder), reference_of(folder)
    assert not loaded.config.scaled and not loaded.config.tied
    logits = jax.jit(read_pair, static_argnums=0)(
        loaded.config, loaded.params, jnp.asarray([SOURCES[0]]), jnp.ones((1, 4), bool),
        jnp.asarray([[8, 3]]),
    )  # fmt: skip
    np.testing.assert_allclose(logits[0, 1], behind(reference, SOURCES[0], [8]), atol=1e-4)


def test_bfloat16_is_near_single_precision(folder, pair):
    half = load(folder("flan"), dtype="bfloat16", stacked=True)
    assert half.params["layers"]["query"]["kernel"].dtype == jnp.bfloat16
    assert half.params["encoder"]["layers"]["ffn_norm"]["scale"].dtype == jnp.float32
    model = language_model(half.config)
    prefill = jax.jit(partial(model.prefill, capacity=Capacity(1, 2, 2)))
    logits, _, cache = prefill(half.params, prompt_of(SOURCES[:1], 4))
    # A processor keeps what lies between two products in float32.
    assert cache.source[0].dtype == cache.text.keys.nodes.dtype == jnp.float32
    expected = behind(pair("flan")[1], SOURCES[0], [])
    assert np.corrcoef(logits[0], expected)[0, 1] > 0.99
    laid = load(folder("flan"), dtype="bfloat16").params
    assert laid["encoder"]["layers"]["query"]["kernel"].dtype == jnp.uint16
    np.testing.assert_array_equal(prefill(laid, prompt_of(SOURCES[:1], 4))[0], logits)


def test_a_negative_prompt_is_a_source_of_its_own(pair):
    loaded, reference = pair("t5")
    made = combined(loaded, negative_prompt="the mat", guidance=1.5)
    logits, _, _ = compiled(network_of(made)).prefill(
        params_of(made), prompt_of(SOURCES[:1], 4), capacity=Capacity(1, 1, 1)
    )
    base, negative = (behind(reference, source, []) for source in (SOURCES[0], [4, 10, 1]))
    np.testing.assert_allclose(logits[0], negative + 1.5 * (base - negative), atol=1e-4)


def test_vectors_stand_in_for_tokens(pair):
    loaded, _ = pair("t5")
    model, params = language_model(loaded.config), loaded.params
    plain = prompt_of(SOURCES[:1], 5)
    vectors = params["embedding"][plain.tokens]
    at = jnp.asarray([[False, True, False, True, False]])
    instead = dataclasses.replace(
        plain, tokens=jnp.where(at, 2, plain.tokens), embeddings=vectors, embedded=at
    )
    prefill = jax.jit(partial(model.prefill, capacity=Capacity(1, 1, 2)))
    expected, _, cache = prefill(params, plain)
    np.testing.assert_allclose(prefill(params, instead)[0], expected, atol=1e-6)
    one, path = np.ones((1, 1, 1)), np.full((1, 1, 1, D), -1)
    node = nodes_of(one * 6, one * 0, path, one, start=1, committed=0)
    vector = model.embeddings(params)[6][None, None, None]
    by_vector = dataclasses.replace(node, token=node.token * 0, embedding=vector)
    extend = jax.jit(model.extend)
    np.testing.assert_allclose(
        extend(params, cache, by_vector)[0], extend(params, cache, node)[0], atol=1e-6
    )


def test_chunks_save_the_memory_of_squares(pair):
    loaded, _ = pair("t5")
    prompt = prompt_of([[5] * 512], 512)

    def temporaries(chunk: int) -> int:
        model = language_model(loaded.config, chunk=chunk)
        prefill = jax.jit(partial(model.prefill, capacity=Capacity(1, 1, 1)))
        return prefill.lower(loaded.params, prompt).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(32) < temporaries(512) / 3
    with pytest.raises(ValueError, match="chunk is 0"):
        language_model(loaded.config, chunk=0)


def test_low_rank_additions_are_those_of_the_decoder(pair):
    loaded, _ = pair("t5")
    targets = ("query", "cross_value", "down")
    lora = LoraConfig(rank=2, targets=targets)
    additions = init_lora(jax.random.key(0), loaded.params, lora)
    assert set(additions) == set(targets)
    source, target = jnp.asarray([SOURCES[0]]), jnp.asarray([[3, 4]])
    read = jax.jit(partial(read_pair, loaded.config))

    def logits(params):
        return read(params, source, source > 0, target)

    added = add_lora(loaded.params, additions, lora)
    np.testing.assert_allclose(logits(added), logits(loaded.params), atol=1e-5)
    for name in targets:
        additions[name]["lora_up"] += 0.1
    added = add_lora(loaded.params, additions, lora)
    assert np.abs(logits(added) - logits(loaded.params)).max() > 0.1
    np.testing.assert_allclose(logits(merge_lora(added)), logits(added), atol=1e-4)


def test_equal_configs_make_equal_models(pair):
    config = pair("t5")[0].config
    assert language_model(config) == language_model(dataclasses.replace(config))
    assert hash(language_model(config)) == hash(language_model(dataclasses.replace(config)))
    assert language_model(config) != language_model(dataclasses.replace(config, reach=30))


def test_what_an_encoder_decoder_cannot_do_is_told(pair):
    loaded, _ = pair("t5")
    with pytest.raises(UserError, match="no states that a head could read"):
        network_of(loaded, (1,))
    model = language_model(loaded.config)
    other = dataclasses.replace(model, encodes_prompt=False)
    with pytest.raises(UserError, match="combine models of one kind"):
        combine_logits([Member(model), Member(other, 1)])
    prompt = prompt_of(SOURCES, 32)
    with pytest.raises(UserError, match="is an encoder-decoder"):
        decoder.language_model(loaded.config).prefill(
            loaded.params, prompt, capacity=Capacity(1, 1, 1)
        )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj = 'gated-tanh'.*gated-gelu"),
        ({"d_kv": "DROP"}, "does not say d_kv"),
        ({"d_model": 16}, "belong to different models"),
        ({"model_type": "umt5"}, "umt5.*mt5, t5"),
        ({"relative_attention_max_distance": 3}, "positions reach 3 tokens"),
        ({"relative_attention_num_buckets": 2}, "buckets is 2"),
    ],
)
def test_wrong_folders_get_one_sentence(wrong, sentence, tmp_path):
    edit(save_t5(tmp_path), **wrong)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path)


def test_a_file_may_call_its_embedding_otherwise(tmp_path, pair):
    save_t5(tmp_path)
    found = tensors(tmp_path)
    found["decoder.embed_tokens.weight"] = found.pop("shared.weight")
    safetensors.numpy.save_file(found, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        load(tmp_path).params["embedding"], pair("t5")[0].params["embedding"]
    )
