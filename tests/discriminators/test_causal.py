"""A causal discriminator's cache along a tree against reading each text anew."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.head import HeadConfig, classify
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import final_norm, init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from tests.discriminators.trees import CONFIG, ROWS, check_every_node, prompt_of

START = 60
HEAD = HeadConfig(("bad", "good", "none"), TINY_GPT2.width, (16,))
JUDGES = {
    "prompt and continuation": CausalConfig(TINY_GPT2, HEAD),
    "continuation alone": CausalConfig(TINY_GPT2, HEAD, start_token=START),
}
PARAMS = init_decoder(jax.random.key(0), TINY_LLAMA)
JUDGE_PARAMS = init_causal(jax.random.key(1), JUDGES["prompt and continuation"])


def job_of(config: CausalConfig) -> Job:
    return Job(
        prompt=prompt_of(ROWS),
        language_model=language_model(TINY_LLAMA),
        params=PARAMS,
        discriminator=causal(config),
        discriminator_params=JUDGE_PARAMS,
        target=jnp.asarray([0, 1]),
        config=CONFIG,
    )


@jax.jit
def judged(tokens, mask):
    _, last, _, _ = read(TINY_GPT2, JUDGE_PARAMS["network"], tokens, mask)
    state = final_norm(TINY_GPT2, JUDGE_PARAMS["network"], last)[:, -1]
    return classify(HEAD, JUDGE_PARAMS["head"], state)[0]


def judged_anew(text: list[int]) -> np.ndarray:
    padded = prompt_of([text], 16)
    return np.asarray(judged(padded.tokens, padded.mask))


@pytest.mark.parametrize("reads", JUDGES)
def test_every_node_is_judged_as_if_read_anew(reads):
    config = JUDGES[reads]
    job = job_of(config)
    state = jax.jit(decoder.begin)(job)
    root = state.generation.log_class
    for row, tokens in enumerate(ROWS):
        bare = judged_anew(tokens) if config.start_token is None else np.full(3, -np.log(3))
        np.testing.assert_allclose(root[row, 1], bare, atol=1e-4)

    def anew(row, text):
        return judged_anew([*(ROWS[row] if config.start_token is None else [START]), *text])

    check_every_node(job, state, anew)


def test_equal_configs_make_equal_discriminators():
    again = CausalConfig(TINY_GPT2, HeadConfig(HEAD.classes, HEAD.inputs, HEAD.hidden), START)
    assert causal(JUDGES["continuation alone"]) == causal(again)
    assert causal(again) != causal(JUDGES["prompt and continuation"])
    assert not causal(again).reads_prompt


def test_the_output_layer_is_not_computed():
    """The network's logits over the vocabulary would double the cost of a small network."""
    config = dataclasses.replace(TINY_GPT2, vocab_size=5003)
    judge = CausalConfig(config, HEAD)
    job = job_of(judge).replace(discriminator_params=init_causal(jax.random.key(1), judge))
    state = jax.jit(decoder.begin)(job)
    compiled = jax.jit(decoder.advance).lower(jax.random.key(0), job, state).compile()
    # Nothing in the program is as wide as the discriminator's vocabulary but its embedding.
    wide = [
        line for line in compiled.as_text().splitlines() if ",5003]" in line or "[5003]" in line
    ]
    assert not wide, wide[:3]


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match="the head reads 7 numbers but the network's states"):
        CausalConfig(TINY_GPT2, HeadConfig(("a", "b"), 7))


@pytest.mark.parametrize("token", [-1, 61])
def test_a_start_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(ValueError, match=f"start_token is {token}: the network's tokens are 0 to"):
        CausalConfig(TINY_GPT2, HEAD, start_token=token)


def test_a_discriminator_too_short_for_the_text_is_refused():
    short = dataclasses.replace(TINY_GPT2, context=6)
    with pytest.raises(UserError, match="discriminator's context of 6"):
        jax.eval_shape(decoder.begin, job_of(CausalConfig(short, HEAD)))
    # Behind its start token alone the continuation fits.
    jax.eval_shape(decoder.begin, job_of(CausalConfig(short, HEAD, start_token=START)))
