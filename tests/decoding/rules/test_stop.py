"""The automaton of stop strings, against `str.find` on the text so far."""

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from coopgen_jax.decoding.rules.stop import DONE, StopStrings
from coopgen_jax.tokenizer import Tokenizer
from tests.byte_tokenizer import BYTES, make_tokenizer

LETTERS = "abcé€😀 \n"


def random_tokenizer(rng) -> Tokenizer:
    """One token per byte, and some of several: halves of characters are among them."""
    vocabulary = {letter: number for number, letter in enumerate(BYTES)}
    letters = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
               .pre_tokenize_str(letter)[0][0] for letter in LETTERS]  # fmt: skip
    merges, alphabet = [], sorted({unit for letter in letters for unit in letter})
    for _ in range(40):
        known = [entry for entry in vocabulary if set(entry) <= set(alphabet)]
        pair = tuple(rng.choice(known, 2))
        if "".join(pair) not in vocabulary and len("".join(pair)) < 7:
            vocabulary["".join(pair)] = len(vocabulary)
            merges.append(pair)
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(core)


def walk(stop, tokens) -> int | None:
    """Returns after how many tokens a stop string is complete, None for never."""
    state = 0
    for number, token in enumerate(tokens, start=1):
        state = stop.table[state, token]
        if state == DONE:
            return number
    return None


@pytest.mark.parametrize("seed", range(12))
def test_a_text_ends_where_str_find_says(seed):
    rng = np.random.default_rng(seed)
    tokenizer = random_tokenizer(rng)
    vocab = tokenizer.vocab_size + 3
    found = 0
    for _ in range(6):
        strings = ["".join(rng.choice(list(LETTERS), rng.integers(1, 5))) for _ in range(3)]
        stop = StopStrings.compile(strings, tokenizer, vocab)
        spelt = [part for part in tokenizer.token_bytes if part]
        letters = {byte for letter in LETTERS for byte in letter.encode()}
        ids = [number for number, part in enumerate(tokenizer.token_bytes)
               if part and set(part) <= letters]  # fmt: skip
        assert len(ids) > 20 and len(spelt) > 256
        # Text that is text, with a few halves of characters in between.
        written = "".join(rng.choice(list(LETTERS), 12))
        tokens = tokenizer.encode(written)
        tokens[4:4] = rng.choice(ids, 2).tolist()
        wanted = None
        for end in range(1, len(tokens) + 1):
            read = b"".join(tokenizer.token_bytes[token] for token in tokens[:end])
            text = read.decode(errors="replace")
            if any(text.find(string) >= 0 for string in strings):
                wanted = end
                break
        assert walk(stop, tokens) == wanted, (strings, tokens)
        found += wanted is not None
    assert found


def test_a_string_over_three_tokens_and_one_in_the_middle_of_a_token():
    tokenizer = make_tokenizer()
    stop = StopStrings.compile(("é!",), tokenizer, 258)
    tokens = tokenizer.encode("aé!")
    assert len(tokens) == 4 and walk(stop, tokens) == 4
    assert walk(stop, tokens[:-1]) is None
    # The second half of a character begins no stop string.
    assert walk(stop, tokens[2:]) is None

    core = tokenizers.Tokenizer(tokenizers.models.BPE(
        {letter: number for number, letter in enumerate(BYTES)} | {"ab": 256, "abc": 257},
        [("a", "b"), ("ab", "c")],
    ))  # fmt: skip
    core.decoder = tokenizers.decoders.ByteLevel()
    whole = Tokenizer(core)
    assert walk(StopStrings.compile(("b",), whole, 258), [257]) == 1
    assert walk(StopStrings.compile(("ca",), whole, 258), [257, 257]) == 2


def test_strings_that_overlap_and_begin_again():
    tokenizer = make_tokenizer()

    def length(strings, text):
        return walk(StopStrings.compile(strings, tokenizer, 258), tokenizer.encode(text))

    assert length(("aab",), "aaab") == 4
    assert length(("abab", "abc"), "ababc") == 4
    assert length(("abac", "ba"), "abac") == 3
    assert length(("abcd", "bc"), "abcd") == 3
    assert length(("aa", "aaaa"), "aaaa") == 2
    assert length(("ab", "ab"), "xab") == 3
    assert length(("abac",), "ababac") == 6


def test_a_token_without_text_leaves_what_has_been_read():
    """The text is read without special tokens, and a stop string in it has to end it."""
    tokenizer = make_tokenizer()
    stop = StopStrings.compile(("ab",), tokenizer, 260)
    a, b = tokenizer.encode("ab")
    assert "ab" in tokenizer.continuation([a, 257, b])
    for between in (256, 257, 258, 259):
        assert walk(stop, [a, between, b]) == 3
    assert walk(stop, [a, 257, a, 256, b]) == 5
    assert stop.table.shape == (2, 260)
    assert (stop.table[1] == DONE).sum() == 1 and stop.table[1, b] == DONE


def test_automata_are_equal_where_strings_and_vocabulary_are():
    tokenizer = make_tokenizer()
    one = StopStrings.compile(("ab",), tokenizer, 258)
    same = StopStrings.compile(("ab",), make_tokenizer(), 258)
    assert (one, hash(one)) == (same, hash(same))
    others = (
        StopStrings.compile(("ba",), tokenizer, 258),
        StopStrings.compile(("ab",), tokenizer, 259),
        StopStrings.compile(("ab",), random_tokenizer(np.random.default_rng(0)), 258),
    )
    assert all(one != other for other in others)
    assert repr(one) == "StopStrings(['ab'])"


def test_arrays_of_any_shape_are_walked_at_once():
    tokenizer = make_tokenizer()
    stop = StopStrings.compile(("ab", "b!"), tokenizer, 258)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 258, (2, 3, 4)))
    states = jnp.asarray(np.random.default_rng(1).integers(0, len(stop.table), (2, 3, 4)))
    np.testing.assert_array_equal(stop.after(states, tokens), stop.table[states, tokens])
    np.testing.assert_array_equal(stop.completes(states, tokens), stop.table[states, tokens] == -1)
    np.testing.assert_array_equal(stop.completing(states), stop.table[states] == -1)
