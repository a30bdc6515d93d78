"""The discriminator's contract as a test of any guide."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Nodes
from coopgen_jax.models.prompt import check_context
from coopgen_jax.models.slots import commit, move
from coopgen_jax.testing.model_contract import check_slope
from coopgen_jax.testing.read_in_slots import (
    CAPACITY,
    DEPTH,
    LANES,
    LENGTHS,
    Reader,
    Texts,
    check_kinds,
    check_record,
    check_slots,
    check_whole,
    draw_texts,
    nodes_of,
    read_texts,
)


def check_discriminator(
    guide: Discriminator,
    params: Any,
    *,
    language_model: LanguageModel,
    language_model_params: Any,
    context: Any = None,
    exact_children: bool = False,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Checks that a discriminator keeps the contract that every guided decoder relies on.

    Random texts of a few tokens are judged along the paths of a tree, behind committed tokens, in
    other slots, under other padding and beside other rows, each time as a decoder has them read: by
    the language model first.

    Args:
      guide: the discriminator's functions.
      params: its parameters; those under which it says different things of different texts.
      language_model: what it guides, with the taps that it reads.
      language_model_params: the language model's parameters.
      context: what it knows of each of the 3 prompts that are read, a pytree with a leading axis of
        3, in which no two rows are alike; None where it knows nothing. See `Prompt`.
      exact_children: whether `evaluate_children` must say of a child what `evaluate` says once it
        has been read, as generative kinds do; a head that looks ahead only estimates it.
      tolerance: the most that two log-probabilities that should be equal may differ by.
      seed: of the random texts.

    Raises:
      AssertionError: a clause is violated; the message names it.
    """
    _check_record(guide, language_model)
    check_context(context, len(LENGTHS))
    texts = draw_texts(language_model.vocab_size, language_model.end_tokens, seed, context)
    model = (language_model, language_model_params)
    reader = _reader(guide, params, model, tolerance)
    _check_numbers(guide, texts, reader)
    found = check_slots(reader, texts)
    spread = np.ptp(found, axis=(0, 1, 2, 3)).max()
    assert spread > 20 * tolerance, (
        f"what the discriminator says of different texts differs by {spread:.3g} at most, too "
        "little to check anything: give parameters that are trained, or larger ones"
    )
    _check_context(texts, reader, found)
    _check_prompt(guide, texts, reader, found)
    if guide.evaluate_prefixes is not None:
        _check_prefixes(guide, params, model, texts, reader, found)
    if guide.evaluate_children is not None:
        ask = jax.jit(partial(guide.evaluate_children, params))
        _check_children(ask, texts, reader, found, exact=exact_children)
        _check_children_of_new_root(ask, texts, reader)
        _check_end(ask, language_model, texts, reader, found)
    if guide.differentiable:
        _check_gradient(guide, params, model, texts, reader)


def _check_record(guide: Discriminator, model: LanguageModel) -> None:
    check_record("discriminator", guide)
    assert guide.classes, "the discriminator has no class: a reward has one"
    assert guide.taps == model.taps, (
        f"the discriminator reads the taps {guide.taps} and the language model gives {model.taps}"
    )


def _reader(guide: Discriminator, params: Any, model: tuple, tolerance: float) -> Reader:
    network, network_params = model

    @jax.jit
    def begin(prompt: Any) -> tuple[jax.Array, Any]:
        _, hidden, cache = network.prefill(network_params, prompt, capacity=CAPACITY)
        log_class, state = guide.init(params, prompt, hidden, capacity=CAPACITY)
        return log_class, (cache, state)

    @jax.jit
    def read(states: Any, nodes: Nodes) -> tuple[jax.Array, Any]:
        cache, state = states
        _, hidden, cache = network.extend(network_params, cache, nodes)
        log_class, state = guide.evaluate(params, state, replace(nodes, hidden=hidden))
        return log_class, (cache, state)

    return Reader("discriminator", begin, read, tolerance)


