"""Blocks against their closed form, against re-ranking, and against a network's own scores."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import blockwise, rerank
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.methods import blockwise as decoder_of_blocks
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.slots import Capacity
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from tests.decoding.calls import calls_of
from tests.decoding.toy import (
    END,
    JUDGE,
    MODEL,
    PARAMS,
    TOY,
    log_softmax,
    memory_of,
    prompt_of,
)
from tests.decoding.toy_texts import LOGITS, fits, log_p, repeated, same_row, texts_of

RUNS, TARGET = 4000, 1
KEY = jax.random.key(6)
# Texts are told apart unless the toy language itself takes them for the same.
SCORES = np.random.default_rng(0).normal(size=(TOY.states, 2)).astype(np.float32)
SHARP = {**PARAMS, "scores": jnp.asarray(SCORES)}
GIVEN = {"language_model": MODEL, "params": PARAMS}
JUDGED = {**GIVEN, "discriminator": JUDGE, "discriminator_params": SHARP}


@functools.cache
def decoder(config: BlockwiseConfig):
    return jax.jit(functools.partial(blockwise, KEY, config=config, **JUDGED))


def said(text: tuple[int, ...]) -> float:
    judged = text[:-1] if text and text[-1] == END else text
    return float(log_softmax(SCORES[memory_of([0, 1, *judged])])[TARGET])


def draw_law(text: tuple[int, ...], config: BlockwiseConfig) -> np.ndarray:
    """The probabilities with which the next token of a lane is drawn."""
    logits = LOGITS[memory_of([0, 1, *text])] / config.rules.temperature
    order = sorted(range(TOY.vocab_size), key=lambda token: (-logits[token], token))
    p = np.exp(logits) * np.isin(range(TOY.vocab_size), order[: config.rules.top_k or None])
    p /= p.sum()
    kept, mass = np.zeros_like(p), 0.0
    for token in order:
        if mass < config.rules.top_p or not mass:
            kept[token] = p[token]
        mass += p[token]
    return kept / kept.sum()


def blocks(text: tuple[int, ...], room: int, config: BlockwiseConfig):
    """Every block behind a text and its probability."""
    if room == 0 or (text and text[-1] == END):
        yield text, 1.0
        return
    for token, p in enumerate(draw_law(text, config)):
        if p > 0:
            for whole, rest in blocks((*text, token), room - 1, config):
                yield whole, p * rest


def text_law(config: BlockwiseConfig) -> dict[tuple[int, ...], float]:
    """p of every text: of n blocks the one judged best is the best of so many draws."""
    law = {(): 1.0}
    for start in range(0, config.new_tokens, config.block):
        room, longer = min(config.block, config.new_tokens - start), {}
        for text, p in law.items():
            if text and text[-1] == END:
                longer[text] = longer.get(text, 0.0) + p
                continue
            found = dict(blocks(text, room, config))
            scores = {block: round(said(block), 6) for block in found}
            for block, q in found.items():
                below = sum(other for name, other in found.items() if scores[name] < scores[block])
                same = sum(other for name, other in found.items() if scores[name] == scores[block])
                best = (below + same) ** config.of - below**config.of
                longer[block] = longer.get(block, 0.0) + p * best * q / same
        law = longer
    assert sum(law.values()) == pytest.approx(1)
    return law


@pytest.mark.parametrize(
    "config",
    [
        BlockwiseConfig(new_tokens=3, block=1, of=3, samples=2),
        BlockwiseConfig(
            new_tokens=3, block=2, of=2, samples=2, rules=Rules(temperature=1.4, top_k=4)
        ),
        BlockwiseConfig(new_tokens=3, block=3, of=3, samples=2, rules=Rules(top_p=0.9)),
        BlockwiseConfig(new_tokens=2, block=1, of=1, samples=2),
    ],
)
def test_texts_are_as_frequent_as_the_closed_form_says(config):
    got = jax.device_get(decoder(config)(repeated(RUNS), target=jnp.full(RUNS, TARGET)))
    law = text_law(config)
    counts = dict.fromkeys(law, 0)
    for run, number in itertools.product(range(RUNS), range(2)):
        counts[texts_of(got, run)[number]] += 1
    assert fits(np.asarray(list(counts.values())), np.asarray(list(law.values())))
    for run in range(40):
        for number, text in enumerate(texts_of(got, run)):
            assert got.log_prob[run, number] == pytest.approx(log_p(text), rel=1e-4)
            assert got.log_class[run, number, TARGET] == pytest.approx(said(text), rel=1e-4)
            assert got.finished[run, number] == (text[-1] == END)
    assert np.isnan(got.log_proposal).all()


@pytest.mark.parametrize("block", [4, 9])
def test_one_block_is_reranking(block):
    """The noise of a lane is that of the sample of the same number."""
    drawn = SamplingConfig(new_tokens=4, rules=Rules(temperature=1.3, top_k=4, top_p=0.95))
    best = RerankConfig(drawn.new_tokens, 2, drawn.rules, of=6)
    config = BlockwiseConfig(
        new_tokens=4,
        block=block,
        of=6,
        samples=2,
        rules=Rules(temperature=1.3, top_k=4, top_p=0.95),
    )
    prompt, target = prompt_of([0, 1], [2], [3, 3]), jnp.asarray([0, 1, 1])
    expected = jax.jit(functools.partial(rerank, KEY, config=best, **JUDGED))(prompt, target=target)
    got = decoder(config)(prompt, target=target)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    """Rows end at different steps and within their blocks."""
    rows = [[first, second] for first in range(5) for second in range(4)]
    write = decoder(BlockwiseConfig(new_tokens=12, block=3, of=2, rules=Rules(temperature=0.7)))
    together = write(prompt_of(*rows), target=jnp.asarray([0, 1] * 10))
    assert len(set(np.asarray(together.length[:, 0]).tolist())) > 3
    for row, text in enumerate(rows):
        alone = write(prompt_of(text, length=9, first=row), target=jnp.asarray([row % 2]))
        same_row(together, row, alone)


def test_what_is_written_stands_in_the_trunk():
    """A network scores the texts, read whole, as they were scored while they were written."""
    network = dataclasses.replace(TINY_LLAMA, layers=2, end_tokens=(7, 8, 9))
    model, key = language_model(network), jax.random.key(1)
    judge = CausalConfig(network, HeadConfig(("bad", "good"), network.width))
    given = {
        "language_model": model,
        "params": jax.tree.map(lambda leaf: 3 * leaf, init_decoder(key, network)),
        "discriminator": causal(judge),
        "discriminator_params": jax.tree.map(lambda leaf: 3 * leaf, init_causal(key, judge)),
    }
    config = BlockwiseConfig(new_tokens=7, block=3, of=3, samples=2)
    prompt = prompt_of([5, 6, 7], [8], [40, 3], length=3)
    write = jax.jit(functools.partial(blockwise, KEY, config=config, **given))
    got = write(prompt, target=jnp.asarray([1, 1, 0]))
    mask = jnp.arange(7)[None, None] < got.length[..., None]
    scored = model.score(given["params"], prompt, got.tokens, mask).sum(axis=-1)
    np.testing.assert_allclose(got.log_prob, scored, rtol=1e-4)
    assert (np.asarray(got.length) > 6).any()
    judged = jax.jit(functools.partial(
        given["discriminator"].init, given["discriminator_params"], capacity=Capacity(1, 1, 1)
    ))  # fmt: skip
    for row, number in itertools.product(range(3), range(2)):
        said = np.asarray(prompt.tokens[row])[np.asarray(prompt.mask[row])].tolist()
        text = [*said, *texts_of(got, row)[number]]
        whole = prompt_of(text[: len(text) - bool(got.finished[row, number])], length=10)
        expected, _ = judged(whole, None)
        np.testing.assert_allclose(got.log_class[row, number], expected[0], rtol=1e-3, atol=1e-4)


def test_what_it_costs():
    config = BlockwiseConfig(new_tokens=5, block=2, of=3, samples=2)
    assert calls_of(decoder_of_blocks, config, prompt_of([0, 1], [2])) == [(2, 2, 3)]
    got = decoder(config)(prompt_of([0, 1], [2]), target=jnp.asarray([0, 1]))
    compared = 3 * -(-np.asarray(got.length) // 2)
    np.testing.assert_array_equal(got.simulations, compared)
    assert (got.model_tokens <= 3 * 5).all() and (got.model_tokens >= 3 * got.length - 6).all()


def test_a_text_that_has_ended_in_all_its_blocks_is_done():
    """Nothing waits for the end of the block."""
    ends_at_once = {**PARAMS, "logits": PARAMS["logits"].at[:, END].set(60.0)}
    job = Job(
        prompt=prompt_of([0, 1]),
        params=ends_at_once,
        discriminator_params=SHARP,
        target=jnp.asarray([1]),
        language_model=MODEL,
        discriminator=JUDGE,
        config=BlockwiseConfig(new_tokens=4, block=4, of=3),
    )
    state, _ = jax.jit(decoder_of_blocks.advance)(KEY, job, decoder_of_blocks.begin(job))
    assert state.generation.finished.all() and int(state.generation.simulations[0, 0]) == 3


def test_without_a_judge_there_is_nothing_to_choose_by():
    with pytest.raises(UserError, match="blocks are judged by a discriminator"):
        blockwise(
            KEY, prompt_of([0]), **GIVEN, discriminator=None, target=None, config=BlockwiseConfig()
        )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"block": 0}, "block is 0 and of 16: give 1 or more"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        BlockwiseConfig().with_settings(**wrong)
