"""LoRA beside the kernels equals LoRA inside them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA

TOKENS = jax.random.randint(jax.random.key(5), (2, 7), 0, 61)


@functools.partial(jax.jit, static_argnums=0)
def stream(config, params):
    return read(config, params, TOKENS, jnp.ones(TOKENS.shape, bool))[1]


def drawn(additions):
    """The same additions with an `up` that is not zero."""
    return jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), additions
    )


@pytest.mark.parametrize("config", [TINY_LLAMA, TINY_GPT2], ids=["llama", "gpt2"])
def test_merged_equals_unmerged_and_the_product_by_hand(config):
    params = init_decoder(jax.random.key(0), config)
    lora = LoraConfig(rank=2, alpha=6)
    additions = init_lora(jax.random.key(1), params, lora)
    assert ("gate" in additions) == config.gated
    np.testing.assert_array_equal(
        stream(config, add_lora(params, additions, lora)), stream(config, params)
    )
    additions = drawn(additions)
    beside = add_lora(params, additions, lora)
    inside = merge_lora(beside)
    assert jax.tree.structure(inside) == jax.tree.structure(params)
    np.testing.assert_allclose(stream(config, beside), stream(config, inside), atol=2e-5)
    assert np.abs(stream(config, beside) - stream(config, params)).max() > 0.01
    apart = add_lora(separate_layers(params), additions, lora)
    assert jax.tree.structure(apart) == jax.tree.structure(separate_layers(beside))
    np.testing.assert_allclose(stream(config, apart), stream(config, beside), atol=2e-5)
    query = additions["query"]
    product = np.einsum("lor,lri->loi", query["lora_up"], query["lora_down"])
    expected = params["layers"]["query"]["kernel"] + 3 * product
    np.testing.assert_allclose(inside["layers"]["query"]["kernel"], expected, atol=1e-6)


def test_only_the_targets_are_added_to():
    params = init_decoder(jax.random.key(0), TINY_LLAMA)
    lora = LoraConfig(targets=("value", "nothing"))
    additions = init_lora(jax.random.key(1), params, lora)
    assert list(additions) == ["value"]
    merged = merge_lora(add_lora(params, drawn(additions), lora))
    changed = {
        name
        for name, leaves in merged["layers"].items()
        if not np.array_equal(leaves.get("kernel", 0), params["layers"][name].get("kernel", 0))
    }
    assert changed == {"value"}


def test_mistakes_are_told():
    params = init_decoder(jax.random.key(0), TINY_LLAMA)
    with pytest.raises(UserError, match="rank of LoRA is 0"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match=r"none of the layers nothing: choose among .*query"):
        init_lora(jax.random.key(1), params, LoraConfig(targets=("nothing",)))
    with pytest.raises(UserError, match="wants layers in one stack of numbers"):
        init_lora(jax.random.key(1), separate_layers(params), LoraConfig())
