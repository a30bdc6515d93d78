"""Weighted sums of logits against the toy languages' tables and against uncached readings."""

import functools
import itertools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import LanguageModel
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA, ToyLanguage, toy_language_model
from tests.compiled import compiled
from tests.models.trees import D, full_logits, grown_tree, nodes_of, prompt_of

TOY = ToyLanguage()
V = TOY.vocab_size
TABLES = [TOY.tables(seed)["logits"] for seed in (1, 2, 3)]
MODEL = toy_language_model(TOY)
ROWS = [[0, 1, 2], [3], [2, 2, 0, 1]]
# The base behind a control code, the same network on a negative prompt, an expert and another.
MEMBERS = (
    Member(MODEL, 0, prefix=(3, 1), begin_tokens=1),
    Member(MODEL, 0, prefix=(2, 0, 3), reads_prompt=False),
    Member(MODEL, 1),
    Member(MODEL, 2),
)
WEIGHTS = (1.5, -0.5, 0.75, -0.75)
COMBINED = compiled(combine_logits(MEMBERS))
PARAMS = combined_params([{"logits": jnp.asarray(table)} for table in TABLES], WEIGHTS)


def memory_of(text) -> int:
    return functools.reduce(TOY.read, map(int, text), 0)


def read_by(member: Member, row: list[int], after) -> list[int]:
    """The whole text that a member has read."""
    if not member.reads_prompt:
        return [*member.prefix, *after]
    split = member.begin_tokens
    return [*row[:split], *member.prefix, *row[split:], *after]


def closed_form(row, after, weights=WEIGHTS) -> np.ndarray:
    tables = zip(weights, MEMBERS, strict=True)
    return sum(w * TABLES[m.network][memory_of(read_by(m, row, after))] for w, m in tables)


def log_softmax(x) -> np.ndarray:
    return x - np.log(np.exp(x).sum())


def wave_of(texts, length: int):
    """The nodes of all texts of a length; `texts` lists the shorter first."""
    slots = {text: slot for slot, text in enumerate(texts)}
    here = [text for text in texts if len(text) == length]
    path = [[slots[text[: d + 1]] if d + 1 < length else -1 for d in range(D)] for text in here]
    parent = [slots[text[:-1]] for text in here]

    def everywhere(array):
        return np.broadcast_to(array, (len(ROWS), 2, *np.shape(array)))

    token, parent, path = (everywhere(array) for array in ([t[-1] for t in here], parent, path))
    depth = np.full(token.shape, length)
    return here, nodes_of(token, parent, path, depth, start=slots[here[0]], committed=0)


def test_every_text_has_the_distribution_of_the_formula():
    """All texts of up to three tokens as one tree, then again behind committed tokens."""
    texts = [text for n in range(4) for text in itertools.product(range(V), repeat=n)]
    prompt = prompt_of(ROWS, 6)
    logits, _, caches = COMBINED.prefill(PARAMS, prompt, capacity=Capacity(2, 2, len(texts)))
    for b, row in enumerate(ROWS):
        np.testing.assert_array_equal(logits[b], closed_form(row, ()))
    for length in (1, 2, 3):
        here, nodes = wave_of(texts, length)
        logits, _, caches = COMBINED.extend(PARAMS, caches, nodes)
        for b, row in enumerate(ROWS):
            expected = np.stack([closed_form(row, text) for text in here])
            for sample in range(2):
                np.testing.assert_array_equal(logits[b, sample], expected)
    # Every row commits a token of its own, whose children are read once more.
    first = np.asarray([[0, 1], [2, 3], [1, 4]])
    caches = commit(move(caches, jnp.asarray(1 + first)[..., None]), jnp.zeros((3, 2), jnp.int32))
    here, nodes = wave_of(texts, 1)
    logits, _, _ = COMBINED.extend(
        PARAMS, caches, replace(nodes, committed=jnp.ones((3, 2), jnp.int32))
    )
    for b, r in np.ndindex(3, 2):
        expected = [closed_form(ROWS[b], (first[b, r], *text)) for text in here]
        np.testing.assert_array_equal(logits[b, r], np.stack(expected))


def test_score_is_normalised_at_every_token():
    texts = list(itertools.product(range(V), repeat=3))
    tokens = jnp.broadcast_to(jnp.asarray(texts), (len(ROWS), len(texts), 3))
    score = COMBINED.score
    for mask in ((1, 1, 1), (1, 1, 0), (0, 1, 1)):
        there = np.flatnonzero(mask)
        masks = jnp.broadcast_to(jnp.asarray(mask, bool), tokens.shape)
        got = score(PARAMS, prompt_of(ROWS, 6), tokens, masks)
        for b, row in enumerate(ROWS):
            for number, text in enumerate(texts):
                read, expected = [], np.zeros(3)
                for at in there:
                    expected[at] = log_softmax(closed_form(row, read))[text[at]]
                    read.append(text[at])
                np.testing.assert_allclose(got[b, number], expected, atol=1e-5)
        total = np.exp(got.sum(-1)).sum(-1) / V ** (3 - len(there))
        np.testing.assert_allclose(total, 1, rtol=1e-4)


