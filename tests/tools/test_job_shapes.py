"""A job of shapes has the layout of the device that it is made for, and no arrays."""

from dataclasses import replace

import jax
import pytest

from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.models.published_shapes import SHAPES
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_GPT2
from coopgen_jax.tools.job_shapes import job_of_shapes

SMALL = MCTSConfig(
    new_tokens=3, search=SearchConfig(simulations=4, wave=2, candidates=4, depth=3, reused_nodes=2)
)


def test_weights_lie_as_on_the_device_that_a_job_is_made_for():
    """Llama's largest matrix is beyond a processor's caches: it gets separate layers."""
    config = replace(SHAPES["llama-1b"], dtype="bfloat16")
    for kind, separate in (("tpu", False), ("cpu", True)):
        with made_for(kind):
            job = job_of_shapes(config, SMALL, batch=2, prompt_length=5)
        assert isinstance(job.params["layers"], tuple) is separate
        leaves = jax.tree.leaves(job)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert job.params["embedding"].dtype == "bfloat16"
    assert job.prompt.tokens.shape == (2, 5)


@pytest.mark.parametrize("guide", ["trunk", "causal"])
@pytest.mark.parametrize(
    ("decoder", "config"), [(MCTS, SMALL), (SAMPLING, SamplingConfig(new_tokens=3))]
)
def test_any_decoder_is_traced_from_shapes(decoder, config, guide):
    job = job_of_shapes(TINY_GPT2, config, batch=2, prompt_length=5, guide=guide)
    state = jax.eval_shape(decoder.begin, job)
    key = jax.eval_shape(lambda: jax.random.key(0))
    after, _ = jax.eval_shape(decoder.advance, key, job, state)
    assert after.generation.tokens.shape == (2, 1, 3)


def test_the_parts_of_a_search_keep_their_names_in_a_traced_program():
    """`benchmarks/compiled_programs.py` and profiles know the parts by them."""
    job = job_of_shapes(TINY_GPT2, SMALL, batch=1, prompt_length=4)
    state = jax.eval_shape(MCTS.begin, job)
    key = jax.eval_shape(lambda: jax.random.key(0))
    text = jax.jit(MCTS.advance).lower(key, job, state).as_text(debug_info=True)
    for name in (
        "waves/while/body/select",
        "waves/while/body/expand/network/layers/while",
        "waves/while/body/expand/discriminator",
        "waves/while/body/backup",
        "vmap(lanes))/while",
        "walk/while",
    ):
        assert name in text, name
