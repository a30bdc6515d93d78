"""Plug and Play decoding against a slow reference with explicit past and central differences."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coopgen_jax.decoding.decode import pplm, sample
from coopgen_jax.decoding.methods import pplm as decoder
from coopgen_jax.decoding.methods.pplm import PPLMConfig
from coopgen_jax.decoding.methods.pplm_shift import climb, history_of, read_shifted
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.layer_layout import for_this_device, separate_layers, stored
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_LLAMA
from tests.decoding import toy
from tests.decoding.methods.pplm_jobs import (
    BAGS,
    BOTH,
    KEY,
    ROWS,
    TAPS,
    advance,
    after,
    composed,
    fused_logits,
    head_of,
    job_of,
    layers_of,
    params_of,
    reference_of,
    write,
)
from tests.decoding.methods.pplm_reference import Network, Reference, double, log_softmax
from tests.decoding.toy import prompt_of


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(
    ("family", "reads_prompt", "changes"),
    [
        ("llama", True, {}),
        ("gpt2", False, {"iterations": 1, "gamma": 1.0, "step_size": 1.0}),
        ("llama", False, {"window": 2, "decay": True}),
    ],
)
def test_the_fused_distribution_is_that_of_the_slow_reference(family, reads_prompt, changes, step):
    guide = head_of(reads_prompt=reads_prompt)
    job = job_of(BOTH.with_settings(**changes), family=family, guide=guide)
    state = after(job, step)
    found = jax.nn.log_softmax(fused_logits(job, state))
    for row, sample_number in ((0, 1), (1, 0), (2, 1)):
        slow = reference_of(
            job, state, row, sample_number, family=family, reads_prompt=reads_prompt
        )
        expected = slow.fused()
        # Steps along a normalised gradient enlarge the rounding, more on some processors.
        np.testing.assert_allclose(found[row, sample_number], expected, atol=3e-4)
        # It is no small change that is found again.
        if len(slow.text) > 1:
            assert np.abs(expected - log_softmax(slow.plain)).max() > 0.05


PARTS = {
    "discriminator": (PPLMConfig(new_tokens=2, samples=2, kl=0.0), True),
    "bags": (PPLMConfig(new_tokens=2, samples=2, kl=0.0, bags=BAGS), False),
    "divergence": (PPLMConfig(new_tokens=2, samples=2, kl=1.0), False),
}
ALL = {"all of them": (replace(BOTH, new_tokens=2), True)}


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in PARTS), *ALL]
)
def test_the_gradient_is_the_central_difference_in_random_directions(kind):
    config, asks = {**PARTS, **ALL}[kind]
    job = job_of(config, guide=head_of() if asks else None)
    state = after(job, 1)
    history = history_of(state.states[0], state.step)

    @jax.jit
    def gradient(shift):
        def total(shift):
            logits = read_shifted(job, history, shift, decoder._last(job, state))
            return decoder.objective(job, state, logits).sum()

        return jax.grad(total)(shift)

    shape = history.recent[0].shape
    # Away from zero, where the divergence has a slope.
    drawn = 0.3 * jax.random.normal(jax.random.key(1), (2, *shape))
    shift = tuple(drawn * history.inside[None, None, :, None, :, None])
    found = np.stack(gradient(shift))
    rng = np.random.default_rng(0)
    for row, sample_number in ((0, 0), (2, 1)):
        slow = reference_of(job, state, row, sample_number)
        count = slow.past.shape[2]

        def own(array, at=(row, sample_number), like=slow.past):
            newest_first = np.stack(array)[:, :, at[0], at[1], : like.shape[2]]
            return newest_first[:, :, ::-1].astype(np.float64).reshape(like.shape)

        assert count == len(ROWS[row]) and np.abs(own(found)).max() > 1e-3
        assert not found[:, :, row, sample_number, count:].any()
        for _ in range(5):
            direction = rng.normal(size=slow.past.shape)
            slope = slow.slope(own(shift), direction, 1e-5)
            np.testing.assert_allclose((own(found) * direction).sum(), slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"iterations": 0}, marks=pytest.mark.slow),
        pytest.param({"step_size": 0.0}, marks=pytest.mark.slow),
        {"fusion": 0.0},
    ],
)
def test_without_a_shift_it_is_plain_sampling(change):
    job = job_of(BOTH.with_settings(top_k=7, temperature=0.8, **change), guide=head_of())
    found = write(KEY, job)
    plain = sample(
        KEY, job.prompt, language_model=job.language_model, params=job.params,
        discriminator=job.discriminator, discriminator_params=job.discriminator_params,
        config=SamplingConfig(new_tokens=4, samples=2, rules=Rules(top_k=7, temperature=0.8)),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, found, plain)


@pytest.mark.parametrize("window", [1, 5, 40])
def test_a_shift_of_zero_changes_nothing_whatever_the_window(window):
    job = job_of(replace(BOTH, new_tokens=4))
    read = jax.jit(
        lambda state: read_shifted(
            job,
            history := history_of(state.states[0], state.step, window=window),
            jax.tree.map(jnp.zeros_like, history.recent),
            decoder._last(job, state),
        )
    )
    for step in range(4):
        state = after(job, step)
        np.testing.assert_allclose(read(state), state.logits, atol=1e-5)


@pytest.mark.slow
def test_a_window_saves_the_memory_of_repeated_prompts():
    def bytes_of(window: int) -> int:
        tokens = jnp.ones((1, 100), jnp.int32)
        config = PPLMConfig(new_tokens=4, samples=16, bags=BAGS, window=window)
        job = job_of(config, toy.Prompt(tokens, tokens > 0, jnp.arange(1)))
        program = advance.lower(KEY, job, jax.eval_shape(decoder.begin, job)).compile()
        return program.memory_analysis().temp_size_in_bytes

    repeated = 16 * 100 * 2 * TINY_LLAMA.layers * TINY_LLAMA.kv_heads * TINY_LLAMA.head_width * 4
    assert bytes_of(0) - bytes_of(4) > repeated


@pytest.mark.parametrize("guide", [layers_of, composed])
def test_a_soft_token_that_is_certain_is_judged_like_the_token(guide):
    job = job_of(replace(BOTH, bags=()).with_settings(kl=0.0), guide=guide(), target=0)
    state = after(job, 2)
    plain = job.replace(config=replace(job.config, iterations=0))
    further, _ = advance(KEY, plain, state)
    token = further.generation.tokens[:, :, 2]
    certain = jnp.where(jax.nn.one_hot(token, 61, dtype=bool), 0.0, -1e9)
    said = jax.jit(decoder.objective)(job, state, certain)
    np.testing.assert_allclose(said, further.generation.log_class[..., 0], atol=1e-5)


@pytest.mark.slow
def test_what_is_asked_for_grows():
    config = PPLMConfig(new_tokens=4, samples=8, bags=BAGS)
    job = job_of(config, guide=composed(), target=0)

    @jax.jit
    def grown(state):
        history = history_of(state.states[0], state.step)
        last = decoder._last(job, state)

        def of(shift):
            return decoder.objective(job, state, read_shifted(job, history, shift, last))

        shift = climb(of, history, iterations=3, step_size=0.02, gamma=1.0, decay=False)
        return of(shift) - of(jax.tree.map(jnp.zeros_like, shift))

    for step in (1, 3):
        gain = np.asarray(grown(after(job, step)))
        assert (gain > 0).mean() > 0.95 and gain.mean() > 0.01


def test_texts_are_drawn_as_often_as_log_proposal_says():
    config = BOTH.with_settings(new_tokens=2, samples=3000, top_k=4, iterations=1, temperature=0.6)
    job = job_of(config, prompt_of([3, 4]), guide=head_of())
    got = write(KEY, job)
    texts, inverse = np.unique(np.asarray(got.tokens[0]), axis=0, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1))
    proposal = np.asarray(got.log_proposal[0])
    p = np.array(
        [np.exp(np.float64(proposal[inverse.reshape(-1) == n][0])) for n in range(len(texts))]
    )
    for number in range(len(texts)):
        same = proposal[inverse.reshape(-1) == number]
        np.testing.assert_allclose(same, same[0], atol=1e-4)
    assert len(texts) == 16 and p.sum() == pytest.approx(1, abs=1e-3)
    assert stats.chisquare(counts, 3000 * p / p.sum()).pvalue > 1e-3
    # It is the fused distribution, cut and made sharper.
    slow = Reference(
        Network(TINY_LLAMA, double(params_of("llama"))), config, [3, 4],
        double(job.discriminator_params), TAPS, target=1,
    )  # fmt: skip
    first = slow.fused() / 0.6
    best = sorted(range(61), key=lambda token: -first[token])[:4]
    log_p = dict(zip(best, log_softmax(first[best]), strict=True))
    for token in best:
        drawn = p[texts[:, 0] == token].sum()
        assert drawn == pytest.approx(np.exp(log_p[token]), abs=1e-4)


def test_a_row_does_not_depend_on_neighbours_padding_or_finished_rows():
    ends = tuple(range(20, 40))
    config = replace(BOTH, new_tokens=5, samples=4, window=3)
    together = write(KEY, job_of(config, guide=head_of(), end_tokens=ends))
    alone = write(
        KEY, job_of(config, prompt_of(ROWS[2], length=9, first=2), guide=head_of(), end_tokens=ends)
    )
    np.testing.assert_array_equal(together.tokens[2], alone.tokens[0])
    np.testing.assert_array_equal(together.simulations[2], alone.simulations[0])
    for name in ("log_prob", "log_proposal", "log_class"):
        np.testing.assert_allclose(getattr(together, name)[2], getattr(alone, name)[0], atol=1e-3)
    length, finished = np.asarray(together.length), np.asarray(together.finished)
    assert length[2].max() > length[2].min() and finished.any() and not finished.all()
    # What has ended stays as it was, and its steps are no longer counted.
    np.testing.assert_array_equal(together.simulations, 2 * length)
    np.testing.assert_array_equal(together.model_tokens, 6 * length)
    assert np.isin(np.asarray(together.tokens)[finished, length[finished] - 1], ends).all()
    scored = job_of(config).language_model.score(
        params_of("llama"), prompt_of(*ROWS), together.tokens,
        jnp.arange(5)[None, None] < length[..., None],
    )  # fmt: skip
    np.testing.assert_allclose(together.log_prob, scored.sum(axis=-1), atol=1e-4)


def test_the_network_is_called_as_often_as_is_counted():
    job = job_of(replace(BOTH, new_tokens=1, samples=1), guide=head_of())
    calls = []

    def counted(params, cache, nodes):
        jax.debug.callback(lambda: calls.append(1))
        return job.language_model.extend(params, cache, nodes)

    for guide, reads in ((True, 6), (False, 4)):
        calls.clear()
        one = job.replace(language_model=replace(job.language_model, extend=counted))
        one = one if guide else one.replace(discriminator=None, target=None)
        got = write(KEY, one)
        jax.effects_barrier()
        assert len(calls) == reads and (np.asarray(got.model_tokens) == reads).all()


def test_greedily_the_likeliest_token_is_taken():
    job = job_of(BOTH.with_settings(temperature=0.0, iterations=1))
    state = after(job, 0)
    taken, _ = advance(KEY, job, state)
    best = np.argmax(fused_logits(job, state), axis=-1)
    np.testing.assert_array_equal(taken.generation.tokens[..., 0], best)
    assert np.isnan(taken.generation.log_proposal).all()


def test_one_trace_serves_every_target_and_prompt():
    job = job_of(replace(BOTH, samples=1, iterations=1), guide=head_of())
    once = jax.jit(chex.assert_max_traces(lambda key, job: write.__wrapped__(key, job), n=1))
    first = once(KEY, job)
    other = once(jax.random.key(9), job.replace(target=jnp.asarray([0, 1, 0])))
    assert (np.asarray(first.tokens) != np.asarray(other.tokens)).any()


def test_embeddings_in_place_of_tokens_are_read_again_as_such():
    job = job_of(replace(BOTH, samples=1, iterations=1))
    prompt = job.prompt
    vectors = job.params["embedding"][prompt.tokens]
    given = job.replace(
        prompt=replace(prompt, tokens=0 * prompt.tokens, embeddings=vectors, embedded=prompt.mask)
    )
    for step in (0, 1):
        state = after(job, step)
        np.testing.assert_allclose(fused_logits(given, state), fused_logits(job, state), atol=1e-5)


def test_a_half_precision_cache_is_shifted_all_the_same():
    job = job_of(replace(BOTH, samples=1, iterations=1))
    network = replace(TINY_LLAMA, dtype="bfloat16")
    half = job.replace(language_model=language_model(network))
    # A processor keeps float32 in its cache.
    with made_for("gpu"):
        state = after(half, 1)
        assert state.states[0].prompt_keys.dtype == jnp.bfloat16
        shifted = jax.nn.log_softmax(fused_logits(half, state))
    assert np.isfinite(shifted).all()
    whole = jax.nn.log_softmax(fused_logits(job, after(job, 1)))
    moved = np.abs(whole - jax.nn.log_softmax(after(job, 1).logits)).max()
    assert np.abs(shifted - whole).max() < 0.3 * moved


def test_gradients_go_through_layers_that_lie_as_bits():
    job = job_of(replace(BOTH, samples=1, iterations=1))
    half = job.replace(language_model=language_model(replace(TINY_LLAMA, dtype="bfloat16")))
    plain = stored(job.params, "bfloat16")
    found = []
    for params in (for_this_device(plain), separate_layers(plain)):
        given = half.replace(params=params)
        found.append(fused_logits(given, after(given, 1)))
    assert not isinstance(for_this_device(plain)["layers"], tuple)
    moved = np.abs(found[0] - after(half.replace(params=plain), 1).logits).max()
    assert np.abs(found[0] - found[1]).max() < 0.02 * moved


def test_what_cannot_be_followed_is_refused_in_a_sentence():
    plain = PPLMConfig(new_tokens=2)
    with pytest.raises(UserError, match="give a discriminator and a target, or a bag of words"):
        decoder.begin(job_of(plain))
    words = job_of(plain, guide=LoadedDiscriminator(toy.JUDGE, toy.PARAMS))
    with pytest.raises(UserError, match="has none, since it reads words"):
        decoder.begin(words)
    with pytest.raises(UserError, match="token 61 is in a bag of words"):
        decoder.begin(job_of(replace(plain, bags=((3, 61),))))
    given = {"language_model": toy.MODEL, "params": toy.PARAMS, "prompt": prompt_of([0])}
    with pytest.raises(UserError, match="cache is another: give a single"):
        pplm(KEY, config=replace(plain, bags=((1,),)), **given)
    head = head_of()
    bagged = job_of(replace(plain, bags=BAGS))
    several = combine_logits([Member(bagged.language_model)])
    params = combined_params([bagged.params], [1.0])
    assert several.embeddings is None
    with pytest.raises(UserError, match="cache is another: give a single network"):
        decoder.begin(bagged.replace(language_model=several, params=params))
    with pytest.raises(UserError, match="mixes a network's embeddings"):
        pplm(KEY, config=plain, discriminator=head.discriminator, target=jnp.asarray([1]), **given)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"new_tokens": 0}, "new_tokens is 0: give 1 or more"),
        ({"iterations": -1}, "iterations is -1"),
        ({"step_size": -0.1}, "step_size is -0.1"),
        ({"kl": float("nan")}, "kl is nan"),
        ({"fusion": 1.1}, "fusion is 1.1"),
        ({"window": -1}, "window is -1"),
        ({"decay": True}, "give a window"),
        ({"bags": ((),)}, "a bag of words is empty"),
        ({"bags": ((-1,),)}, "token ids: 0 or more"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        PPLMConfig().with_settings(**wrong)
