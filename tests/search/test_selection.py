import itertools
from functools import partial

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from mctx._src import seq_halving

from coopgen_jax.search import (
    Expansion,
    Halving,
    Puct,
    SearchConfig,
    best_child,
    new_tree,
    plant,
    search,
)
from coopgen_jax.search.halving import VISITS, schedule
from coopgen_jax.search.selection import puct

HAND = {
    "paper": ({}, [0.5 + 2 * 0.5 * 3 / 5, 2 * 0.25 * 3, -np.inf, -np.inf]),
    "parent": ({"first_play_urgency": "parent"}, [1.1, 0.4375 + 1.5, -np.inf, -np.inf]),
    "value": ({"first_play_urgency": "value"}, [1.1, 0.75 + 1.5, -np.inf, -np.inf]),
}


@pytest.mark.parametrize("case", HAND)
def test_puct_by_hand(case):
    # The root: 8 visits and one waiting choice. Candidate 0: 3 visits, value 2 in all, the waiting
    # choice went through it; 1 is not expanded; 2 waits for its value; 3 is no candidate.
    settings, expected = HAND[case]
    tree = jax.tree.map(lambda leaf: leaf[0, 0], new_tree(1, 1, 6, 4, 1))
    tree = tree.replace(
        children=tree.children.at[0].set(jnp.array([2, -1, 4, -1])),
        priors=tree.priors.at[0].set(jnp.array([0.5, 0.25, 0.125, 0])),
        visits=jnp.array([8, 0, 3, 0, 0, 0]),
        value_sum=jnp.array([3.5, 0, 2, 0, 0, 0]),
        value=jnp.array([0.75, 0, 0.5, 0, 0, 0]),
    )
    config = SearchConfig(c_puct=2.0, **settings)
    scores = puct(tree, jnp.int32(0), jnp.array([1, 0, 1, 0, 0, 0]), config=config)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("considered", [0, 1, 3, 4, 6])
def test_a_whole_search_visits_what_mctx_visits(considered):
    states, actions, simulations, c_puct = 61, 6, 40, 1.5
    rng = np.random.default_rng(0)
    prior = -np.sort(-rng.dirichlet(np.ones(actions), states)).astype(np.float32)
    roots = np.arange(5)
    # Some roots have fewer candidates than are compared; nothing leads back to them.
    prior[0, 2:], prior[1, 3:], prior[2, 5:] = 0, 0, 0
    prior /= prior.sum(axis=1, keepdims=True)
    value = rng.uniform(size=states).astype(np.float32)
    step = rng.integers(len(roots), states, (states, actions)).astype(np.int32)

    def recurrent(params, key, action, state):
        state = jnp.asarray(step)[state, action]
        out = mctx.RecurrentFnOutput(
            reward=jnp.zeros(roots.shape),
            discount=jnp.ones(roots.shape),
            prior_logits=jnp.log(prior)[state],
            value=jnp.asarray(value)[state],
        )
        return out, state

    def q_or_zero(tree, node):
        return jnp.where(tree.children_visits[node] > 0, tree.qvalues(node), 0.0)

    def select(key, tree, node, depth):
        return mctx.muzero_action_selection(
            key, tree, node, depth, pb_c_init=c_puct, pb_c_base=1e9, qtransform=q_or_zero
        )

    scaled = partial(
        mctx.qtransform_completed_by_mix_value,
        value_scale=Halving.value_scale,
        maxvisit_init=VISITS,
        rescale_values=False,
        use_mixed_value=False,
    )

    def select_at_root(key, tree, node):
        if not considered:
            return select(key, tree, node, 0)
        return mctx.gumbel_muzero_root_action_selection(
            key,
            tree,
            node,
            num_simulations=simulations,
            max_num_considered_actions=considered,
            qtransform=scaled,
        )

    @jax.jit
    def theirs():
        with jax.numpy_rank_promotion("allow"):
            root = mctx.RootFnOutput(
                prior_logits=jnp.log(prior)[roots], value=value[roots], embedding=jnp.array(roots)
            )
            return mctx.search(
                (),
                jax.random.key(0),
                root=root,
                recurrent_fn=recurrent,
                root_action_selection_fn=select_at_root,
                interior_action_selection_fn=select,
                num_simulations=simulations,
                invalid_actions=jnp.asarray(prior[roots] == 0),
                extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=jnp.zeros((len(roots), actions))),
            )

    def expansion(state):
        tokens = jnp.broadcast_to(jnp.arange(actions), (*state.shape, actions))
        log_prior = jnp.log(prior)[state]
        return Expansion(
            tokens=tokens,
            priors=jnp.asarray(prior)[state],
            log_probs=log_prior,
            log_class=log_prior[..., :1],
            value=jnp.asarray(value)[state],
            terminal=jnp.zeros(state.shape, bool),
        )

    def expand(cache, tree, leaves):
        parent = jnp.take_along_axis(cache, leaves.parent, axis=2)
        state = jnp.asarray(step)[parent, leaves.token]
        return jax.lax.dynamic_update_slice_in_dim(cache, state, leaves.start, 2), expansion(state)

    config = SearchConfig(
        simulations=simulations,
        candidates=actions,
        depth=simulations,
        c_puct=c_puct,
        reused_nodes=0,
        root=Halving(considered) if considered else Puct(early_stop=False),
    )

    @jax.jit
    def ours():
        rows = jnp.array(roots, jnp.int32)[:, None]
        tree = plant(new_tree(5, 1, config.nodes, actions, 1), expansion(rows[:, :, None]))
        cache = jnp.zeros((5, 1, config.nodes), jnp.int32).at[:, :, 0].set(rows)
        active = jnp.ones((5, 1), bool)
        return search(tree, cache, expand=expand, active=active, config=config)[0]

    their_tree, our_tree = theirs(), ours()
    np.testing.assert_array_equal(our_tree.visits[:, 0], their_tree.node_visits)
    np.testing.assert_array_equal(our_tree.children[:, 0], their_tree.children_index)
    mean = our_tree.value_sum / our_tree.visits
    np.testing.assert_allclose(mean[:, 0], their_tree.node_values, rtol=1e-5)
    assert our_tree.depth.max() > 4
    if considered:
        q = jax.vmap(partial(scaled, node_index=0))(their_tree)
        visits = their_tree.children_visits[:, 0]
        final = seq_halving.score_considered(
            visits.max(axis=1, keepdims=True),
            jnp.zeros_like(q),
            their_tree.children_prior_logits[:, 0],
            q,
            visits,
        )
        np.testing.assert_array_equal(best_child(our_tree, config=config)[:, 0], final.argmax(1))


def test_the_schedule_is_mctx_s():
    for considered, simulations in itertools.product((1, 2, 3, 5, 16, 50), (1, 7, 16, 64, 96)):
        expected = seq_halving.get_sequence_of_considered_visits(considered, simulations)
        assert schedule(considered, simulations) == list(expected)
