"""The language model's contract as a test of any network."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.language_model import LanguageModel, Nodes
from coopgen_jax.testing.read_in_slots import (
    CAPACITY,
    DEPTH,
    Reader,
    Texts,
    check_kinds,
    check_record,
    check_slots,
    check_whole,
    draw_texts,
)

# How far a number is moved to find a slope, and how well the gradient must agree with it.
STEP, SLOPE = 1e-2, 0.05


def check_language_model(
    model: LanguageModel, params: Any, *, tolerance: float = 1e-4, seed: int = 0
) -> None:
    """Checks that a network keeps the contract that every decoder relies on.

    Random texts of a few tokens are read through `prefill`, `extend` and `score`, along the paths
    of a tree, behind committed tokens, in other slots, under other padding and beside other rows.
    Give parameters under which what has been read matters: of a network that says the same of all
    texts nothing can be found out.

    Args:
      model: the network's three functions; on one device, not sharded.
      params: its parameters.
      tolerance: the most that two log-probabilities (or states at the taps) that should be equal
        may differ by, absolutely or relative to their size; 1e-4 suits float32, 0.1 bfloat16.
      seed: of the random texts.

    Raises:
      AssertionError: a clause is violated; the message names it.
    """
    _check_record(model)
    texts = draw_texts(model.vocab_size, model.end_tokens, seed)
    reader = _reader(model, params, tolerance)
    _check_shapes(model, params, texts)
    _check_score_alone(model, params, texts, reader)
    found = check_slots(reader, texts)
    _check_sensitivity(model, found, tolerance)
    _check_agreement(model, params, texts, reader, found)
    if model.embeddings is not None:
        _check_embeddings(model, params, texts, reader)


def _check_record(model: LanguageModel) -> None:
    check_record("language model", model)
    assert model.vocab_shards == 1, "the logits are split over devices: check the whole network"
    wrong = [token for token in model.end_tokens if not 0 <= token < model.vocab_size]
    assert not wrong, f"the vocabulary of {model.vocab_size} tokens has no end token {wrong[0]}"


def _reader(model: LanguageModel, params: Any, tolerance: float) -> Reader:
    """Finds log-probabilities `[V]` and the states at the taps, one behind the other."""

    def joined(logits: jax.Array, hidden: jax.Array) -> jax.Array:
        states = hidden.reshape(*logits.shape[:-1], -1).astype(jnp.float32)
        return jnp.concatenate([jax.nn.log_softmax(logits), states], axis=-1)

    @jax.jit
    def begin(prompt: Any) -> tuple[jax.Array, Any]:
        logits, hidden, cache = model.prefill(params, prompt, capacity=CAPACITY)
        return joined(logits, hidden[:, -1]), cache

    @jax.jit
    def read(cache: Any, nodes: Nodes) -> tuple[jax.Array, Any]:
        logits, hidden, cache = model.extend(params, cache, nodes)
        return joined(logits, hidden), cache

    return Reader("language model", begin, read, tolerance)


def _check_shapes(model: LanguageModel, params: Any, texts: Texts) -> None:
    prompt, taps = texts.prompt(), (len(model.taps), model.width)
    read = partial(model.prefill, params, capacity=CAPACITY)
    logits, hidden, cache = jax.eval_shape(read, prompt)
    more, states, after = jax.eval_shape(partial(model.extend, params), cache, texts.first)
    rows = texts.tokens.shape[:3]
    _has(logits, (len(texts.rows), model.vocab_size), "the logits of prefill")
    _has(more, (*rows, model.vocab_size), "the logits of extend")
    _has(hidden, (*prompt.tokens.shape, *taps), "the hidden states of prefill", any_float=True)
    _has(states, (*rows, *taps), "the hidden states of extend", any_float=True)
    check_kinds(cache, after, "extend returns a cache")
    tokens = texts.tokens[:, :, 0]
    mask = np.ones(tokens.shape, bool)
    scores = jax.eval_shape(partial(model.score, params), prompt, tokens, mask)
    _has(scores, (*rows[:2], DEPTH), "the log-probabilities of score")


def _has(array: Any, shape: tuple[int, ...], what: str, *, any_float: bool = False) -> None:
    assert array.shape == shape, f"{what} have shape {array.shape}, not {shape}"
    kinds = ("bfloat16", "float16") if any_float else ()
    kinds = (*kinds, "float32", "float64")
    assert array.dtype in kinds, f"{what} are {array.dtype}, not float32"


def _scores(model: LanguageModel, params: Any, texts: Texts, tokens: Any, mask: Any) -> np.ndarray:
    tokens, mask = jnp.asarray(tokens, jnp.int32), jnp.asarray(mask, bool)
    return np.asarray(jax.jit(model.score)(params, texts.prompt(), tokens, mask))


def _check_score_alone(model: LanguageModel, params: Any, texts: Texts, reader: Reader) -> None:
    tokens = texts.tokens.reshape(len(texts.rows), -1, DEPTH)
    mask = np.ones(tokens.shape, bool)
    expected = _scores(model, params, texts, tokens, mask)
    assert (expected <= 0).all(), "score returns log-probabilities above 0"
    mask[..., -1] = False
    other = tokens.copy()
    other[..., -1] = texts.draw(*tokens.shape[:2])
    found = _scores(model, params, texts, other, mask)
    assert not found[..., -1].any(), "score is not 0 where the mask is false"
    clause = "the score of a token depends on tokens behind it"
    reader.same(found[..., :-1], expected[..., :-1], clause)


def _check_sensitivity(model: LanguageModel, found: np.ndarray, tolerance: float) -> None:
    """Of a network whose log-probabilities are all alike the other clauses find out nothing."""
    spread = np.nanmax(np.ptp(found[..., 0, : model.vocab_size], axis=2))
    assert spread > 20 * tolerance, (
        f"after different tokens the log-probabilities differ by {spread:.3g} at most, too little "
        "to check anything: give parameters that are trained, or larger ones"
    )


def _check_agreement(
    model: LanguageModel, params: Any, texts: Texts, reader: Reader, found: np.ndarray
) -> None:
    """Compares log p of the texts and of a token behind each, by `score` and by the tree."""
    batch = len(texts.rows)
    more = texts.draw(*texts.tokens.shape[:3], 1)
    tokens = np.concatenate([texts.tokens, more], -1)
    flat = tokens.reshape(batch, -1, DEPTH + 1)
    scores = _scores(model, params, texts, flat, np.ones(flat.shape, bool)).reshape(tokens.shape)
    log_probs = found[..., : model.vocab_size]
    first = np.asarray(reader.begin(texts.prompt())[0])[:, : model.vocab_size]
    first = np.broadcast_to(first[:, None, None], (*tokens.shape[:3], model.vocab_size))
    at_first = np.take_along_axis(first, tokens[..., :1], -1)[..., 0]
    clause = "score and prefill give a first token different log-probabilities"
    reader.same(scores[..., 0], at_first, clause)
    at_next = np.take_along_axis(log_probs, tokens[..., 1:, None], -1)[..., 0]
    clause = "score and extend give a token different log-probabilities"
    reader.same(scores[..., 1:], at_next, clause)
    if model.encodes_prompt:
        return
    clause = "a text read as a prompt is not what it is read token by token"
    check_whole(reader, texts, found, clause)


def _check_embeddings(model: LanguageModel, params: Any, texts: Texts, reader: Reader) -> None:
    """Checks that vectors can stand in for tokens, and that there is a gradient through them."""
    assert model.embeddings is not None
    table = jnp.asarray(model.embeddings(params))
    shape = (model.vocab_size, model.width)
    assert table.shape == shape, f"embeddings has shape {table.shape}, not {shape}"
    _, cache = reader.begin(texts.prompt())
    nodes = texts.first
    vectors = table[nodes.token]
    other = jnp.asarray(texts.draw(*nodes.token.shape), jnp.int32)
    instead = replace(nodes, token=other, embedding=vectors)
    clause = "a token's vector from embeddings, in its place, is not read as the token"
    reader.same(reader.read(cache, instead)[0], reader.read(cache, nodes)[0], clause)
    direction = jax.random.normal(jax.random.key(0), vectors.shape) * jnp.std(vectors)
    weights = jax.random.normal(jax.random.key(1), (model.vocab_size,))

    @jax.jit
    def total(step: jax.Array) -> jax.Array:
        moved = replace(nodes, embedding=vectors + step * direction)
        logits, _, _ = model.extend(params, cache, moved)
        return jax.nn.log_softmax(logits) @ weights

    check_slope(total, "extend", "the embedding")


def check_slope(total: Any, function: str, argument: str) -> None:
    """Checks the gradient of `total`, from a number to an array, at 0 against a difference."""
    zero = jnp.float32(0)
    slope = (total(zero + STEP) - total(zero - STEP)) / (2 * STEP)
    gradient = jax.jit(jax.grad(lambda step: total(step).sum()))(zero)
    expected, scale = float(slope.sum()), float(jnp.abs(slope).sum())
    clause = f"the gradient of {function} by {argument} is {float(gradient):.4g}"
    assert scale > 0, f"{function} does not depend on {argument}"
    assert np.isfinite(gradient), f"{clause}, which is no number"
    assert abs(float(gradient) - expected) <= SLOPE * scale, f"{clause}, its slope {expected:.4g}"
