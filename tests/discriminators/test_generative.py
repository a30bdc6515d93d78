"""A generative discriminator against Bayes' rule on texts read anew."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.discriminators.generative import (
    GenerativeConfig,
    generative,
    generative_params,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.transformer import init_decoder, unembed
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from tests.compiled import compiled
from tests.discriminators.trees import CONFIG, ROWS, check_every_node, prompt_of

CLASSES = ("bad", "good", "none")
PREFIXES = ((7,), (8, 9, 10), (11, 12))
PRIOR = [0.2, 0.5, 0.3]
SCALE = 1.7
NETWORKS = {"tied": TINY_GPT2, "untied": TINY_LLAMA}
# Sharper than a fresh network, so that every class thinks differently of a text.
PARAMS = {
    name: jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(3), network))
    for name, network in NETWORKS.items()
}


def judge_of(kind: str, **changes) -> tuple[GenerativeConfig, dict]:
    config = GenerativeConfig(NETWORKS[kind], CLASSES, PREFIXES, **changes)
    return config, generative_params(PARAMS[kind], 3, prior=PRIOR, scale=SCALE)


@partial(jax.jit, static_argnums=0)
def logits_anew(kind, tokens, mask):
    network, params = NETWORKS[kind], PARAMS[kind]
    return unembed(network, params, read(network, params, tokens, mask)[1])


def posterior_anew(kind: str, text: list[int], *, mean: bool) -> np.ndarray:
    """Bayes' rule on the text behind every prefix, each read alone."""
    log_joint = np.log(PRIOR)
    for number, prefix in enumerate(PREFIXES):
        padded = prompt_of([[*prefix, *text]], 20)
        logits = logits_anew(kind, padded.tokens, padded.mask)
        log_p = log_softmax(np.asarray(logits[0], np.float64), axis=-1)
        start = 20 - len(text)
        total = sum(log_p[start + at - 1, token] for at, token in enumerate(text))
        log_joint[number] += SCALE * total / (len(text) if mean else 1)
    return log_softmax(log_joint)


@pytest.mark.parametrize(
    ("kind", "mean", "reads_prompt"),
    [("tied", True, True), ("untied", False, False)],
)
def test_every_node_has_the_posterior_of_its_text_read_anew(kind, mean, reads_prompt):
    config, params = judge_of(kind, mean=mean, reads_prompt=reads_prompt)
    job = Job(
        prompt=prompt_of(ROWS),
        language_model=language_model(TINY_LLAMA),
        params=init_decoder(jax.random.key(0), TINY_LLAMA),
        discriminator=generative(config),
        discriminator_params=params,
        target=jnp.asarray([0, 1]),
        config=CONFIG,
    )
    state = jax.jit(decoder.begin)(job)
    for row, tokens in enumerate(ROWS):
        bare = posterior_anew(kind, tokens, mean=mean) if reads_prompt else np.full(3, -np.log(3))
        np.testing.assert_allclose(state.generation.log_class[row, 1], bare, atol=1e-4)

    def anew(row, text):
        return posterior_anew(kind, [*(ROWS[row] if reads_prompt else []), *text], mean=mean)

    check_every_node(job, state, anew, atol=2e-4)


def chain(start: int, tokens: list[int], parent: int, path: list[int], depth: int) -> Nodes:
    """Nodes of one row, siblings of each other."""
    wave = len(tokens)
    one = (1, 1, wave)
    return Nodes(
        start=jnp.int32(start),
        token=jnp.asarray(tokens, jnp.int32).reshape(one),
        parent=jnp.full(one, parent, jnp.int32),
        path=jnp.broadcast_to(jnp.asarray([*path, *[-1] * (4 - len(path))], jnp.int32), (*one, 4)),
        depth=jnp.full(one, depth, jnp.int32),
        committed=jnp.zeros((1, 1), jnp.int32),
        terminal=jnp.zeros(one, bool),
    )