def _check_log_class(log_class: Any, shape: tuple[int, ...], what: str) -> None:
    assert log_class.shape == shape, f"{what} returns shape {log_class.shape}, not {shape}"
    assert log_class.dtype in ("float32", "float64"), f"{what} returns {log_class.dtype}"
    log_class = np.asarray(log_class, np.float64)
    assert not np.isnan(log_class).any(), f"{what} returns numbers that are NaN"
    assert (log_class <= 1e-4).all(), f"{what} returns log-probabilities above 0"
    if shape[-1] > 1:
        total = np.exp(log_class).sum(-1)
        assert np.allclose(total, 1, atol=1e-3), (
            f"the probabilities of {what} sum to {total.flat[np.argmax(np.abs(total - 1))]:.4g} "
            "over the classes, not to 1"
        )


def _check_numbers(guide: Discriminator, texts: Texts, reader: Reader) -> None:
    classes = len(guide.classes)
    log_class, states = reader.begin(texts.prompt())
    _check_log_class(log_class, (len(texts.rows), classes), "init")
    log_class, after = reader.read(states, texts.first)
    _check_log_class(log_class, (*texts.first.token.shape, classes), "evaluate")
    check_kinds(states[1], after[1], "evaluate returns a state")


def _reads_prompt(guide: Discriminator) -> set[bool]:
    """Returns whether the discriminator, or each that it is composed of, judges the prompt."""
    if not guide.parts:
        return {guide.reads_prompt}
    return set[bool]().union(*map(_reads_prompt, guide.parts))


def _check_context(texts: Texts, reader: Reader, found: np.ndarray) -> None:
    if texts.context is None:
        return
    other, _ = read_texts(reader, texts.beside.prompt(), texts.tokens)
    least = np.abs(other - found)[1:].max(axis=(1, 2, 3, 4)).min()
    assert least > 20 * reader.tolerance, (
        f"what the discriminator says differs by {least:.3g} at most under another context: init "
        "does not take it into the state, or the rows of the context are too much alike"
    )


def _check_prompt(guide: Discriminator, texts: Texts, reader: Reader, found: np.ndarray) -> None:
    if len(_reads_prompt(guide)) > 1:  # some parts judge a text without what others judge
        return
    if not guide.reads_prompt:
        others = texts.prompt([texts.draw(len(row)) for row in texts.rows])
        said = np.asarray(reader.begin(texts.prompt())[0])
        clause = "what is said of a bare prompt depends on it, though the prompt is not judged"
        if texts.context is None:
            reader.same(said, np.broadcast_to(said[:1], said.shape), clause)
        reader.same(reader.begin(others)[0], said, clause)
        if not guide.taps:
            clause = "what is said depends on the prompt, though the prompt is not judged"
            reader.same(read_texts(reader, others, texts.tokens)[0], found, clause)
        return
    clause = "what init says of a text is not what evaluate says of it behind its prompt"
    check_whole(reader, texts, found, clause)


def _check_prefixes(
    guide: Discriminator,
    params: Any,
    model: tuple,
    texts: Texts,
    reader: Reader,
    found: np.ndarray,
) -> None:
    """Asks of prefixes of the first lane's texts, read as wholes behind their prompts."""
    network, network_params = model
    assert guide.evaluate_prefixes is not None
    prompt, tokens = texts.prompt(), jnp.asarray(texts.tokens[:, 0, 0], jnp.int32)
    whole = replace(
        prompt,
        tokens=jnp.concatenate([prompt.tokens, tokens], axis=1),
        mask=jnp.concatenate([prompt.mask, jnp.ones(tokens.shape, bool)], axis=1),
    )
    _, hidden, _ = jax.jit(partial(network.prefill, capacity=CAPACITY))(network_params, whole)
    lengths = np.tile(np.arange(DEPTH, 0, -1), (len(tokens), 1))
    ask = jax.jit(partial(guide.evaluate_prefixes, params))
    said = ask(prompt, tokens, jnp.asarray(lengths, jnp.int32), hidden)
    _check_log_class(said, (*lengths.shape, found.shape[-1]), "evaluate_prefixes")
    clause = "evaluate_prefixes says of a text what evaluate does not say of it token by token"
    reader.same(np.asarray(said)[:, ::-1], found[:, 0, 0], clause)
    # The tokens behind what is asked for are others.
    padded = jnp.where(jnp.arange(DEPTH)[None] < 1, tokens, jnp.roll(tokens, 1, axis=0))
    said = ask(prompt, padded, jnp.ones((len(tokens), 1), jnp.int32), hidden)
    clause = "what evaluate_prefixes says of a prefix depends on the tokens behind it"
    reader.same(np.asarray(said)[:, 0], found[:, 0, 0, 0], clause)


