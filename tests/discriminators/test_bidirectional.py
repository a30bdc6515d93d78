"""The bidirectional discriminator against reading each text directly, one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.head import Head, HeadConfig, classify
from coopgen_jax.discriminators.host.call import SAFE_ELEMENTS
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.models.encoder import EncoderConfig, encode, init_encoder, mean_pool
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.slots import Capacity, commit, move
from coopgen_jax.tokenizer import Tokenizer

WORDS = ["good", "bad", "film", "so", "very", "caf", "é", "play", "##ed", "##ful", "p", "##lay"]
B, R, W, D, N, T = 2, 2, 3, 4, 16, 6


def source_tokenizer():
    """Bytes as tokens, and a few words, so that a token can end inside a character or a word."""
    vocabulary = {"<|endoftext|>": 0}
    for token in [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġgood", "Ġbad", "Ġfilm", "Ġpl"]:
        vocabulary[token] = len(vocabulary)
    core = tokenizers.Tokenizer(models.BPE(vocabulary, merges=[]))
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(core)


def target_tokenizer():
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return Tokenizer(core)


SOURCE = source_tokenizer()
TARGET = target_tokenizer()
ENCODER = EncoderConfig(vocab_size=16, layers=2, width=8, heads=2, ffn_width=12, context=64)
HEAD = HeadConfig(("zero", "one"), inputs=8, hidden=(6,))


def ids_of(text):
    """Ids of a text in bytes, whole words where there is a token for them."""
    ids = []
    for word in text.split(" "):
        known = SOURCE.core.token_to_id("Ġ" + word)
        ids += [known] if known is not None else byte_ids(" " + word)
    return ids


def byte_ids(text):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = byte_level.pre_tokenize_str(text)
    return [SOURCE.core.token_to_id(letter) for letter in "".join(piece for piece, _ in pieces)]


@pytest.fixture(scope="module")
def params():
    encoder = init_encoder(jax.random.key(0), ENCODER)
    # Far from the usual deviation of 0.02, so that every word shows in the result.
    encoder["embedding"]["word"] *= 50
    encoder["layers"] = {
        name: {kind: 15 * x if kind == "kernel" else x for kind, x in layer.items()}
        for name, layer in encoder["layers"].items()
    }
    return {
        "encoder": encoder,
        "head": Head(HEAD).init(jax.random.key(1), jnp.zeros((1, 8)))["params"],
    }


@partial(jax.jit, static_argnums=0)
def compiled(discriminator, params, state, nodes):
    return discriminator.evaluate(params, state, nodes)


@jax.jit
def read_alone(params, tokens):
    mask = jnp.ones(tokens.shape, bool)
    pooled = mean_pool(encode(ENCODER, params["encoder"], tokens, mask), mask)
    return classify(HEAD, params["head"], pooled)[0]


def config(width=20, reads_prompt=False):
    crossing = Crossing(SOURCE, TARGET, width=width)
    crossing.reset()
    return BidirectionalConfig(ENCODER, HEAD, crossing, reads_prompt)


def direct(params, text, width=20):
    """The class log-probabilities of one text, read alone without padding."""
    pieces = TARGET.encode(text, special=True)
    if len(pieces) == 2:
        return np.log([0.5, 0.5])
    pieces = [pieces[0], *pieces[1:-1][-(width - 2) :], pieces[-1]]
    return np.asarray(read_alone(params, jnp.asarray([pieces])))


def make_prompt(texts=("very good", "bad")):
    rows = [ids_of(text) for text in texts]
    length = max(map(len, rows)) + 2
    tokens = np.full((len(rows), length), 5, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for place, row in enumerate(rows):
        tokens[place, length - len(row) :] = row
        mask[place, length - len(row) :] = True
    return Prompt(jnp.asarray(tokens), jnp.asarray(mask), jnp.arange(len(rows)))


def make_nodes(start, tokens, parents, paths, committed=0, terminal=False):
    """The same `W` nodes in every row; `tokens` can also be `[B, R, W]`."""
    rows = (B, R, W)
    padded = [[*path, *[-1] * (D - len(path))] for path in paths]
    return Nodes(
        start=jnp.int32(start),
        token=jnp.broadcast_to(jnp.asarray(tokens, jnp.int32), rows),
        parent=jnp.broadcast_to(jnp.asarray(parents, jnp.int32), rows),
        path=jnp.broadcast_to(jnp.asarray(padded, jnp.int32), (*rows, D)),
        depth=jnp.broadcast_to(jnp.asarray([len(path) + 1 for path in paths]), rows),
        committed=jnp.full((B, R), committed, jnp.int32),
        terminal=jnp.broadcast_to(jnp.asarray(terminal), rows),
    )


def started(discriminator, params, **capacity):
    room = Capacity(samples=R, trunk=T, nodes=N)
    return discriminator.init(params, make_prompt(), jnp.zeros((B, 1, 0, 1)), capacity=room)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, atol=2e-5)


TOKEN = {word: SOURCE.core.token_to_id("Ġ" + word) for word in ("good", "bad", "film", "pl")}


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_equals_reading_each_text_through_moves_and_commits(params, reads_prompt):
    discriminator = bidirectional(config(reads_prompt=reads_prompt))
    prompts = ("very good ", "bad ") if reads_prompt else ("", "")
    log_class, state = started(discriminator, params)
    for row in range(B):
        close(log_class[row], direct(params, prompts[row]))
    evaluate = partial(compiled, discriminator)

    tokens = np.array([[["good", "bad", "film"], ["film", "bad", "good"]]] * B)
    ids = np.vectorize(TOKEN.get)(tokens)
    log_class, state = evaluate(params, state, make_nodes(1, ids, [0, 0, 0], [[], [], []]))
    for index in np.ndindex(B, R, W):
        close(log_class[index], direct(params, prompts[index[0]] + tokens[index]))

    # One child of node 3, one of node 1, one of the root.
    nodes = make_nodes(4, [TOKEN["bad"], TOKEN["good"], TOKEN["pl"]], [3, 1, 0], [[3], [1], []])
    log_class, state = evaluate(params, state, nodes)
    for b, r in np.ndindex(B, R):
        close(log_class[b, r, 0], direct(params, f"{prompts[b]}{tokens[b, r, 2]} bad"))
        close(log_class[b, r, 1], direct(params, f"{prompts[b]}{tokens[b, r, 0]} good"))
        close(log_class[b, r, 2], direct(params, f"{prompts[b]}pl"))

    # Node 3 becomes the root and is committed; its child 4 becomes node 1.
    source = jnp.broadcast_to(jnp.array([3, 4]), (B, R, 2))
    state = commit(move(state, source), jnp.zeros((B, R), jnp.int32))
    nodes = make_nodes(2, [TOKEN["film"]] * 3, [1, 0, 0], [[1], [], []], committed=1)
    log_class, state = evaluate(params, state, nodes)
    for b, r in np.ndindex(B, R):
        close(log_class[b, r, 0], direct(params, f"{prompts[b]}{tokens[b, r, 2]} bad film"))
        close(log_class[b, r, 1], direct(params, f"{prompts[b]}{tokens[b, r, 2]} film"))


def test_rows_do_not_depend_on_each_other(params):
    discriminator = bidirectional(config())
    _, state = started(discriminator, params)
    ids = np.full((B, R, W), TOKEN["good"])
    changed = ids.copy()
    changed[1] = TOKEN["film"]
    before, after = (
        compiled(discriminator, params, state, make_nodes(1, tokens, [0] * 3, [[]] * 3))[0]
        for tokens in (ids, changed)
    )
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    assert np.abs(np.asarray(before[1] - after[1])).max() > 1e-3


def test_compiled_equals_uncompiled_and_two_loads_share_a_trace(params):
    traces = []

    @partial(jax.jit, static_argnums=0)
    def evaluate(discriminator, params, state, nodes):
        traces.append(discriminator)
        return discriminator.evaluate(params, state, nodes)[0]

    nodes = make_nodes(1, list(TOKEN.values())[:3], [0, 0, 0], [[], [], []])
    first, second = (
        bidirectional(
            BidirectionalConfig(
                ENCODER, HEAD, Crossing(source_tokenizer(), target_tokenizer(), width=20)
            )
        )
        for _ in range(2)
    )
    _, state = started(first, params)
    log_class = evaluate(first, params, state, nodes)
    close(log_class, first.evaluate(params, state, nodes)[0])
    close(log_class, evaluate(second, params, state, nodes))
    assert len(traces) == 1
    assert Crossing(SOURCE, TARGET, width=20) != Crossing(SOURCE, TARGET, width=21)


def test_known_texts_are_not_encoded_again(params, monkeypatch):
    # A width of its own: a program compiled earlier would keep the crossing it was compiled with.
    settings = config(width=19)
    discriminator = bidirectional(settings)
    _, state = started(discriminator, params)
    encoded = []
    original = settings.crossing._function
    monkeypatch.setattr(
        settings.crossing, "_function", lambda texts: encoded.extend(texts) or original(texts)
    )
    nodes = make_nodes(1, [TOKEN["good"], TOKEN["bad"], TOKEN["good"]], [0] * 3, [[]] * 3)
    first, _ = compiled(discriminator, params, state, nodes)
    first.block_until_ready()
    again, _ = compiled(discriminator, params, state, nodes)
    again.block_until_ready()
    assert sorted(encoded) == [" bad", " good"]
    counts = settings.crossing.counts
    assert (counts.calls, counts.texts, counts.hits) == (2, 2 * B * R * W, 2 * B * R * W - 2)
    assert counts.seconds > 0
    np.testing.assert_array_equal(first, again)


def test_memory_is_bounded_and_forgets_the_oldest():
    crossing = Crossing(SOURCE, TARGET, width=8, remember=2)
    good, bad, film = (np.array([[[TOKEN[word]]]]) for word in ("good", "bad", "film"))
    common = np.zeros((1, 0), np.int64)
    for ids in (good, bad, good, film):
        crossing.host(common, ids)
    assert len(crossing._memory.rows) == 2
    crossing.host(common, good)
    crossing.host(common, bad)
    assert (crossing.counts.texts, crossing.counts.hits) == (6, 2)
    # More texts at once than are remembered still all come back.
    pieces = crossing.host(common, np.concatenate([good, bad, film], axis=1))
    assert pieces[0, :, 1].tolist() == [TARGET.encode(w)[0] for w in ("good", "bad", "film")]
    assert (pieces >= 0).sum(-1).tolist() == [[3, 3, 3]]


def test_texts_can_end_inside_a_word_or_a_character():
    crossing = Crossing(SOURCE, TARGET, width=8)
    accented = byte_ids("café")
    assert len(accented) == 5
    common = np.zeros((1, 0), np.int64)

    def read(ids):
        pieces = crossing.host(common, np.array([[ids]]))[0, 0]
        return pieces[pieces >= 0].tolist()

    assert read([TOKEN["good"], TOKEN["pl"]]) == TARGET.encode("good pl", special=True)
    assert read([TOKEN["pl"], *byte_ids("ayed")]) == TARGET.encode("played", special=True)
    assert read(accented[:4]) == TARGET.encode("caf", special=True)
    assert read(accented) == TARGET.encode("café", special=True) != read(accented[:4])
    # Three of the four bytes of a character.
    assert read([TOKEN["bad"], *byte_ids("😀")[:3]]) == TARGET.encode("bad", special=True)


def test_long_texts_keep_their_end(params):
    width = 6
    crossing = Crossing(SOURCE, TARGET, width=width)
    words = ["good", "bad", "film", "bad", "bad", "good"]
    ids = np.array([[[TOKEN[word] for word in words]]])
    pieces = crossing.host(np.zeros((1, 0), np.int64), ids)
    assert pieces.shape == (1, 1, width)
    kept = TARGET.encode(" ".join(words[-4:]), special=True)
    assert pieces[0, 0].tolist() == kept


def test_the_end_of_a_text_adds_none_to_it(params):
    settings = config()
    discriminator = bidirectional(settings)
    _, state = started(discriminator, params)
    nodes = make_nodes(1, [TOKEN["good"]] * 3, [0] * 3, [[]] * 3)
    _, state = compiled(discriminator, params, state, nodes)
    # Even an ordinary token adds nothing where it ends the text.
    ends = [True, True, False]
    nodes = make_nodes(4, [TOKEN["bad"], 0, TOKEN["bad"]], [1, 0, 1], [[1], [], [1]], 0, ends)
    log_class, _ = compiled(discriminator, params, state, nodes)
    close(log_class[0, 0, 0], direct(params, "good"))
    close(log_class[0, 0, 1], np.log([0.5, 0.5]))
    close(log_class[0, 0, 2], direct(params, "good bad"))


def test_large_arguments_cross_in_a_loop_that_keeps_the_device_busy(params):
    """Long arguments cross over in parts, which have to be put together in their order."""
    crossing = Crossing(SOURCE, TARGET, width=8)
    width = SAFE_ELEMENTS // 2
    own = jnp.full((1, 1, 4, width), -1, jnp.int32).at[..., 0].set(TOKEN["film"])
    own = own.at[0, 0, 3, -1].set(TOKEN["bad"])

    @jax.jit
    def loop(own):
        def step(carry, _):
            square, own = carry
            pieces = crossing(jnp.zeros((1, 1, 0), jnp.int32), own)
            count = jnp.sum(pieces >= 0, axis=-1)
            square = jnp.tanh(square @ square + pieces[0, 0, 0, 1])
            return (square, own + 0 * count[..., None]), count

        return jax.lax.scan(step, (jnp.eye(200), own), None, length=20)[1]

    assert np.asarray(loop(own)).tolist() == [[[[3, 3, 3, 4]]]] * 20


def test_widths_too_small_are_refused():
    with pytest.raises(ValueError, match="width of 2 leaves no room"):
        Crossing(SOURCE, TARGET, width=2)
