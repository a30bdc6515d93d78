"""Products of rounded operands, summed in float32, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from coopgen_jax.models.product import FEWEST_ROWS, product, rows_times
from coopgen_jax.parallel.platform import made_for

EQUATIONS = {
    "ni,oi->no": ((5, 8), (3, 8)),
    "bsghe,btge->bghst": ((2, 3, 2, 3, 4), (2, 5, 2, 4)),
    "bghst,btge->bsghe": ((2, 2, 3, 3, 5), (2, 5, 2, 4)),
    "brwghe,bpge->brwghp": ((2, 2, 3, 2, 2, 4), (2, 5, 2, 4)),
    "brwghd,brwdge->brwghe": ((2, 1, 3, 2, 2, 5), (2, 1, 3, 5, 2, 4)),
    "brwghe,brwge->brwgh": ((2, 1, 3, 2, 2, 4), (2, 1, 3, 2, 4)),
}


def operands(equation: str) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = EQUATIONS[equation]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def rounded(x: jax.Array) -> np.ndarray:
    return np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32), np.float64)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_operands_are_rounded_and_sums_are_not(equation: str):
    one, other = operands(equation)
    found = product(equation, one, other, "bfloat16")
    assert found.dtype == jnp.float32
    expected = np.einsum(equation, rounded(one), rounded(other))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    plain = product(equation, one, other, "float32")
    np.testing.assert_array_equal(plain, jnp.einsum(equation, one, other))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_gradients_are_products_of_the_same_kind(equation: str):
    one, other = operands(equation)
    found, back = jax.vjp(lambda a, b: product(equation, a, b, "bfloat16"), one, other)
    change = jax.random.normal(jax.random.key(1), found.shape)
    terms, result = equation.split("->")
    left, right = terms.split(",")
    to_one, to_other = back(change)
    expected = np.einsum(f"{result},{right}->{left}", rounded(change), rounded(other))
    np.testing.assert_allclose(to_one, expected, rtol=1e-5, atol=1e-5)
    expected = np.einsum(f"{result},{left}->{right}", rounded(change), rounded(one))
    np.testing.assert_allclose(to_other, expected, rtol=1e-5, atol=1e-5)
    assert to_one.dtype == to_other.dtype == jnp.float32
    kept = jax.vjp(lambda b: product(equation, one, b, "bfloat16"), other.astype(jnp.bfloat16))[1]
    assert kept(change)[0].dtype == jnp.bfloat16


def dots(function, *args) -> list:
    """Returns the products of a function, those of its gradients' functions included."""
    found = []

    def look(jaxpr) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation)
            for inner in jaxprs_in_params(equation.params):
                look(inner)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def test_no_product_of_a_gradient_is_in_float32_and_none_has_a_rounded_result():
    rows, kernel = jnp.ones((8, 4)), jnp.ones((6, 4))

    def loss(rows: jax.Array, kernel: jax.Array) -> jax.Array:
        return (rows_times(rows, kernel, "bfloat16") ** 2).sum()

    found = dots(jax.grad(loss, argnums=(0, 1)), rows, kernel)
    assert len(found) == 3
    for equation in found:
        assert [var.aval.dtype for var in equation.invars] == [jnp.bfloat16, jnp.bfloat16]
        assert equation.outvars[0].aval.dtype == jnp.float32


@pytest.mark.parametrize("count", [0, 1, 2, FEWEST_ROWS, 7])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_few_rows_are_padded_on_a_processor_alone(count: int, dtype: str):
    rows, kernel = jnp.arange(count * 3.0).reshape(count, 3), jnp.ones((5, 3))
    found = rows_times(rows, kernel, dtype)
    np.testing.assert_array_equal(found, np.asarray(rows) @ np.ones((3, 5)))

    def read() -> int:
        # A function of its own, for one that has been traced is not traced again.
        (call,) = dots(lambda rows, kernel: rows_times(rows, kernel, dtype), rows, kernel)
        return call.invars[0].aval.shape[0]

    assert read() == (max(count, FEWEST_ROWS) if dtype == "bfloat16" else count)
    with made_for("tpu"):
        assert read() == count
