"""The clauses that language models and discriminators share: what a node's slot may depend on.

Random texts are read as paths of a tree, again under conditions that must not matter (padding,
other rows, other slots, other lanes, tokens that have been committed), and what is found at their
tokens is compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt
from coopgen_jax.models.prompt import left_padded
from coopgen_jax.models.slots import Capacity, commit, move

# B prompts of these lengths, R samples of each, W lanes of each sample, D tokens in every lane.
LENGTHS = (5, 1, 3)
SAMPLES, LANES, DEPTH = 2, 3, 3
# Room for the texts, for nodes that are not asked about, and for what is read behind a new root.
CAPACITY = Capacity(SAMPLES, DEPTH, 1 + LANES * (DEPTH + 2))
PADDED = 8


@dataclass(frozen=True)
class Reader:
    """What is checked, as two functions; `who` is its name in messages.

    One is `prompt -> (found [B, X], state)`, the other `(state, nodes) -> (found [B, R, W, X],
    state)`. Findings may differ by a tolerance, absolutely or relative to their size.
    """

    who: str
    begin: Callable
    read: Callable
    tolerance: float

    def same(self, found: Any, expected: Any, clause: str) -> None:
        """Raises AssertionError, with the clause in it, where two findings differ."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        assert not np.isnan(found).any(), f"{self.who}: there are numbers that are NaN"
        equal = np.isclose(found, expected, rtol=self.tolerance, atol=self.tolerance)
        if not equal.all():
            difference = np.abs(found - expected)[~equal].max()
            raise AssertionError(
                f"{self.who}: {clause}; the largest difference is {difference:.3g}, and "
                f"{self.tolerance:.3g} is allowed"
            )


@dataclass(frozen=True)
class Texts:
    """Random prompts, and `tokens` `[B, R, W, D]` of a text per lane that is read behind them.

    What else is needed is drawn from the ids that are allowed: those that end no text. Prompts have
    the `context`, a pytree with leading `B`, if there is one.
    """

    rows: list[np.ndarray]
    tokens: np.ndarray
    allowed: np.ndarray
    rng: np.random.Generator
    context: Any = None

    @property
    def first(self) -> Nodes:
        """The texts' first tokens as nodes, in the slots from 1 on."""
        return nodes_of(self.tokens[..., 0], 1)

    def draw(self, *shape: int) -> np.ndarray:
        """Returns random tokens that end no text."""
        return self.rng.choice(self.allowed, shape)

    @property
    def beside(self) -> "Texts":
        """The same texts, in which all rows but the first have the context of another."""
        order = np.array([0, 2, 1])
        return replace(self, context=jax.tree.map(lambda leaf: leaf[order], self.context))

    def prompt(self, rows: list[np.ndarray] | None = None, length: int = PADDED) -> Prompt:
        """Returns the prompts, or other rows, behind padding of random tokens."""
        rows = self.rows if rows is None else rows
        tokens, mask = left_padded(rows, length)
        ids = jnp.asarray(np.where(mask, tokens, self.draw(*mask.shape)), jnp.int32)
        index = jnp.arange(len(rows))
        return Prompt(tokens=ids, mask=jnp.asarray(mask), index=index, context=self.context)


def draw_texts(
    vocab_size: int, end_tokens: tuple[int, ...], seed: int, context: Any = None
) -> Texts:
    """Returns random prompts and texts without a token that ends a text."""
    rng = np.random.default_rng(seed)
    allowed = np.setdiff1d(np.arange(vocab_size), end_tokens)
    rows = [rng.choice(allowed, length) for length in LENGTHS]
    tokens = rng.choice(allowed, (len(rows), SAMPLES, LANES, DEPTH))
    return Texts(rows, tokens, allowed, rng, context)


