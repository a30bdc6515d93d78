"""Random trees of tokens, and the nodes and prompts that networks read of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import unembed

D = 4


def prompt_of(rows: list[list[int]], length: int) -> Prompt:
    tokens = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, length - len(row) :] = row
        mask[i, length - len(row) :] = True
    return Prompt(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask), index=jnp.arange(len(rows)))


def nodes_of(token, parent, path, depth, *, start, committed) -> Nodes:
    token = jnp.asarray(token, jnp.int32)
    return Nodes(
        start=jnp.int32(start),
        token=token,
        parent=jnp.asarray(parent, jnp.int32),
        path=jnp.asarray(path, jnp.int32),
        depth=jnp.asarray(depth, jnp.int32),
        committed=jnp.full(token.shape[:2], committed, jnp.int32),
        terminal=jnp.zeros(token.shape, bool),
    )


@functools.partial(jax.jit, static_argnums=0)
def last_logits(config, params, tokens, mask):
    _, last, _, _ = read(config, params, tokens, mask)
    return unembed(config, params, last)[0, -1]


def full_logits(config, params, text: list[int]) -> np.ndarray:
    """Logits after a text that is read whole, without any cache."""
    prompt = prompt_of([text], 16)
    return np.asarray(last_logits(config, params, prompt.tokens, prompt.mask))


def grown_tree(rng, batch, samples, waves, wave):
    """A random tree: per wave tokens, parents, paths and depths, all `[B, R, W, ...]`."""
    texts = {(b, r): {0: ([], [])} for b in range(batch) for r in range(samples)}
    result, slot = [], 1
    for _ in range(waves):
        token = rng.integers(0, 61, (batch, samples, wave))
        parent = np.zeros((batch, samples, wave), int)
        path = np.full((batch, samples, wave, D), -1)
        depth = np.zeros((batch, samples, wave), int)
        for b in range(batch):
            for r in range(samples):
                open_nodes = [n for n, (_, p) in texts[b, r].items() if len(p) < D]
                made = {}
                for w in range(wave):
                    parent[b, r, w] = rng.choice(open_nodes)
                    tokens, ancestors = texts[b, r][parent[b, r, w]]
                    path[b, r, w, : len(ancestors)] = ancestors
                    depth[b, r, w] = len(ancestors) + 1
                    made[slot + w] = ([*tokens, token[b, r, w]], [*ancestors, slot + w])
                texts[b, r].update(made)
        result.append((token, parent, path, depth, slot))
        slot += wave
    return result, texts