def test_weights_make_guidance_and_experts_and_compile_nothing():
    """Gamma 1 is the prompt, 0 the negative prompt; equal experts, or alpha 0, are the base."""
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def first(params, prompt):
        return COMBINED.prefill(params, prompt, capacity=Capacity(1, 1, 1))[0]

    prompt = prompt_of(ROWS, 6)
    for gamma, alpha in itertools.product((0.0, 1.0, 1.5), (0.0, 2.0)):
        weights = (gamma, 1 - gamma, alpha, -alpha)
        params = combined_params(PARAMS["networks"], weights)
        got = first(params, prompt)
        same = first(
            {**params, "networks": (*params["networks"][:2], params["networks"][1])}, prompt
        )
        for b, row in enumerate(ROWS):
            read = [TABLES[0][memory_of(read_by(member, row, ()))] for member in MEMBERS[:2]]
            guided = gamma * read[0] + (1 - gamma) * read[1]
            np.testing.assert_array_equal(same[b], guided)
            difference = (TABLES[1] - TABLES[2])[memory_of(row)]
            np.testing.assert_array_equal(got[b], guided + alpha * difference)
            assert alpha == 0 or np.any(difference)


BASE = init_decoder(jax.random.key(0), TINY_GPT2)
EXPERT = init_decoder(jax.random.key(1), TINY_LLAMA)
NETWORKS = ((TINY_GPT2, BASE), (TINY_LLAMA, EXPERT))


def of_networks(begin_tokens: int, taps: tuple[int, ...] = ()) -> tuple[LanguageModel, tuple]:
    base, expert = language_model(TINY_GPT2, taps, chunk=4), language_model(TINY_LLAMA)
    members = (
        Member(base, 0, prefix=(7, 8, 9), begin_tokens=begin_tokens),
        Member(base, 0, prefix=(5, 4), reads_prompt=False),
        Member(expert, 1),
    )
    return compiled(combine_logits(members)), members


def uncached(members, weights, row, after) -> np.ndarray:
    parts = zip(weights, members, strict=True)
    return sum(
        w * full_logits(*NETWORKS[m.network], read_by(m, row, [int(t) for t in after]))
        for w, m in parts
    )


@pytest.mark.parametrize("begin_tokens", [0, 1])
def test_networks_are_read_as_if_by_themselves(begin_tokens):
    """Trees behind mixed prompts equal uncached readings, and again behind committed tokens."""
    model, members = of_networks(begin_tokens)
    weights = (2.0, -1.0, 0.5)
    params = combined_params((BASE, EXPERT), weights)
    rows = [[3, 4, 5, 6, 7], [9], [2, 8, 1]]
    logits, _, caches = model.prefill(params, prompt_of(rows, 8), capacity=Capacity(2, 4, 12))
    for b, row in enumerate(rows):
        np.testing.assert_allclose(logits[b], uncached(members, weights, row, ()), atol=1e-4)
    read = model.extend
    waves, texts = grown_tree(np.random.default_rng(0), 3, 2, 3, 3)
    for token, parent, path, depth, slot in waves:
        nodes = nodes_of(token, parent, path, depth, start=slot, committed=0)
        logits, _, caches = read(params, caches, nodes)
        for b, r, w in np.ndindex(3, 2, 3):
            expected = uncached(members, weights, rows[b], texts[b, r][slot + w][0])
            np.testing.assert_allclose(logits[b, r, w], expected, atol=1e-4)
    # The root's first child is committed; a new token stands behind it.
    source = np.asarray([[texts[b, r][1][1][0] for r in range(2)] for b in range(3)])
    caches = commit(move(caches, jnp.asarray(source)[..., None]), jnp.zeros((3, 2), jnp.int32))
    ones = np.ones((3, 2, 3), int)
    path = np.full((3, 2, 3, D), -1)
    nodes = nodes_of(ones * 11, ones * 0, path, ones, start=4, committed=1)
    logits, _, _ = read(params, caches, nodes)
    for b, r in np.ndindex(3, 2):
        expected = uncached(members, weights, rows[b], [*texts[b, r][1][0], 11])
        np.testing.assert_allclose(logits[b, r, 0], expected, atol=1e-4)


