"""What a token's search is compiled to: no way back to the host, one dispatch."""

import jax
import jax.numpy as jnp
import pytest

from coopgen_jax import text_generation as shell
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig, Rollout
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_LLAMA
from tests.tiny_model import guide, model

CONFIG = MCTSConfig(
    new_tokens=4,
    search=SearchConfig(simulations=4, wave=2, candidates=4, depth=4, reused_nodes=4),
    rollout=Rollout(rollout=2),
)
CLASSES = ("bad", "good")


def primitives(jaxpr) -> set[str]:
    """Returns the names of all primitives of a jaxpr, those of its inner ones too."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= primitives(inner)
    return found


def job_of(kind: str) -> Job:
    key = jax.random.key(0)
    if kind == "causal":
        judge = CausalConfig(TINY_LLAMA, HeadConfig(CLASSES, TINY_LLAMA.width))
        discriminator, params = causal(judge), init_causal(key, judge)
    else:
        head = HeadConfig(CLASSES, 2 * TINY_LLAMA.width)
        discriminator = shared_trunk(SharedTrunkConfig((3,), False, head))
        params = Head(head).init(key, jnp.zeros((1, head.inputs)))["params"]
    return Job(
        prompt=Prompt(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool), jnp.arange(2)),
        params=init_decoder(key, TINY_LLAMA),
        discriminator_params=params,
        target=jnp.zeros(2, jnp.int32),
        language_model=language_model(TINY_LLAMA, discriminator.taps),
        discriminator=discriminator,
        config=CONFIG,
    )


@pytest.mark.parametrize("kind", ["trunk", "causal"])
def test_a_tokens_search_never_leaves_the_device(kind):
    job = job_of(kind)
    state = jax.eval_shape(decoder.begin, job)
    found = primitives(jax.make_jaxpr(decoder.advance)(jax.random.key(0), job, state).jaxpr)
    # The walk goes down into loops, scans and branches, or it would see next to nothing.
    assert {"while", "scan", "top_k", "dot_general", "random_fold_in"} <= found
    assert not [name for name in found if "callback" in name or "feed" in name]


def test_the_walk_over_a_jaxpr_would_find_a_callback():
    def called(x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), jnp.float32), x)

    def looped(x):
        return jax.lax.while_loop(lambda x: x < 3, lambda x: called(x) + 1, x)

    assert "pure_callback" in primitives(jax.make_jaxpr(looped)(0.0).jaxpr)


@pytest.mark.parametrize("config", [CONFIG, SamplingConfig(new_tokens=4)])
def test_a_token_is_one_dispatch(config, monkeypatch):
    calls = {"begin": 0, "advance": 0}

    def spied(name: str, compiled):
        def call(*args, **static):
            calls[name] += 1
            return compiled(*args, **static)

        return call

    monkeypatch.setattr(shell, "_begin", spied("begin", shell._begin))
    monkeypatch.setattr(shell, "_advance", spied("advance", shell._advance))
    target = "good" if config.guided else None
    prompts = ["abc", "d", "efghij"]
    shell.generate(
        model(), prompts, config=config, discriminator=guide(), target=target, batch_size=3
    )
    assert calls == {"begin": 1, "advance": 4}


def test_samples_share_what_is_kept_of_the_prompt():
    """Sixteen samples take the bytes of one prompt and of sixteen trunks and trees."""
    many, short, long = 16, 52, 100

    def cost(samples: int, length: int) -> tuple[int, int, int]:
        tokens = jnp.ones((1, length), jnp.int32)
        job = job_of("causal").replace(
            prompt=Prompt(tokens, tokens > 0, jnp.arange(1)),
            target=jnp.zeros(1, jnp.int32),
            config=CONFIG.with_settings(samples=samples, rollout=0),
        )
        state = jax.eval_shape(decoder.begin, job)
        prompts = [(cache.prompt_keys, cache.prompt_values) for cache in state.states[:2]]
        held, kept = (
            sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
            for tree in (state, prompts)
        )
        advance = jax.jit(decoder.advance, donate_argnums=2)
        program = advance.lower(jax.random.key(0), job, state).compile()
        return kept, held, program.memory_analysis().temp_size_in_bytes

    prompt, held, one_long = cost(1, long)
    prompt_of_many, held_by_many, many_long = cost(many, long)
    assert prompt_of_many == prompt
    assert held_by_many <= prompt + many * (held - prompt)
    # A longer prompt adds every sample's attention scores, some arrays of which live together, and
    # its keys and values once: repeated per sample these would be more than all of that.
    scores = (long - short) * CONFIG.search.wave * TINY_LLAMA.heads * 4
    entries = (long - short) * 2 * TINY_LLAMA.kv_heads * TINY_LLAMA.head_width * 4
    growth = many_long - cost(many, short)[2]
    assert growth <= one_long - cost(1, short)[2] + 3 * many * scores < many * (entries + scores)