def nodes_of(
    tokens: np.ndarray,
    start: int,
    paths: Any = -1,
    *,
    committed: int = 0,
    terminal: Any = False,
) -> Nodes:
    """Returns nodes `[B, R, W]` behind the slots of `paths` `[..., D]`, -1 where there is none."""
    paths = np.broadcast_to(paths, (*tokens.shape, DEPTH))
    above = (paths >= 0).sum(-1)
    last = np.take_along_axis(paths, np.maximum(above - 1, 0)[..., None], -1)[..., 0]
    return Nodes(
        start=jnp.int32(start),
        token=jnp.asarray(tokens, jnp.int32),
        parent=jnp.asarray(np.where(above, last, 0), jnp.int32),
        path=jnp.asarray(paths, jnp.int32),
        depth=jnp.asarray(above + 1, jnp.int32),
        committed=jnp.full(tokens.shape[:2], committed, jnp.int32),
        terminal=jnp.broadcast_to(jnp.asarray(terminal), tokens.shape),
    )


def read_texts(
    reader: Reader,
    prompt: Prompt,
    tokens: np.ndarray,
    *,
    starts: tuple[int, ...] = (1, 1 + LANES, 1 + 2 * LANES),
    terminal: Any = False,
    state: Any = None,
) -> tuple[np.ndarray, Any]:
    """Reads texts `[B, R, W, D]` as paths, all lanes' tokens of one depth in one call.

    The nodes of each depth stand in the slots from `starts` on, and `terminal` `[W]` lanes are said
    to end. There is a state where the prompts have been read already.

    Returns:
      What is found at every token `[B, R, W, D, X]`, and the state.
    """
    if state is None:
        _, state = reader.begin(prompt)
    path = np.full((LANES, DEPTH), -1)
    found = []
    for depth, start in enumerate(starts):
        nodes = nodes_of(tokens[..., depth], start, path, terminal=terminal)
        here, state = reader.read(state, nodes)
        found.append(np.asarray(here))
        path[:, depth] = start + np.arange(LANES)
    return np.stack(found, axis=3), state


def check_record(who: str, record: LanguageModel | Discriminator) -> None:
    """Checks that a record of functions is static under jit and can read the texts."""
    try:
        hash(record)
    except TypeError as error:
        raise AssertionError(
            f"the {who} cannot be hashed ({error}), and it must be static under jit: bind its "
            "functions to a frozen config with Bound"
        ) from None
    needed = PADDED + 4 + DEPTH
    if record.context is not None:
        assert record.context >= needed, (
            f"the context is {record.context}: the check reads {needed}"
        )


def check_kinds(before: Any, after: Any, clause: str) -> None:
    """Checks that two states have the same shapes and types."""
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (before, after)]
    assert kinds[0] == kinds[1], f"{clause} of other shapes or types than it is given"


def check_whole(reader: Reader, texts: Texts, found: np.ndarray, clause: str) -> None:
    """Checks that texts that are prompts as a whole are what they are behind their prompts."""
    for sample, lane, depth in ((0, 0, 0), (1, 2, DEPTH - 1)):
        rows = [
            np.concatenate([row, texts.tokens[number, sample, lane, : depth + 1]])
            for number, row in enumerate(texts.rows)
        ]
        whole = np.asarray(reader.begin(texts.prompt(rows, PADDED + 4))[0])
        reader.same(found[:, sample, lane, depth], whole, clause)


def check_slots(reader: Reader, texts: Texts) -> np.ndarray:
    """Checks the clauses that every reader of nodes is held to; their messages name them.

    Returns:
      What is found at every token of the texts, `[B, R, W, D, X]`.
    """
    expected, _ = read_texts(reader, texts.prompt(), texts.tokens)
    _check_padding(reader, texts, expected)
    _check_neighbours(reader, texts, expected)
    _check_order(reader, texts, expected)
    _check_terminal(reader, texts, expected)
    _check_committed(reader, texts, expected)
    _check_new_root(reader, texts, expected)
    return expected


