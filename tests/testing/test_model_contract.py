"""The contract of language models: networks that keep it, and networks broken in every clause."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

import coopgen_jax as cg
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.networks import language_model as language_model_of
from coopgen_jax.models.t5 import T5Config, init_t5
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA, ToyLanguage, toy_language_model

check = cg.testing.check_language_model
TOY = ToyLanguage(vocab_size=6)
PARAMS = jax.tree.map(jnp.asarray, TOY.tables(0))
MODEL = toy_language_model(TOY)
LLAMA = language_model(TINY_LLAMA)
LLAMA_PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)


@pytest.mark.parametrize("seed", range(3))
def test_the_toy_keeps_the_contract(seed):
    check(MODEL, PARAMS, seed=seed)


@pytest.mark.parametrize("config", [TINY_LLAMA, TINY_GPT2], ids=["llama", "gpt2"])
def test_networks_keep_the_contract(config):
    taps = (0, config.layers)
    check(language_model(config, taps), init_decoder(jax.random.key(1), config))


def test_networks_of_the_t5_family_keep_the_contract():
    config = T5Config(
        vocab_size=61, layers=2, width=16, heads=2, kv_heads=2, head_width=8, ffn_width=24,
        context=64, norm="rms", norm_epsilon=1e-6, activation="relu", gated=False,
        positions="relative", tied=True, end_tokens=(1,), encoder_layers=2, buckets=8, reach=20,
    )  # fmt: skip
    params = init_t5(jax.random.key(0), config)
    check(language_model_of(config), params)


def test_a_sum_of_networks_keeps_the_contract():
    model = combine_logits([Member(MODEL, 0), Member(MODEL, 1, prefix=(1, 2))])
    networks = [{"logits": PARAMS["logits"][::step]} for step in (1, -1)]
    check(model, combined_params(networks, [1.0, 0.5]))


def changed(function, change):
    """Returns a function whose first result is changed by the arguments that it was given."""

    def broken(params, *rest, **options):
        first, *others = function(params, *rest, **options)
        return change(first, *rest), *others

    return broken


def extended(change):
    """The toy with other logits behind nodes."""
    return replace(MODEL, extend=changed(MODEL.extend, change))


def prefilled(change):
    """The toy with other logits behind prompts."""
    return replace(MODEL, prefill=changed(MODEL.prefill, change))


def scored(change):
    def score(params, prompt, tokens, mask):
        return change(MODEL.score(params, prompt, tokens, mask), tokens, mask)

    return replace(MODEL, score=score)


def tilted(logits, by):
    """Returns logits of which the first is larger by `[...]`."""
    return logits.at[..., 0].add(by)


def out_of_step(deep):
    """The toy with a second copy of its memory outside of all slots, which nothing moves.

    Where the copies of a node's parent differ, the logits do; of the root's or of other parents'.
    """

    def prefill(params, prompt, *, capacity):
        logits, hidden, cache = MODEL.prefill(params, prompt, capacity=capacity)
        return logits, hidden, (cache, cache.memory.nodes)

    def extend(params, caches, nodes):
        cache, copy = caches
        logits, hidden, after = MODEL.extend(params, cache, nodes)
        there = nodes.start + jnp.arange(nodes.token.shape[-1])
        kept = copy.at[:, :, there].set(after.memory.nodes[:, :, there])
        both = (jnp.take_along_axis(one, nodes.parent, 2) for one in (cache.memory.nodes, copy))
        wrong = jnp.not_equal(*both) & ((nodes.depth > 1) == deep)
        return tilted(logits, 1.0 * wrong), hidden, (after, kept)

    return replace(MODEL, prefill=prefill, extend=extend)


def unhashable():
    class Function(list):
        def __call__(self, *args, **options):
            return MODEL.prefill(*args, **options)

    return replace(MODEL, prefill=Function())


BROKEN = {
    "cannot be hashed": unhashable(),
    "has no end token 9": replace(MODEL, end_tokens=(9,)),
    "the context is 8: the check reads": replace(MODEL, context=8),
    "the logits of prefill are bfloat16": prefilled(lambda x, *_: x.astype(jnp.bfloat16)),
    "the logits of extend have shape": extended(lambda x, *_: x[..., :-1]),
    "the hidden states of prefill have shape": replace(MODEL, taps=(0,)),
    "the log-probabilities of score have shape": scored(lambda x, *_: x[..., 1:]),
    "log-probabilities above 0": scored(lambda x, *_: -x),
    "score is not 0 where the mask is false": scored(
        lambda x, tokens, mask: jnp.where(mask, x, -1.0)
    ),
    "depends on tokens behind it": scored(
        lambda x, tokens, mask: jnp.where(mask, x - 0.1 * tokens[..., -1:], 0)
    ),
    "numbers that are NaN": extended(lambda x, *_: x * jnp.nan),
    "depends on the padding": prefilled(lambda x, prompt: tilted(x, 0.1 * prompt.tokens.sum(-1))),
    "depends on the rows beside it": extended(lambda x, *_: x + x.mean(0, keepdims=True)),
    "depends on the samples beside it": extended(lambda x, *_: x + x.mean(1, keepdims=True)),
    "depends on nodes that are not its ancestors": extended(
        lambda x, *_: x + x.mean(2, keepdims=True)
    ),
    "depends on the slots": extended(lambda x, cache, nodes: tilted(x, 0.1 * nodes.start)),
    "a terminal node changes": extended(
        lambda x, cache, nodes: tilted(x, nodes.terminal.sum(-1, keepdims=True))
    ),
    "read into slot 0, behind 1 committed": extended(
        lambda x, cache, nodes: tilted(x, 1.0 * (nodes.committed[..., None] > 0))
    ),
    "a new node is not found": out_of_step(deep=False),
    "a child of a node that was kept": out_of_step(deep=True),
    "too little to check anything": extended(lambda x, *_: jnp.zeros_like(x)),
    "score and prefill give": prefilled(lambda x, *_: 2 * x),
    "score and extend give": extended(lambda x, *_: 2 * x),
}


@pytest.mark.parametrize("clause", BROKEN)
def test_a_broken_clause_is_named(clause):
    with pytest.raises(AssertionError, match=clause) as caught:
        check(BROKEN[clause], PARAMS)
    assert "\n" not in str(caught.value)


def test_a_text_that_a_prompt_would_read_otherwise_is_named():
    def shifted(prompt):
        return replace(prompt, tokens=(prompt.tokens + 1) % TOY.vocab_size)

    def prefill(params, prompt, *, capacity):
        return MODEL.prefill(params, shifted(prompt), capacity=capacity)

    def score(params, prompt, *rest):
        return MODEL.score(params, shifted(prompt), *rest)

    with pytest.raises(AssertionError, match="is not what it is read token by token"):
        check(replace(MODEL, prefill=prefill, score=score), PARAMS)


def test_vectors_in_place_of_tokens_are_checked():
    def ignored(params, cache, nodes):
        return LLAMA.extend(params, cache, replace(nodes, embedding=None))

    with pytest.raises(AssertionError, match="is not read as the token"):
        check(replace(LLAMA, extend=ignored), LLAMA_PARAMS)

    def stopped(params, cache, nodes):
        if nodes.embedding is not None:
            nodes = replace(nodes, embedding=jax.lax.stop_gradient(nodes.embedding))
        return LLAMA.extend(params, cache, nodes)

    with pytest.raises(AssertionError, match="the gradient of extend by the embedding is 0"):
        check(replace(LLAMA, extend=stopped), LLAMA_PARAMS)
