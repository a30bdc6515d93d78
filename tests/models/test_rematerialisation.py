"""What training computes again changes no gradient, and nothing outside of training."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.models.encoder import EncoderConfig, encode, init_encoder
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.reading import read
from coopgen_jax.models.rematerialisation import rematerialised
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.step import begin, gradient, make_step, make_validation

TOKENS = jax.random.randint(jax.random.key(1), (2, 7), 0, 60)
BATCH = {"tokens": TOKENS, "mask": jnp.arange(7)[None] < jnp.asarray([[7], [4]])}
KEY = jax.random.key(0)
ENCODER = EncoderConfig(vocab_size=60, layers=2, width=16, heads=2, ffn_width=24, context=8)


def primitives(function, *given) -> Counter:
    """Counts the primitives of a program, those of its loops' bodies once."""
    found: Counter = Counter()

    def walk(jaxpr) -> None:
        for equation in jaxpr.eqns:
            found[equation.primitive.name] += 1
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(jax.make_jaxpr(function)(*given).jaxpr)
    return found


def again(found: Counter) -> bool:
    """Tells whether a program has results to compute again."""
    return bool(found["remat2"] or found["checkpoint"])


def of_decoder(config, remat, params):
    loss = language_model_loss(config)
    return gradient(loss, params, None, BATCH, KEY, micro_batches=1, remat=remat)[0]


def of_encoder(remat, params):
    def loss(params):
        with rematerialised(remat):
            return jnp.sum(jnp.sin(encode(ENCODER, params, TOKENS, BATCH["mask"])))

    return jax.grad(loss)(params)


CASES = {
    "stacked": (TINY_LLAMA, lambda params: params),
    "separate": (TINY_GPT2, separate_layers),
}


@pytest.mark.parametrize("case", [*CASES, "encoder"])
def test_gradients_are_those_of_kept_results(case):
    if case == "encoder":
        params, of = init_encoder(KEY, ENCODER), of_encoder
    else:
        config, laid = CASES[case]
        params = laid(init_decoder(KEY, config))

        def of(remat, params):
            return of_decoder(config, remat, params)

    kept = jax.jit(lambda params: of("none", params))(params)
    counts = [primitives(lambda params: of("none", params), params)]
    for remat in ("dots", "all"):
        found = jax.jit(lambda params, remat=remat: of(remat, params))(params)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(kept), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * (1 + np.abs(other).max()))
        counts.append(primitives(lambda params, remat=remat: of(remat, params), params))
    # Attention's products are computed again for "dots", and so are all of a layer's for "all".
    none, dots, everything = (found["dot_general"] for found in counts)
    assert none < dots < everything
    assert [again(found) for found in counts] == [False, True, True]


def test_it_is_for_training_and_by_default_for_accelerators():
    params, optimiser, mesh = init_decoder(KEY, TINY_LLAMA), optax.adam(1e-3), make_mesh(1)
    loss = language_model_loss(TINY_LLAMA)

    def products(remat=None) -> int:
        step = make_step(loss, optimiser, mesh=mesh, remat=remat)
        return primitives(step, begin(params, optimiser), None, BATCH, KEY)["dot_general"]

    kept, dots = products("none"), products("dots")
    assert kept == products() < dots
    with made_for("tpu"):
        assert products("none") == kept and products() == dots
        validation = make_validation(loss, mesh=mesh)
        for function, given in (
            (validation, (params, None, BATCH, KEY)),
            (lambda params, batch: read(TINY_LLAMA, params, **batch)[1], (params, BATCH)),
        ):
            assert not again(primitives(function, *given))
    with pytest.raises(UserError, match="no rematerialisation 'some': choose one of none, dots"):
        make_step(loss, optimiser, mesh=mesh, remat="some")  # type: ignore[arg-type]
