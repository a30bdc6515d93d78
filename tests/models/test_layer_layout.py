"""Stacked and separate layers: the same numbers, the same network, no copies of the latter."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models import layer_layout as layout
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.layer_layout import (
    for_this_device,
    for_training,
    relaid,
    rounded_matrices,
    separate_layers,
    stack_layers,
    stacked_numbers,
    stored,
)
from coopgen_jax.models.lora import LoraConfig, init_lora
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.saving import hugging_face, save_model
from coopgen_jax.models.product import rows_times
from coopgen_jax.models.reading import read
from coopgen_jax.models.sharding import decoder_specs
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import TENSOR, P
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.full_network import check_network, single_precision
from coopgen_jax.training.run import RecipeConfig
from tests.models.gguf_files import gguf_tensors, write_gguf
from tests.models.model_files import hf_model, save

PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)


def test_separate_layers_hold_what_the_stack_holds():
    separate = separate_layers(PARAMS)
    layers = separate["layers"]
    assert isinstance(layers, tuple) and len(layers) == TINY_LLAMA.layers
    for number, layer in enumerate(layers):
        expected = jax.tree.map(lambda leaf, at=number: leaf[at], PARAMS["layers"])
        jax.tree.map(np.testing.assert_array_equal, layer, expected)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(separate), PARAMS)
    assert stack_layers(PARAMS) is PARAMS
    assert separate_layers(separate) is separate
    assert separate["embedding"] is PARAMS["embedding"]


def test_all_networks_of_a_state_are_relaid_and_nothing_else():
    separate, other = separate_layers(PARAMS), {"kernel": jnp.arange(3.0)}
    state = ({"judge": {"network": PARAMS, "head": other}}, optax.adam(1e-3).init(PARAMS))
    found = relaid(state)
    assert jax.tree.structure(found[0]["judge"]["network"]) == jax.tree.structure(separate)
    assert jax.tree.structure(found[1][0].nu) == jax.tree.structure(separate)
    assert found[0]["judge"]["head"]["kernel"] is other["kernel"]
    jax.tree.map(np.testing.assert_array_equal, relaid(found), state)


def test_a_processor_learns_layers_one_by_one():
    assert isinstance(for_training(PARAMS)["layers"], tuple)
    with made_for("tpu"):
        assert for_training(PARAMS) is PARAMS


def test_files_are_read_as_bits_and_cannot_be_trained_or_saved_so(tmp_path: Path):
    path = save(hf_model("llama"), tmp_path / "folder")
    model, plain = load(path, dtype="bfloat16"), load(path, dtype="bfloat16", stacked=True)
    assert model.params["layers"]["up"]["kernel"].dtype == jnp.uint16
    jax.tree.map(np.testing.assert_array_equal, stack_layers(model.params), plain.params)
    with pytest.raises(UserError, match="load the language model with stacked=True"):
        init_lora(jax.random.key(0), model.params, LoraConfig())
    with pytest.raises(UserError, match="load the model with stacked=True"):
        save_model(tmp_path / "again", model.config, model.params, model.tokenizer, dtype="float32")
    with pytest.raises(UserError, match="load the model with stacked=True"):
        check_network(model, RecipeConfig(LoopConfig(1), BatchConfig(longest=4)), 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gguf", [False, True], ids=["folder", "gguf"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_files_are_read_into_either(family: str, gguf: bool, dtype: str, tmp_path: Path):
    model = hf_model(family)
    path = save(model, tmp_path / "folder")
    if gguf:
        path = write_gguf(tmp_path / "m.gguf", family, gguf_tensors(family, model))
    separate = load(path, dtype=dtype, stacked=False)
    expected = separate_layers(load(path, dtype=dtype, stacked=True).params)
    jax.tree.map(np.testing.assert_array_equal, separate.params, expected)
    assert isinstance(load(path).params["layers"], dict)


def test_layers_are_separated_where_a_matrix_leaves_the_caches(monkeypatch):
    params = PARAMS
    largest = max(
        leaf[0].nbytes for part in params["layers"].values() for leaf in jax.tree.leaves(part)
    )
    monkeypatch.setattr(layout, "CACHED", largest)
    assert for_this_device(params) is params
    monkeypatch.setattr(layout, "CACHED", largest - 1)
    assert isinstance(for_this_device(params)["layers"], tuple)
    half = stored(params, "bfloat16")
    monkeypatch.setattr(layout, "CACHED_BITS", largest // 2)
    assert isinstance(for_this_device(half)["layers"], dict)
    monkeypatch.setattr(layout, "CACHED", largest // 2 - 1)
    assert isinstance(for_this_device(for_this_device(half))["layers"], dict)
    monkeypatch.setattr(layout, "CACHED_BITS", largest // 2 - 1)
    assert isinstance(for_this_device(half)["layers"], tuple)
    for dtype in ("float32", "bfloat16"):
        params = stored(PARAMS, dtype)
        with made_for("tpu"):
            assert for_this_device(params) is params
        with made_for("gpu"):
            assert isinstance(for_this_device(params)["layers"], tuple)


def test_a_processor_has_a_stack_of_bits_and_a_network_reads_its_numbers():
    config = replace(TINY_LLAMA, dtype="bfloat16")
    assert for_this_device(PARAMS) is PARAMS and stacked_numbers(PARAMS)
    plain = stored(PARAMS, "bfloat16")
    laid = for_this_device(plain)
    layers = laid["layers"]
    assert layers["up"]["kernel"].dtype == jnp.uint16 and not stacked_numbers(laid)
    assert layers["ffn_norm"]["scale"].dtype == jnp.float32
    tokens = jnp.arange(6)[None]
    expected, found = (read(config, params, tokens, tokens >= 0)[1] for params in (plain, laid))
    np.testing.assert_array_equal(found, expected)
    for back in (stack_layers(laid), separate_layers(laid), for_training(laid)):
        assert stacked_numbers(stack_layers(back))
        jax.tree.map(np.testing.assert_array_equal, stack_layers(back), plain)
    with made_for("tpu"):
        assert for_this_device(plain) is plain
        jax.tree.map(np.testing.assert_array_equal, for_training(laid), plain)


def test_bits_are_read_again_for_a_gradient_and_not_kept():
    config = replace(TINY_LLAMA, dtype="bfloat16", layers=12, width=64, ffn_width=128)
    plain = stored(init_decoder(jax.random.key(0), config), "bfloat16")
    laid = for_this_device(plain)
    tokens = jnp.arange(4)[None]

    def slope(params: Any, vectors: jax.Array) -> jax.Array:
        shown = tokens >= 0
        return jax.grad(lambda v: read(config, params, tokens, shown, v, shown)[1].sum())(vectors)

    vectors = jax.random.normal(jax.random.key(1), (1, 4, config.width))
    programs = {
        name: jax.jit(slope).lower(params, vectors).compile()
        for name, params in (("bits", laid), ("numbers", plain))
    }
    found, expected = programs["bits"](laid, vectors), programs["numbers"](plain, vectors)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(laid["layers"]))
    assert programs["bits"].memory_analysis().temp_size_in_bytes < weights


def test_what_casts_parameters_reads_bits_as_numbers():
    plain = stored(PARAMS, "bfloat16")
    laid = for_this_device(plain)
    same = partial(jax.tree.map, np.testing.assert_array_equal)
    same(stored(laid, "float32"), stored(plain, "float32"))
    same(single_precision(laid), single_precision(plain))
    same(rounded_matrices(laid, "bfloat16")["layers"]["up"], plain["layers"]["up"])
    same(hugging_face(TINY_LLAMA, laid)[1], hugging_face(TINY_LLAMA, plain)[1])
    same(for_this_device(laid), laid)


def test_an_encoder_that_belongs_to_a_decoder_lies_as_bits_too():
    params = {**PARAMS, "encoder": {"layers": PARAMS["layers"], "final_norm": PARAMS["final_norm"]}}
    plain = stored(params, "bfloat16")
    laid = for_this_device(plain)
    assert laid["encoder"]["layers"]["up"]["kernel"].dtype == jnp.uint16
    jax.tree.map(np.testing.assert_array_equal, stack_layers(laid), plain)
    jax.tree.map(np.testing.assert_array_equal, separate_layers(laid), separate_layers(plain))


def test_a_product_refuses_bits():
    """Read as whole numbers they would be weights of some ten thousands."""
    laid = for_this_device(stored(PARAMS, "bfloat16"))["layers"]["up"]["kernel"][0]
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(TypeError, match="read them with numbers"):
            rows_times(jnp.ones((2, laid.shape[1])), laid, dtype)


def test_a_processor_converts_no_stack_of_bits_and_no_table():
    """XLA converts all of a bfloat16 array that it slices: of bits it copies the slice alone.

    A table it converts in front of a loop, unless a barrier ties it to what the loop reads.
    """
    config = replace(TINY_LLAMA, dtype="bfloat16")
    plain = stored(PARAMS, "bfloat16")
    tokens = jnp.arange(3)[None]
    program = jax.jit(lambda params: read(config, params, tokens, tokens >= 0)[1])
    stack = ",".join(map(str, plain["layers"]["up"]["kernel"].shape))
    found = {}
    for name, params in (("numbers", plain), ("bits", for_this_device(plain))):
        lowered = program.lower(params)
        found[name] = len(re.findall(rf"f32\[{stack}\]", lowered.compile().as_text()))
        table = rf"optimization_barrier %\w+, %\w+ : tensor<{PARAMS['embedding'].shape[0]}x"
        assert re.search(table, lowered.as_text())
    assert found["numbers"] and not found["bits"], found


def test_separate_layers_are_split_as_stacked_ones_are():
    specs = decoder_specs(TINY_LLAMA, PARAMS, 2)["layers"]
    for part, expected in (("up", P(TENSOR)), ("down", P(None, TENSOR))):
        assert specs[part]["kernel"] == P(None, *expected)
        for layer in decoder_specs(TINY_LLAMA, separate_layers(PARAMS), 2)["layers"]:
            assert layer[part]["kernel"] == expected
            assert layer["ffn_norm"]["scale"] == P()


@pytest.mark.parametrize("separate", [False, True])
def test_only_a_stack_is_copied(separate):
    """The layout exists because XLA copies the slices of a scan; here the copies are counted."""
    params = separate_layers(PARAMS) if separate else PARAMS
    tokens = jnp.zeros((1, 3), jnp.int32)
    prompt = Prompt(tokens=tokens, mask=tokens == 0, index=tokens[:, 0])
    program = jax.jit(lambda params: read(TINY_LLAMA, params, prompt.tokens, prompt.mask)[1])
    text = program.lower(params).compile().as_text()
    shape = ",".join(map(str, PARAMS["layers"]["up"]["kernel"].shape[1:]))
    slices = re.findall(rf"f32\[(?:1,)?{shape}\]\S* (?:dynamic-)?slice\(", text)
    assert bool(slices) == (not separate), slices