def _check_padding(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    clause = "what is found depends on the padding in front of a prompt"
    # Every prompt has other tokens as padding.
    reader.same(reader.begin(texts.prompt())[0], reader.begin(texts.prompt())[0], clause)
    wider = texts.prompt(length=PADDED + 4)
    reader.same(reader.begin(wider)[0], reader.begin(texts.prompt())[0], clause)
    reader.same(read_texts(reader, wider, texts.tokens)[0], expected, clause)


def _check_neighbours(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    others = [texts.rows[0], texts.draw(2), texts.draw(4)]
    clause = "a row's result depends on the rows beside it"
    found, _ = reader.begin(texts.beside.prompt(others))
    reader.same(found[0], reader.begin(texts.prompt())[0][0], clause)
    tokens = texts.draw(*texts.tokens.shape)
    tokens[0] = texts.tokens[0]
    beside = read_texts(reader, texts.beside.prompt(others), tokens)[0]
    reader.same(beside[0], expected[0], clause)
    for kept, clause in (
        (np.s_[:, 0], "a sample's result depends on the samples beside it"),
        (np.s_[:, :, 0], "a node's result depends on nodes that are not its ancestors"),
    ):
        tokens = texts.draw(*texts.tokens.shape)
        tokens[kept] = texts.tokens[kept]
        found, _ = read_texts(reader, texts.prompt(), tokens)
        reader.same(found[kept], expected[kept], clause)


def _check_order(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    _, state = reader.begin(texts.prompt())
    _, state = reader.read(state, nodes_of(texts.draw(*expected.shape[:3]), 1))
    turned, starts = texts.tokens[:, :, ::-1], (4 + LANES, 4, 4 + 2 * LANES)
    found, _ = read_texts(reader, texts.prompt(), turned, starts=starts, state=state)
    clause = "a node's result depends on the slots that it and its ancestors stand in"
    reader.same(found[:, :, ::-1], expected, clause)


def _check_terminal(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    ending = np.arange(LANES) > 0
    found, _ = read_texts(reader, texts.prompt(), texts.tokens, terminal=ending)
    clause = "a terminal node changes what is found at another"
    reader.same(found[:, :, 0], expected[:, :, 0], clause)


def _check_committed(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    _, state = reader.begin(texts.prompt())
    for step in range(DEPTH):
        nodes = nodes_of(texts.tokens[:, :, :1, step], 0, committed=step)
        found, state = reader.read(state, nodes)
        clause = f"a token that is read into slot 0, behind {step} committed ones, is not found as "
        reader.same(found[:, :, 0], expected[:, :, 0, step], clause + "in a path of nodes")
        state = commit(state, nodes.committed)


def _check_new_root(reader: Reader, texts: Texts, expected: np.ndarray) -> None:
    """Makes a lane's first token the root of every sample, then its second, and reads on."""
    _, state = read_texts(reader, texts.prompt(), texts.tokens)
    rows = expected.shape[:2]
    lane = texts.rng.integers(0, LANES, rows)
    chosen = np.take_along_axis(texts.tokens, lane[..., None, None], 2)[:, :, 0]
    wanted = np.take_along_axis(expected, lane[..., None, None, None], 2)[:, :, 0]
    # The lane's slots are 1 + lane, and so on for every depth; what is behind them are holes.
    source = np.stack([1 + lane + LANES * depth for depth in range(DEPTH)], -1)
    for step in range(DEPTH - 1):
        committed = jnp.full(rows, step, jnp.int32)
        state = commit(move(state, jnp.asarray(source, jnp.int32)), committed)
        # Slot 1 holds the lane's next token, and slot 2 the one behind it, if there is one.
        kept = DEPTH - 1 - step
        tokens = np.repeat(chosen[..., step + 1, None], LANES, -1)
        paths = np.full((LANES, DEPTH), -1)
        if kept > 1:
            tokens[..., 1:] = chosen[..., step + 2, None]
            paths[1:, 0] = 1
        nodes = nodes_of(tokens, 1 + kept, paths, committed=step + 1)
        found, state = reader.read(state, nodes)
        clause = f"after {step + 1} new roots (move and commit), "
        reader.same(found[:, :, 0], wanted[:, :, step + 1], clause + "a new node is not found")
        if kept > 1:
            told = clause + "a child of a node that was kept is not found as before"
            reader.same(found[:, :, 1], wanted[:, :, step + 2], told)
        source = np.broadcast_to(1 + np.arange(DEPTH), (*rows, DEPTH))
