"""A search to judge the nodes of: its prompts, its settings, and what every node's text is."""

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.search import SearchConfig

ROWS = [[3, 4, 5], [9]]
# The search is steered by a bias, so that its trees are not flat.
CONFIG = MCTSConfig(
    new_tokens=3,
    samples=2,
    search=SearchConfig(simulations=6, wave=2, candidates=4, depth=4, reused_nodes=4),
    choice=ByVisits(visit_temperature=1.0),
)


def prompt_of(rows, length=4) -> Prompt:
    tokens = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, length - len(row) :], mask[i, length - len(row) :] = row, True
    return Prompt(jnp.asarray(tokens), jnp.asarray(mask), jnp.arange(len(rows)))


def texts_of(tree, committed):
    """Yields row, sample, node and text of every node that has one."""
    for row, sample, node in np.argwhere(np.asarray(tree.visits) > 0):
        text, above = [], int(node)
        while above > 0:
            text.insert(0, int(tree.token[row, sample, above]))
            above = int(tree.parent[row, sample, above])
        if text := [*committed[row, sample].tolist(), *text]:
            yield row, sample, node, text


def check_every_node(job, state, judged_anew, *, atol=1e-4):
    """Searches for three tokens; `judged_anew(row, text)` says of every node what it should be."""
    advance = jax.jit(decoder.advance)
    compared = 0
    for step in range(3):
        committed = np.asarray(state.generation.tokens[:, :, :step])
        state, tree = advance(jax.random.key(2), job, state)
        for row, sample, node, text in texts_of(tree, committed):
            found = tree.log_class[row, sample, node]
            np.testing.assert_allclose(found, judged_anew(row, text), atol=atol)
            compared += 1
    assert compared > 60