def _check_children(
    ask: Callable, texts: Texts, reader: Reader, found: np.ndarray, *, exact: bool
) -> None:
    """Asks of the children of the texts' first tokens, of their second tokens among others."""
    _, (_, state) = read_texts(reader, texts.prompt(), texts.tokens)
    candidates = texts.draw(*texts.tokens.shape[:3], 4)
    candidates[..., 1] = texts.tokens[..., 1]
    some = np.asarray(ask(state, texts.first, jnp.asarray(candidates, jnp.int32)))
    _check_log_class(some, (*candidates.shape, found.shape[-1]), "evaluate_children")
    every = np.asarray(ask(state, texts.first, None))
    picked = np.take_along_axis(every, candidates[..., None], axis=3)
    clause = "evaluate_children says other things of candidates than of the whole vocabulary"
    reader.same(some, picked, clause)
    if exact:
        clause = "evaluate_children says of a child what evaluate does not say once it is read"
        reader.same(some[..., 1, :], found[..., 1, :], clause)


def _check_children_of_new_root(ask: Callable, texts: Texts, reader: Reader) -> None:
    _, (_, state) = read_texts(reader, texts.prompt(), texts.tokens)
    rows = texts.tokens.shape[:2]
    before = np.asarray(ask(state, texts.first, None))[:, :, 1]
    source = np.broadcast_to([2, 2 + LANES, 2 + 2 * LANES], (*rows, DEPTH))
    state = commit(move(state, jnp.asarray(source, jnp.int32)), jnp.zeros(rows, jnp.int32))
    # The root as a node: slot 0, at depth 0 behind the committed token.
    root = nodes_of(np.zeros((*rows, 1), int), 0, committed=1)
    root = replace(root, depth=jnp.zeros_like(root.depth))
    after = np.asarray(ask(state, root, None))[:, :, 0]
    clause = "what evaluate_children says changes when the node becomes the root (move and commit)"
    reader.same(after, before, clause)


def _check_end(
    ask: Callable, model: LanguageModel, texts: Texts, reader: Reader, found: np.ndarray
) -> None:
    """A token that ends the text adds nothing to judge."""
    if not model.end_tokens:
        return
    _, (_, state) = read_texts(reader, texts.prompt(), texts.tokens)
    ends = jnp.full((*texts.tokens.shape[:3], 1), model.end_tokens[0], jnp.int32)
    said = ask(state, texts.first, ends)[..., 0, :]
    clause = "evaluate_children says of a child that ends the text what it does not say of the text"
    reader.same(said, found[..., 0, :], clause)


def _check_gradient(
    guide: Discriminator, params: Any, model: tuple, texts: Texts, reader: Reader
) -> None:
    """Checks the gradient of log p by the states that the language model has of the nodes."""
    network, network_params = model
    _, (cache, state) = reader.begin(texts.prompt())
    nodes = texts.first
    _, hidden, _ = network.extend(network_params, cache, nodes)
    direction = jax.random.normal(jax.random.key(0), hidden.shape) * jnp.std(hidden)

    @jax.jit
    def total(step: jax.Array) -> jax.Array:
        moved = replace(nodes, hidden=hidden + step * direction)
        return guide.evaluate(params, state, moved)[0][..., 0]

    check_slope(total, "evaluate", "the hidden states")