def test_score_reads_networks_past_what_is_masked():
    model, members = of_networks(1)
    weights = (2.0, -1.0, 0.5)
    rows, mask = [[3, 4, 5, 6], [9]], np.asarray([[[1, 1, 1]], [[0, 1, 1]]], bool)
    tokens = np.asarray([[[1, 2, 3]], [[4, 5, 6]]])
    params = combined_params((BASE, EXPERT), weights)
    got = model.score(params, prompt_of(rows, 6), jnp.asarray(tokens), jnp.asarray(mask))
    for b, row in enumerate(rows):
        read = []
        for at in range(3):
            log_p = log_softmax(uncached(members, weights, row, read))[tokens[b, 0, at]]
            expected = log_p if mask[b, 0, at] else 0.0
            np.testing.assert_allclose(got[b, 0, at], expected, atol=1e-4)
            read += [tokens[b, 0, at]] if mask[b, 0, at] else []


def test_states_are_the_bases_at_the_prompts_own_columns():
    model, _ = of_networks(1, taps=(1, 2))
    params = combined_params((BASE, EXPERT), (1.0, 1.0, 1.0))
    rows = [[3, 4, 5, 6, 7], [9], [2, 8, 1]]
    prompt = prompt_of(rows, 8)
    # Tokens that are left out (holes) leave the others where they are.
    prompt = replace(prompt, mask=prompt.mask.at[0, 5].set(False))
    rows[0].pop(2)
    _, hidden, _ = model.prefill(params, prompt, capacity=Capacity(1, 1, 1))
    alone = compiled(language_model(TINY_GPT2, (1, 2)))
    assert hidden.shape == (3, 8, 2, TINY_GPT2.width)
    for b, row in enumerate(rows):
        whole = [row[0], 7, 8, 9, *row[1:]]
        _, expected, _ = alone.prefill(BASE, prompt_of([whole], 8), capacity=Capacity(1, 1, 1))
        own = np.asarray(expected[0])[8 - len(whole) :]
        own = np.concatenate([own[:1], own[4:]])
        np.testing.assert_allclose(hidden[b][np.asarray(prompt.mask[b])], own, atol=1e-5)


def test_vectors_in_place_of_tokens_go_with_one_network():
    base = language_model(TINY_LLAMA)
    members = (
        Member(base, prefix=(7, 8), begin_tokens=1),
        Member(base, prefix=(5,), reads_prompt=False),
    )
    model = combine_logits(members)
    params = combined_params((EXPERT,), (1.5, -0.5))
    plain = prompt_of([[3, 4, 5], [6]], 4)
    vectors = jnp.zeros((2, 4, TINY_LLAMA.width)).at[0, 2].set(EXPERT["embedding"][4])
    embedded = jnp.zeros((2, 4), bool).at[0, 2].set(True)
    tokens = plain.tokens.at[0, 2].set(0)
    instead = replace(plain, tokens=tokens, embeddings=vectors, embedded=embedded)
    first = functools.partial(model.prefill, params, capacity=Capacity(1, 1, 1))
    np.testing.assert_allclose(first(instead)[0], first(plain)[0], atol=1e-5)
    with pytest.raises(UserError, match="vectors in place of tokens are those of one network"):
        of_networks(0)[0].prefill(
            combined_params((BASE, EXPERT), (1, 1, 1)), instead, capacity=Capacity(1, 1, 1)
        )


def test_equal_members_make_equal_models_with_the_bases_own_things():
    once, again = (combine_logits([replace(member) for member in MEMBERS]) for _ in range(2))
    assert again == once and hash(again) == hash(once)
    assert again != combine_logits(MEMBERS[:3])
    model, _ = of_networks(0, taps=(1,))
    assert (model.vocab_size, model.width, model.taps) == (61, TINY_GPT2.width, (1,))
    assert model.context == TINY_GPT2.context - 3
    assert COMBINED.end_tokens == MODEL.end_tokens


def test_what_cannot_be_combined_is_told():
    other = toy_language_model(ToyLanguage(vocab_size=7))
    with pytest.raises(UserError, match="has 7 tokens and the base 5"):
        combine_logits([Member(MODEL), Member(other)])
    with pytest.raises(UserError, match="nothing to combine"):
        combine_logits([])
    with pytest.raises(UserError, match="on 1 devices and the base's on 2"):
        combine_logits([Member(replace(MODEL, vocab_shards=2)), Member(MODEL)])
    with pytest.raises(UserError, match="tokens that its network lacks"):
        Member(MODEL, prefix=(5,))
    with pytest.raises(UserError, match="has an empty prefix"):
        Member(MODEL, reads_prompt=False)
    with pytest.raises(UserError, match="must be 0 or more"):
        Member(MODEL, network=-1)
    with pytest.raises(UserError, match="fills its network's context of 2"):
        Member(replace(MODEL, context=2), prefix=(1, 1))
    with pytest.raises(UserError, match="is nan: give a finite number"):
        combined_params([{}], [float("nan")])
    short = combined_params(PARAMS["networks"], WEIGHTS[:3])
    with pytest.raises(UserError, match="3 weights for 4 members"):
        COMBINED.prefill(short, prompt_of(ROWS, 6), capacity=Capacity(1, 1, 1))
