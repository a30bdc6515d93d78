"""Re-ranking against the draws that it chooses from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import beam_search, rerank, sample
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from tests.decoding.toy import JUDGE, MODEL, PARAMS, prompt_of

DRAWN = SamplingConfig(new_tokens=4, rules=Rules(top_p=0.95))
GIVEN = {"language_model": MODEL, "params": PARAMS}
JUDGED = {**GIVEN, "discriminator": JUDGE, "discriminator_params": PARAMS}
KEY = jax.random.key(7)


@pytest.mark.parametrize("alpha", [1.0, 0.6, 0.0])
def test_the_best_of_the_draws_is_kept(alpha):
    prompt, target = prompt_of([0, 1], [2], [3, 3]), jnp.asarray([0, 1, 1])
    config = RerankConfig(DRAWN.new_tokens, 2, DRAWN.rules, of=6, alpha=alpha)
    write = jax.jit(functools.partial(rerank, config=config, **JUDGED))
    got = write(KEY, prompt, target=target)
    many = dataclasses.replace(DRAWN, samples=12)
    drawn = jax.jit(functools.partial(sample, config=many, **JUDGED))(KEY, prompt)
    differs = 0
    for row, wanted in enumerate([0, 1, 1]):
        for number in range(2):
            group = slice(6 * number, 6 * number + 6)
            mean = np.asarray(drawn.log_prob / drawn.length)[row, group]
            said = np.asarray(drawn.log_class)[row, group, wanted]
            best = 6 * number + int(np.argmax(alpha * said + (1 - alpha) * mean))
            differs += best > 6 * number
            for name in ("tokens", "length", "finished", "log_prob", "log_class"):
                found, expected = getattr(got, name)[row, number], getattr(drawn, name)[row, best]
                np.testing.assert_array_equal(found, expected)
            assert int(got.model_tokens[row, number]) == drawn.length[row, group].sum()
    assert differs and np.isnan(got.log_proposal).all() and (got.simulations == 6).all()


def test_the_best_of_the_beams_is_kept():
    prompt, target = prompt_of([0, 1], [2]), jnp.asarray([0, 1])
    beams = BeamConfig(new_tokens=4, beams=6, length_penalty=0.0)
    write = jax.jit(
        functools.partial(
            rerank, config=RerankConfig(beams.new_tokens, proposal=beams, of=6), **JUDGED
        )
    )
    got = write(KEY, prompt, target=target)
    six = dataclasses.replace(beams, samples=6)
    found = jax.jit(functools.partial(beam_search, config=six, **JUDGED))(KEY, prompt)
    best = np.asarray(found.log_class)[np.arange(2), :, target].argmax(axis=1)
    assert best.any()
    for row in range(2):
        np.testing.assert_array_equal(got.tokens[row, 0], found.tokens[row, best[row]])


def test_without_a_judge_there_is_nothing_to_compare_by():
    with pytest.raises(UserError, match="re-ranking compares texts by a discriminator"):
        rerank(
            KEY, prompt_of([0]), config=RerankConfig(DRAWN.new_tokens, rules=DRAWN.rules), **GIVEN
        )
    likely = rerank(
        KEY,
        prompt_of([0]),
        config=RerankConfig(DRAWN.new_tokens, rules=DRAWN.rules, of=3, alpha=0),
        **GIVEN,
    )
    assert likely.tokens.shape == (1, 1, 4) and likely.log_class.shape == (1, 1, 0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"of": 0}, "of is 0: give 1 or more"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"proposal": BeamConfig(beams=3), "of": 4}, "4 texts are asked of 3 beams"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        RerankConfig(**wrong)
