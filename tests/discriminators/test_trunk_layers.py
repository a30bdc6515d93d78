"""Small layers on a language model's states, along a tree against reading each text anew."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.discriminators.trunk_layers import (
    judge_texts,
    trunk_layers,
)
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.reading import read
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.transformer import tapped
from coopgen_jax.testing import TINY_LLAMA
from tests.compiled import compiled
from tests.discriminators.small_layers import CLASSES, END, GUIDE_PARAMS, MODEL, PARAMS, SHAPE, TAPS
from tests.discriminators.trees import CONFIG, ROWS, check_every_node, prompt_of


@jax.jit
def states_of(tokens, mask):
    x, _, streams, _ = read(TINY_LLAMA, PARAMS, tokens, mask)
    return tapped(TINY_LLAMA, PARAMS, x, streams, TAPS)


@jax.jit
def judged(tokens, mask, inside):
    return judge_texts(SHAPE, GUIDE_PARAMS, states_of(tokens, mask), inside)[0][0]


def judged_anew(prompt: list[int], text: list[int]) -> np.ndarray:
    """What is said of every beginning of the text `[S, C]`; the prompt is read, not judged."""
    padded = prompt_of([[*prompt, *text]], 16)
    inside = padded.mask & (jnp.arange(16) >= 16 - len(text))[None]
    return np.asarray(judged(padded.tokens, padded.mask, inside))[16 - len(text) :]


def test_every_node_is_judged_as_if_read_anew():
    job = Job(
        prompt=prompt_of(ROWS),
        language_model=MODEL,
        params=PARAMS,
        discriminator=trunk_layers(SHAPE),
        discriminator_params=GUIDE_PARAMS,
        target=jnp.asarray([0, 1]),
        config=CONFIG,
    )
    state = jax.jit(decoder.begin)(job)
    np.testing.assert_allclose(state.generation.log_class, -np.log(3), rtol=1e-6)
    check_every_node(job, state, lambda row, text: judged_anew(ROWS[row], text)[-1])


def test_what_stands_behind_a_beginning_does_not_change_what_is_said_of_it():
    whole = judged_anew([7], [3, 9, 11, 2, 40])
    for length in (1, 3):
        np.testing.assert_allclose(
            judged_anew([7], [3, 9, 11, 2, 40][:length])[-1], whole[length - 1], atol=1e-5
        )
    assert np.ptp(np.exp(whole), axis=0).max() > 0.05


def walked(text: list[int]):
    """The state behind a text that was read node by node, and its last node."""
    room = Capacity(samples=1, trunk=1, nodes=8)
    prompt = prompt_of([[7]], 1)
    model, guide = compiled(MODEL), compiled(trunk_layers(SHAPE))
    _, hidden, cache = model.prefill(PARAMS, prompt, capacity=room)
    _, state = guide.init(GUIDE_PARAMS, prompt, hidden, capacity=room)
    for at, token in enumerate(text):
        path = [*range(1, at + 1), *[-1] * (6 - at)]
        nodes = Nodes(
            start=jnp.int32(at + 1),
            token=jnp.full((1, 1, 1), token, jnp.int32),
            parent=jnp.full((1, 1, 1), at, jnp.int32),
            path=jnp.asarray(path, jnp.int32).reshape(1, 1, 1, -1),
            depth=jnp.full((1, 1, 1), at + 1, jnp.int32),
            committed=jnp.zeros((1, 1), jnp.int32),
            terminal=jnp.zeros((1, 1, 1), bool),
        )
        _, hidden, cache = model.extend(PARAMS, cache, nodes)
        nodes = dataclasses.replace(nodes, hidden=hidden)
        log_class, state = guide.evaluate(GUIDE_PARAMS, state, nodes)
    return guide, state, nodes, np.asarray(log_class[0, 0, 0])


def test_the_children_are_judged_by_their_embeddings_before_they_are_read():
    text = [3, 9, 11]
    guide, state, nodes, itself = walked(text)
    padded = prompt_of([[7, *text]], 16)
    inside = padded.mask & (jnp.arange(16) >= 16 - len(text))[None]
    states = states_of(padded.tokens, padded.mask)
    own = np.asarray(judge_texts(SHAPE, GUIDE_PARAMS, states, inside)[1][0, -1], np.float64)
    dense = jax.tree.map(np.asarray, GUIDE_PARAMS["queries"]["query"])
    query = (own @ dense["kernel"] + dense["bias"]).reshape(len(CLASSES), 5)
    logits = np.asarray(PARAMS["embedding"]) @ np.asarray(GUIDE_PARAMS["keys"]) @ query[:, :-1].T
    logits += query[:, -1]
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected[END] = itself
    of_all = guide.evaluate_children(GUIDE_PARAMS, state, nodes, None)
    np.testing.assert_allclose(of_all[0, 0, 0], expected, atol=1e-4)
    some = jnp.asarray([4, END, 60]).reshape(1, 1, 1, 3)
    of_some = guide.evaluate_children(GUIDE_PARAMS, state, nodes, some)
    np.testing.assert_allclose(of_some[0, 0, 0], expected[np.asarray([4, END, 60])], atol=1e-4)
    assert np.abs(expected[4] - expected[60]).max() > 0.01


def test_of_a_bare_prompt_an_end_is_judged_like_the_prompt():
    guide = trunk_layers(SHAPE)
    room = Capacity(samples=1, trunk=1, nodes=4)
    prompt = prompt_of([[7]], 1)
    _, hidden, _ = MODEL.prefill(PARAMS, prompt, capacity=room)
    said, state = guide.init(GUIDE_PARAMS, prompt, hidden, capacity=room)
    one = jnp.zeros((1, 1, 1), jnp.int32)
    root = Nodes(jnp.int32(0), one, one, one[..., None] - 1, one, one[..., 0], one > 0)
    children = guide.evaluate_children(GUIDE_PARAMS, state, root, None)[0, 0, 0]
    np.testing.assert_allclose(children[END], said[0], atol=1e-6)
    assert np.abs(children[END - 1] - said[0]).max() > 1e-3


def test_without_a_look_ahead_head_children_are_not_judged():
    assert trunk_layers(dataclasses.replace(SHAPE, look_ahead=0)).evaluate_children is None


def test_dropout_is_a_rows_own_whatever_is_beside_it():
    config = dataclasses.replace(SHAPE, head=HeadConfig(CLASSES, 32, (16,), dropout=0.5))
    states = jax.random.normal(jax.random.key(3), (3, 6, len(TAPS), TINY_LLAMA.width))
    inside, keys = jnp.ones((3, 6), bool), jax.random.split(jax.random.key(4), 3)
    judge = jax.jit(partial(judge_texts, config, GUIDE_PARAMS))
    together, _ = judge(states, inside, keys)
    for row in range(3):
        one = slice(row, row + 1)
        alone, _ = judge(states[one], inside[one], keys[one])
        np.testing.assert_allclose(together[one], alone, atol=1e-5)
    other, _ = judge(states, inside, keys[::-1])
    assert np.abs(other - together).max() > 0.01


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match="the head reads 7 numbers but the layers' states have 32"):
        dataclasses.replace(SHAPE, head=HeadConfig(CLASSES, 7))