def test_the_posterior_of_every_string_of_a_small_language_is_bayes_rule_by_enumeration():
    """All 4 + 16 + 64 strings: children judged in one pass equal children that are read."""
    network = dataclasses.replace(TINY_LLAMA, vocab_size=4, end_tokens=(2,))
    prior, scale = [0.3, 0.7], 1.7
    params = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(5), network))
    config = GenerativeConfig(network, ("a", "b"), ((0,), (1, 2)))
    judge = compiled(generative(config))
    weights = generative_params(params, 2, prior=prior, scale=scale)
    prompt = prompt_of([[3]], 1)
    _, state = judge.init(
        weights, prompt, jnp.zeros((1, 1, 0, 1)), capacity=Capacity(1, 4, 1 + 4 + 16 + 64)
    )
    model = compiled(language_model(network))
    strings = {length: list(itertools.product(range(4), repeat=length)) for length in (1, 2, 3)}
    log_joint = {}
    for share, prefix in zip(prior, config.prefixes, strict=True):
        bare = prompt_of([list(prefix)], len(prefix))
        for texts in strings.values():
            tokens = jnp.asarray([texts])
            log_p = model.score(params, bare, tokens, jnp.ones(tokens.shape, bool)).sum(-1)[0]
            assert float(jnp.exp(log_p).sum()) == pytest.approx(1, abs=1e-4)
            for text, value in zip(texts, np.asarray(log_p), strict=True):
                log_joint.setdefault(text, []).append(scale / len(text) * value + np.log(share))
    start, slots = 1, {(): 0}
    for length in (1, 2, 3):
        for text in itertools.product(range(4), repeat=length - 1):
            path = [slots[text[: at + 1]] for at in range(len(text))]
            nodes = chain(start, [0, 1, 2, 3], slots[text], path, length)
            log_class, state = judge.evaluate(weights, state, nodes)
            for token in range(4):
                slots[(*text, token)] = start + token
                expected = log_softmax(log_joint[(*text, token)])
                np.testing.assert_allclose(log_class[0, 0, token], expected, atol=1e-4)
            if length < 3:
                children = judge.evaluate_children(weights, state, nodes, None)
                assert children.shape == (1, 1, 4, 4, 2)
                for token, child in itertools.product(range(4), repeat=2):
                    # Token 2 ends a text: what was said of it stays.
                    longer = (*text, token) if child == 2 else (*text, token, child)
                    expected = log_softmax(log_joint[longer])
                    np.testing.assert_allclose(children[0, 0, token, child], expected, atol=1e-4)
                some = jnp.asarray([[[[3, 1], [0, 2], [1, 1], [2, 0]]]])
                chosen = judge.evaluate_children(weights, state, nodes, some)
                wanted = np.take_along_axis(np.asarray(children), np.asarray(some)[..., None], 3)
                np.testing.assert_allclose(chosen, wanted, atol=1e-5)
            start += 4


def test_begin_tokens_of_a_prompt_are_no_text():
    config, params = judge_of("tied", reads_prompt=True, begin_tokens=1)
    bare, _ = compiled(generative(config)).init(
        params,
        prompt_of([[60, 3, 4], [60, 9]]),
        jnp.zeros((2, 4, 0, 1)),
        capacity=Capacity(1, 2, 4),
    )
    for row, text in enumerate(([3, 4], [9])):
        np.testing.assert_allclose(bare[row], posterior_anew("tied", text, mean=True), atol=1e-4)


def test_all_classes_are_read_in_one_call():
    config, params = judge_of("tied")
    judge = compiled(generative(config))
    prompt = prompt_of([[3]], 1)
    room = Capacity(1, 2, 8)
    _, state = judge.init(params, prompt, jnp.zeros((1, 1, 0, 1)), capacity=room)
    nodes = chain(1, [4, 5], 0, [], 1)
    text = str(jax.make_jaxpr(judge.evaluate)(params, state, nodes))
    # One scan over the layers, of three classes at once.
    assert text.count("scan[") == 1
    # The cache moves with the tree like any other state: no row axis but its own is folded.
    assert state.cache.keys.nodes.shape == (2, 3, 1, 1, 8, TINY_GPT2.width)
    assert state.cache.keys.lead == 2


def test_a_discriminator_has_to_leave_room_for_its_prefixes():
    config, _ = judge_of("tied")
    assert generative(config).context == TINY_GPT2.context - 3
    assert generative(config) == generative(judge_of("tied")[0])


def test_mistakes_are_told():
    with pytest.raises(UserError, match="2 classes and 1 prefixes"):
        GenerativeConfig(TINY_GPT2, ("a", "b"), ((1,),))
    with pytest.raises(UserError, match="prefix of 'b' is empty"):
        GenerativeConfig(TINY_GPT2, ("a", "b"), ((1,), ()))
    with pytest.raises(UserError, match="prefix of 'b' has tokens that the network lacks"):
        GenerativeConfig(TINY_GPT2, ("a", "b"), ((1,), (61,)))
    for prior in ([1, 0], [1, 2, 3], [1, float("nan")]):
        with pytest.raises(UserError, match="must be 2 positive numbers"):
            generative_params(None, 2, prior=prior)
