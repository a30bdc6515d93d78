"""Log-likelihoods by chunks of the vocabulary are those of the full logits, gradients included."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training import losses
from coopgen_jax.training.chunked_likelihood import log_likelihoods_of_states
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from coopgen_jax.training.objectives import language_model_loss

VOCABULARY, WIDTH = 29, 8
OUTPUT = jax.random.normal(jax.random.key(1), (VOCABULARY, WIDTH))


def plain(states, output, tokens, mask):
    logits = jnp.einsum("bse,ve->bsv", states, output)
    return jax.vmap(losses.log_likelihoods)(logits, tokens, mask)


def case(rows: int, length: int) -> tuple:
    keys = jax.random.split(jax.random.key(rows + 10 * length), 3)
    states = 3 * jax.random.normal(keys[0], (rows, length, WIDTH))
    tokens = jax.random.randint(keys[1], (rows, length), 0, VOCABULARY)
    mask = jax.random.bernoulli(keys[2], 0.7, (rows, length))
    # A row of padding alone.
    return states, tokens, mask.at[1:2].set(False)


# Of chunks of one token one shape is enough.
SHAPES = [(3, 5), (1, 2), (2, 1), (0, 4)]
CASES = [((3, 5), 1), *product(SHAPES, [7, 8, VOCABULARY, 100])]


@pytest.mark.parametrize(("shape", "chunk"), CASES)
def test_chunks_change_neither_likelihood_nor_gradient(shape, chunk):
    states, tokens, mask = case(*shape)

    def weighed(function):
        def total(states, output):
            found = function(states, output, tokens, mask)
            # Tokens weigh differently, as those of sampled texts do.
            return jnp.sum(found * (1 + jnp.arange(shape[0])[:, None])), found

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(states, OUTPUT)

    def chunked(*given):
        return log_likelihoods_of_states(*given, chunk=chunk)

    for one, other in zip(
        jax.tree.leaves(weighed(chunked)), jax.tree.leaves(weighed(plain)), strict=True
    ):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def sizes(jaxpr) -> list[int]:
    """Returns the sizes of all arrays that a program makes."""
    found = []
    for equation in jaxpr.eqns:
        found += [variable.aval.size for variable in equation.outvars]
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            found += sizes(inner) if hasattr(inner, "eqns") else []
    return found


def test_no_array_is_as_large_as_the_logits():
    states, tokens, mask = case(16, 5)

    def total(states, output, chunk):
        return log_likelihoods_of_states(states, output, tokens, mask, chunk=chunk).sum()

    largest = {
        chunk: max(sizes(jax.make_jaxpr(jax.grad(total), static_argnums=2)(states, OUTPUT, chunk)))
        for chunk in (8, VOCABULARY)
    }
    assert largest[VOCABULARY] == 16 * 5 * VOCABULARY
    assert largest[8] == 16 * 5 * 8


def test_losses_of_likelihoods_alone_take_chunks():
    params, rows = init_decoder(jax.random.key(0), TINY_LLAMA), jnp.ones((2, 3), jnp.int32)
    batch = {"tokens": rows, "mask": rows > 0, "written": rows > 0, "weight": jnp.ones(2)}

    def program(loss) -> str:
        return str(jax.make_jaxpr(loss)(params, params, batch, jax.random.key(0)))

    given = {"reference": lambda frozen: frozen}
    for loss in (language_model_loss(TINY_LLAMA), weighted_likelihood_loss(TINY_LLAMA, **given)):
        assert "custom_vjp_call" in program(loss)
    assert "custom_vjp_call" not in program(weighted_likelihood_loss(TINY_LLAMA, kl=0.1, **given))
