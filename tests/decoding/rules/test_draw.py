"""The draw: its frequencies, what it reports, and where a watermark takes its place."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig, Rollout
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.rules.draw import draw, entry_at
from coopgen_jax.decoding.rules.shaping import NO_RULES, Rules, Seen
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.search.config import Puct, SearchConfig
from tests.decoding.toy import JUDGE, MODEL, PARAMS, prompt_of

COUNT = 4000


def keys_of(shape, seed=0):
    return jax.random.split(jax.random.key(seed), shape)


def test_tokens_come_as_often_as_the_draw_says():
    scores = jnp.asarray([1.0, -jnp.inf, 0.3, -1.2, 2.0])
    token, log_p = draw(NO_RULES, keys_of((2, COUNT // 2)), jnp.tile(scores, (2, COUNT // 2, 1)))
    expected = np.asarray(jax.nn.softmax(scores), np.float64)
    np.testing.assert_allclose(np.exp(log_p), expected[token], rtol=1e-5)
    seen = np.bincount(np.asarray(token).ravel(), minlength=5)
    there = expected > 0
    assert seen[~there].sum() == 0
    assert stats.chisquare(seen[there], expected[there] / expected.sum() * COUNT).pvalue > 1e-3


def test_among_candidates_their_tokens_are_drawn():
    tokens = jnp.asarray([[7, 3, 9], [1, 8, 2]])
    scores = jnp.asarray([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
    many, count = jnp.tile(tokens, (COUNT // 2, 1, 1)), jnp.tile(scores, (COUNT // 2, 1, 1))
    token, log_p = draw(NO_RULES, keys_of((COUNT // 2, 2), 1), count, many)
    assert token.dtype == jnp.int32
    for row in range(2):
        p = np.asarray(jax.nn.softmax(scores[row]), np.float64)
        ids = tokens[row].tolist()
        seen = [int((token[:, row] == id_).sum()) for id_ in ids]
        assert stats.chisquare(seen, p / p.sum() * COUNT / 2).pvalue > 1e-3
        wanted = {id_: p[place] for place, id_ in enumerate(ids)}
        found = [wanted[int(id_)] for id_ in token[:, row]]
        np.testing.assert_allclose(np.exp(log_p[:, row]), found, rtol=1e-5)


def test_without_keys_the_best_is_taken_and_has_no_probability():
    scores = jnp.asarray([[[0.0, 3.0, 3.0], [1.0, -1.0, 0.0]]])
    token, log_p = draw(NO_RULES, None, scores)
    np.testing.assert_array_equal(token, [[1, 0]])
    assert np.isnan(log_p).all() and log_p.dtype == jnp.float32
    token, log_p = draw(NO_RULES, None, scores, jnp.asarray([[[5, 6, 7], [8, 9, 4]]]))
    np.testing.assert_array_equal(token, [[6, 8]])
    assert np.isnan(log_p).all()


def test_a_rows_draw_depends_on_its_key_alone():
    scores = jax.random.normal(jax.random.key(5), (3, 4, 6))
    keys = keys_of((3, 4), 2)
    token, log_p = draw(NO_RULES, keys, scores)
    for at in np.ndindex(3, 4):
        alone = draw(NO_RULES, keys[at], scores[at])
        assert (int(token[at]), float(log_p[at])) == (int(alone[0]), float(alone[1]))


def test_entry_at_picks_along_the_last_axis():
    array = jnp.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(entry_at(array, jnp.asarray([[0, 1, 2], [3, 0, 1]])),
                                  [[0, 5, 10], [15, 16, 21]])  # fmt: skip


def test_a_watermark_in_the_draw_is_given_all_there_is_and_reports_the_softmax():
    given = []

    def second(keys, scores, tokens, seen_tokens, seen_mask):
        given.append((keys, scores, tokens, seen_tokens, seen_mask))
        return jnp.ones(scores.shape[:-1], jnp.int32)

    rules = Rules(watermark=Watermark(draw=second))
    keys, scores = keys_of((2,)), jnp.asarray([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    tokens = jnp.asarray([[4, 5, 6], [9, 8, 7]])
    seen = Seen(jnp.asarray([[1, 2], [3, 4]]), jnp.ones((2, 2), bool), jnp.asarray([2, 2]))
    token, log_p = draw(rules, keys, scores, tokens, seen=seen)
    np.testing.assert_array_equal(token, [5, 8])
    np.testing.assert_allclose(log_p, jax.nn.log_softmax(scores)[:, 1], rtol=1e-6)
    token, _ = draw(rules, keys, scores, seen=seen)
    np.testing.assert_array_equal(token, [1, 1])
    assert [entry[2] is None for entry in given] == [False, True]
    for one in given:
        assert (one[0] is keys, one[1] is scores) == (True, True)
        assert one[3] is seen.tokens and one[4] is seen.mask
    # Without what stands in front, and where nothing is drawn, there is none.
    draw(rules, keys, scores)
    draw(rules, None, scores, seen=seen)
    assert len(given) == 2


def hooks_of(decoder, config) -> list[tuple[str, tuple[int, ...]]]:
    """Returns which hooks of a watermark are asked in a whole step, and for what shapes."""
    asked = []

    def logits(scores, tokens, mask):
        asked.append(("logits", scores.shape))
        return scores

    def chosen(keys, scores, tokens, seen_tokens, seen_mask):
        asked.append(("draw", scores.shape))
        return jnp.argmax(scores, axis=-1)

    rules = Rules(watermark=Watermark(logits, chosen))
    job = Job(
        prompt=prompt_of([0, 1]),
        params=PARAMS,
        discriminator_params=PARAMS,
        target=jnp.zeros(1, jnp.int32),
        language_model=MODEL,
        discriminator=JUDGE,
        config=replace(config, rules=rules),
    )
    state = jax.eval_shape(decoder.begin, job)
    jax.eval_shape(decoder.advance, jax.random.key(0), job, state)
    return asked


def test_sampling_asks_both_hooks_once_a_token():
    assert hooks_of(SAMPLING, SamplingConfig(new_tokens=3, samples=2)) == [
        ("logits", (1, 2, 5)),
        ("draw", (1, 2, 5)),
    ]


def test_roll_outs_are_never_watermarked():
    search = SearchConfig(simulations=4, wave=2, candidates=3, depth=2, reused_nodes=0, root=Puct())
    plain = MCTSConfig(new_tokens=2, search=search, choice=ByVisits())
    asked = hooks_of(MCTS, plain)
    # The root, the leaves of a wave, and the token that is written.
    assert asked == [("logits", (1, 1, 1, 5)), ("logits", (1, 1, 2, 5)), ("draw", (1, 1, 3))]
    assert hooks_of(MCTS, replace(plain, rollout=Rollout(2))) == asked
