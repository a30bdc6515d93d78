"""Objectives of batches against the discriminators and the language model that they train."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.data.batches import pad
from coopgen_jax.discriminators import shared_trunk as trunk
from coopgen_jax.discriminators import trunk_layers as layers
from coopgen_jax.discriminators.bidirectional import EncoderJudge, read_pieces
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig
from coopgen_jax.discriminators.trunk_layers import (
    Queries,
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from coopgen_jax.training.decisions import decision_table
from coopgen_jax.training.objectives import (
    _behind_a_prompt,
    classification_loss,
    encoder_classification_loss,
    gedi_loss,
    language_model_loss,
    look_ahead_loss,
    trunk_classification_loss,
)
from coopgen_jax.training.searched_texts import Found, SearchedText
from tests.compiled import compiled
from tests.discriminators.trees import prompt_of
from tests.training.token_by_token import judged

ROWS = [[3, 4, 5], [9], [10, 11, 12, 13, 14]]
LABELS = [0, 1, 2]
CLASSES = ("a", "b", "c")
# One empty row, which must weigh nothing.
BATCH = jax.tree.map(jnp.asarray, pad([*ROWS, []], [*LABELS, 0], np.arange(4)))
KEY = jax.random.key(0)


def test_a_judges_loss_is_what_it_says_of_the_texts():
    config = CausalConfig(TINY_GPT2, HeadConfig(CLASSES, TINY_GPT2.width, (8,)), start_token=60)
    params = init_causal(jax.random.key(1), config)
    sums = jax.jit(classification_loss(config, training=False))(params, None, BATCH, KEY)
    said = [judged(causal(config), params, row) for row in ROWS]
    expected = -sum(log_class[label] for log_class, label in zip(said, LABELS, strict=True))
    assert float(sums["loss"][0]) == pytest.approx(expected, abs=1e-4)
    hits = sum(int(np.argmax(row)) == label for row, label in zip(said, LABELS, strict=True))
    assert [float(x) for x in sums["accuracy"]] == [hits, 3]


def test_a_causal_judge_may_learn_from_every_beginning():
    config = CausalConfig(TINY_GPT2, HeadConfig(CLASSES, TINY_GPT2.width, (8,)), start_token=60)
    params = init_causal(jax.random.key(1), config)
    loss = jax.jit(classification_loss(config, training=False, prefixes=True))
    sums, whole = (
        loss(params, None, BATCH, KEY),
        jax.jit(classification_loss(config, training=False))(params, None, BATCH, KEY),
    )
    expected = 0.0
    for row, label in zip(ROWS, LABELS, strict=True):
        said = [judged(causal(config), params, row[:n])[label] for n in range(1, len(row) + 1)]
        expected -= np.mean(said)
    assert float(sums["loss"][0]) == pytest.approx(expected, abs=1e-4)
    assert float(sums["loss"][0]) != pytest.approx(float(whole["loss"][0]), abs=1e-3)
    assert float(sums["accuracy"][0]) == float(whole["accuracy"][0])


def test_dropout_is_a_rows_own_whatever_is_beside_it():
    head = HeadConfig(CLASSES, TINY_GPT2.width, (8,), dropout=0.5)
    config = CausalConfig(TINY_GPT2, head, start_token=60)
    params = init_causal(jax.random.key(1), config)
    loss = jax.jit(classification_loss(config))
    whole = float(loss(params, None, BATCH, KEY)["loss"][0])
    parts = [
        float(loss(params, None, jax.tree.map(lambda x, r=r: x[r : r + 1], BATCH), KEY)["loss"][0])
        for r in range(3)
    ]
    assert whole == pytest.approx(sum(parts), abs=1e-4)
    assert whole != float(loss(params, None, BATCH, jax.random.key(1))["loss"][0])


def test_a_writers_loss_is_the_mean_over_tokens_that_score_gives():
    params = init_decoder(jax.random.key(2), TINY_LLAMA)
    total, weight = jax.jit(language_model_loss(TINY_LLAMA))(params, None, BATCH, KEY)["loss"]
    model, expected = compiled(language_model(TINY_LLAMA)), 0.0
    for row in ROWS:
        if len(row) > 1:
            tokens = jnp.asarray([[row[1:]]])
            inside = jnp.ones(tokens.shape, bool)
            log_p = model.score(params, prompt_of([row[:1]], 1), tokens, inside)
            expected -= float(log_p.sum())
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(weight) == 2 + 0 + 4


def test_gedis_loss_is_that_of_what_the_generative_discriminator_says():
    config = GenerativeConfig(TINY_GPT2, CLASSES, ((7,), (8, 9, 10), (11, 12)))
    network = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(3), TINY_GPT2))
    params = generative_params(network, 3, prior=[1, 2, 3], scale=1.3)
    loss = jax.jit(gedi_loss(config, class_weight=0.4))
    sums = {name: float(x[0]) for name, x in loss(params, None, BATCH, KEY).items()}
    said = [judged(generative(config), params, row) for row in ROWS]
    judging = -sum(log_class[label] for log_class, label in zip(said, LABELS, strict=True))
    assert sums["class_loss"] == pytest.approx(judging, abs=1e-3)
    model, writing = compiled(language_model(TINY_GPT2)), 0.0
    for row, label in zip(ROWS, LABELS, strict=True):
        tokens = jnp.asarray([[row]])
        front = prompt_of([list(config.prefixes[label])], len(config.prefixes[label]))
        log_p = model.score(network, front, tokens, jnp.ones(tokens.shape, bool))
        writing -= float(log_p.mean())
    assert sums["language_loss"] == pytest.approx(writing, abs=1e-3)
    assert sums["loss"] == pytest.approx(0.4 * judging + 0.6 * writing, abs=1e-3)


def test_gedis_loss_is_refused_for_products():
    config = GenerativeConfig(TINY_GPT2, CLASSES, ((7,), (8,), (9,)), mean=False)
    with pytest.raises(UserError, match="that of mean likelihoods"):
        gedi_loss(config)


def test_an_empty_row_has_no_gradient():
    config = dataclasses.replace(TINY_GPT2, layers=1)
    judge = CausalConfig(config, HeadConfig(CLASSES, config.width, ()), start_token=60)
    params = init_causal(jax.random.key(1), judge)
    short = jax.tree.map(lambda x: x[:3], BATCH)
    loss = classification_loss(judge)
    gradient = jax.jit(jax.grad(lambda params, batch: loss(params, None, batch, KEY)["loss"][0]))
    both = [gradient(params, batch) for batch in (BATCH, short)]
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_in_bfloat16_weights_and_gradients_stay_float32_and_point_the_same_way():
    config = dataclasses.replace(TINY_LLAMA, layers=1)
    head = HeadConfig(CLASSES, config.width, ())
    params = init_causal(jax.random.key(1), CausalConfig(config, head, start_token=60))
    found = {}
    for dtype in ("float32", "bfloat16"):
        judge = CausalConfig(dataclasses.replace(config, dtype=dtype), head, start_token=60)
        loss = classification_loss(judge, training=False)
        found[dtype] = jax.jit(
            jax.value_and_grad(lambda p, loss=loss: loss(p, None, BATCH, KEY)["loss"][0])
        )(params)
    (exact, whole), (near, rounded) = found["float32"], found["bfloat16"]
    assert near != exact and float(near) == pytest.approx(float(exact), rel=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    one, other = (
        jnp.concatenate(list(map(jnp.ravel, jax.tree.leaves(g)))) for g in (whole, rounded)
    )
    cosine = one @ other / (jnp.linalg.norm(one) * jnp.linalg.norm(other))
    assert float(cosine) > 0.99


def test_a_bidirectional_judges_loss_is_what_it_says_of_the_pieces(tiny_encoder):
    encoder, width = tiny_encoder.config, tiny_encoder.config.width
    head = HeadConfig(CLASSES, width, (4,))
    drawn = Head(head).init(jax.random.key(1), jnp.zeros((1, width)))["params"]
    params = {"encoder": tiny_encoder.params, "head": jax.tree.map(lambda leaf: 3 * leaf, drawn)}
    rows = [[3, 4, 5], [5], [4, 4, 3, 3, 5]]
    batch = jax.tree.map(jnp.asarray, pad([*rows, []], [*LABELS, 0], np.arange(4)))
    loss = jax.jit(encoder_classification_loss(encoder, head, (1, 2), training=False))
    sums = loss(params, None, batch, KEY)
    judge = EncoderJudge(encoder, head)
    pieces = np.full((3, 8), -1, np.int32)
    for place, row in enumerate(rows):
        pieces[place, : len(row) + 2] = [1, *row, 2]
    tokens = jnp.asarray(pieces)
    said = np.asarray(read_pieces(judge, params, jnp.maximum(tokens, 0), tokens >= 0))
    expected = -sum(row[label] for row, label in zip(said, LABELS, strict=True))
    assert float(sums["loss"][0]) == pytest.approx(expected, abs=1e-4)
    hits = sum(int(np.argmax(row)) == label for row, label in zip(said, LABELS, strict=True))
    assert [float(x) for x in sums["accuracy"]] == [hits, 3]


STATES = jax.random.normal(jax.random.key(8), (40, 2, 16))
TABLES = {
    "states": STATES,
    "tokens": jnp.arange(40) % 7,
    "embedding": jax.random.normal(jax.random.key(9), (7, 16)),
}
SMALL = small_network(layers=1, width=32, context=20)
TRUNKS = {
    "layers": TrunkLayersConfig((1, 2), 16, SMALL, HeadConfig(CLASSES, 32), look_ahead=4),
    "features": SharedTrunkConfig((1, 2), False, HeadConfig(CLASSES, 64, (8,))),
}


def trunk_params(config):
    if isinstance(config, TrunkLayersConfig):
        return init_trunk_layers(jax.random.key(1), config)
    return Head(config.head).init(jax.random.key(1), jnp.zeros((1, 64)))["params"]


@pytest.mark.parametrize("name", TRUNKS)
def test_a_shared_trunks_loss_is_the_mean_over_every_beginning(name):
    config = TRUNKS[name]
    params = trunk_params(config)
    sums = jax.jit(trunk_classification_loss(config, training=False))(params, TABLES, BATCH, KEY)
    judge_texts = jax.jit((layers if name == "layers" else trunk).judge_texts, static_argnums=0)
    total = ahead = hits = 0.0
    for row, label in zip(ROWS, LABELS, strict=True):
        states, inside = STATES[jnp.asarray(row)][None], jnp.ones((1, len(row)), bool)
        if name == "layers":
            said, own = judge_texts(config, params, states, inside)
            asked = Queries(3, 4).apply({"params": params["queries"]}, own)[0]
            # State 0 is the start vector's: every token is asked about in front of it.
            for at, token in enumerate(row):
                key = TABLES["embedding"][token % 7] @ params["keys"]
                logits = asked[at, :, :-1] @ key + asked[at, :, -1]
                ahead -= jax.nn.log_softmax(logits)[label] / len(row)
        else:
            said = judge_texts(config, params, states, inside)
        total -= said[0, :, label].mean()
        hits += int(jnp.argmax(said[0, -1])) == label
    assert float(sums["loss"][0]) == pytest.approx(float(total + ahead), abs=1e-4)
    assert float(sums["loss"][1]) == 3
    assert [float(x) for x in sums["accuracy"]] == [hits, 3]
    assert ("ahead_loss" in sums) == (name == "layers")


def with_a_searched_text():
    config = TRUNKS["layers"]
    params = trunk_params(config)
    # The third text was searched: its tokens have decisions.
    texts = [
        SearchedText(
            "", CLASSES[1], ROWS[2], [0.2, 0.5, 0.3], [Found([1, 4], [2, 1], [0.9, 0.2])] * 5
        )
    ]
    found = decision_table(texts, CLASSES, np.asarray(TABLES["embedding"]), ROWS[2][0])
    row = np.zeros(40, np.int32)
    row[ROWS[2]] = 1 + np.arange(len(ROWS[2]))
    tables = {**TABLES, "searched": jax.tree.map(jnp.asarray, {**found, "row": row})}
    return config, params, tables


def test_searched_texts_add_the_loss_of_what_was_found():
    config, params, tables = with_a_searched_text()
    plain = trunk_classification_loss(config, training=False)(params, TABLES, BATCH, KEY)
    both = trunk_classification_loss(config, training=False)(params, tables, BATCH, KEY)
    alone = look_ahead_loss(config)(params, tables, BATCH, KEY)["loss"]
    assert float(alone[1]) == 1
    np.testing.assert_allclose(both["searched_loss"], alone, rtol=1e-6)
    total = float(plain["loss"][0] + alone[0])
    assert float(both["loss"][0]) == pytest.approx(total, rel=1e-6)
    assert float(both["loss"][1]) == float(plain["loss"][1])
    # Such a text stands behind a prompt already: none of its tokens plays one.
    plainly = dataclasses.replace(config, head=dataclasses.replace(config.head, dropout=0.0))
    cut = trunk_classification_loss(plainly, training=True, before=9)
    for seed in range(4):
        sums = cut(params, tables, BATCH, jax.random.key(seed))
        np.testing.assert_allclose(sums["searched_loss"], alone, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_token_that_ends_a_searched_text_is_not_classified(training):
    config, params, tables = with_a_searched_text()
    config = dataclasses.replace(config, head=dataclasses.replace(config.head, dropout=0.0))
    ends = (ROWS[2][-1] % 7,)
    loss = trunk_classification_loss(config, training=training, before=1, ends=ends)
    sums = loss(params, tables, BATCH, KEY)
    whole = trunk_classification_loss(config, training=training, before=1)
    reads = whole(params, tables, BATCH, KEY)
    cut = jax.tree.map(jnp.asarray, pad([*ROWS[:2], ROWS[2][:-1], []], [*LABELS, 0], np.arange(4)))
    shorter = whole(params, tables, cut, KEY)
    # The decision in front of it is learned from, and all else is as if it were not there.
    np.testing.assert_allclose(sums["searched_loss"], reads["searched_loss"], rtol=1e-6)
    np.testing.assert_array_equal(sums["accuracy"], shorter["accuracy"])
    np.testing.assert_allclose(sums["ahead_loss"], shorter["ahead_loss"], rtol=1e-5)
    own, wanted = (x["loss"][0] - x["searched_loss"][0] for x in (sums, shorter))
    assert float(own) == pytest.approx(float(wanted), rel=1e-5)
    assert float(reads["loss"][0]) != pytest.approx(float(sums["loss"][0]), rel=1e-3)


def test_a_prompt_of_random_length_stands_in_front_of_a_training_text():
    inside = jnp.arange(16) < 9
    drawn = jax.vmap(lambda key: _behind_a_prompt(inside, key, before=4))(
        jax.random.split(KEY, 400)
    )
    firsts = np.asarray(jnp.argmax(drawn, axis=-1))
    np.testing.assert_array_equal(drawn.sum(axis=-1), 9 - firsts)
    # Two of five begin with the text, and of the others one in four.
    shares = np.bincount(firsts, minlength=5) / 400
    np.testing.assert_allclose(shares, [0.55, 0.15, 0.15, 0.15, 0], atol=0.08)
    # A text shorter than that keeps its last token; an empty row stays empty.
    short = jax.vmap(lambda key: _behind_a_prompt(jnp.arange(4) < 2, key, before=12))(
        jax.random.split(KEY, 50)
    )
    assert short[:, 1].all() and not short[:, 2:].any()
    assert not _behind_a_prompt(jnp.zeros(4, bool), KEY, before=12).any()
