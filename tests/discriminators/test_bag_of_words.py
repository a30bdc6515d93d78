"""A bag of words against counting words in strings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from coopgen_jax.discriminators.bag_of_words import bag_of_words, single_tokens
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Nodes, Prompt
from coopgen_jax.models.slots import Capacity, move
from coopgen_jax.tokenizer import Tokenizer


def trained_tokenizer() -> Tokenizer:
    """A byte-level vocabulary in which "good" and "film" are one token, "plum" several."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["so good a bad film, a good bad film is good"] * 9, trainer)
    return Tokenizer(core)


SOURCE = trained_tokenizer()
WORDS = ["good", "bad film", "plum"]
LEAK, STRENGTH = 0.1, 0.4
(GOOD,), (FILM,), (Y,) = map(SOURCE.encode, (" good", " film", "y"))


def bag(**changes):
    return bag_of_words(WORDS, tokenizer=SOURCE, leak=LEAK, strength=STRENGTH, **changes)


def present(text: str) -> float:
    """p(present), by whole words that stand behind a space, whatever their case."""
    pattern = "|".join(rf"(?<= ){re.escape(word)}(?![^\W_])" for word in WORDS)
    forms = {form for w in WORDS for form in (w, w.upper(), w.capitalize())}
    count = sum(match in forms for match in re.findall(pattern, text, re.IGNORECASE))
    return 1 - (1 - LEAK) * (1 - STRENGTH) ** count


def node(start, tokens, parents, terminal=False):
    rows = (1, 1, len(tokens))
    return Nodes(
        start=jnp.int32(start),
        token=jnp.asarray(tokens, jnp.int32).reshape(rows),
        parent=jnp.asarray(parents, jnp.int32).reshape(rows),
        path=jnp.full((*rows, 1), -1),
        depth=jnp.ones(rows, jnp.int32),
        committed=jnp.zeros((1, 1), jnp.int32),
        terminal=jnp.full(rows, terminal),
    )


def prompt_of(text):
    ids = SOURCE.encode(text or "x")
    tokens = jnp.asarray([[5, *ids]])
    return Prompt(tokens, jnp.asarray([[False] + [True] * len(ids)]), jnp.zeros(1, jnp.int32))


def begun(judge, prompt="", nodes=64):
    return judge.discriminator.init(
        judge.params, prompt_of(prompt), jnp.zeros((1, 1, 0, 1)), capacity=Capacity(1, 1, nodes)
    )


@pytest.mark.parametrize(
    "text",
    [
        " so good it is good",
        " goodness no",
        " a bad film and a bad idea",
        " plum, plumb. PLUM! Good Plum",
        " good good good bad film plum",
        " feelgood goodé bad films",
    ],
)
def test_every_prefix_of_a_text_is_judged_by_the_words_that_it_has(text):
    judge = bag()
    ids = SOURCE.encode(text)
    log_class, state = begun(judge)
    assert np.exp(log_class[0]).tolist() == pytest.approx([1 - LEAK, LEAK])
    evaluate = jax.jit(judge.discriminator.evaluate)
    for at in range(len(ids)):
        log_class, state = evaluate(judge.params, state, node(at + 1, [ids[at]], [at]))
        # Half a character is taken for a letter: few others are spelt with several tokens.
        so_far = SOURCE.decode(ids[: at + 1]).replace("\ufffd", "é")
        expected = present(so_far)
        assert np.exp(log_class[0, 0, 0]).tolist() == pytest.approx(
            [1 - expected, expected], abs=1e-5
        ), so_far


def test_children_go_on_from_their_parents_through_a_move():
    judge = bag()
    good, film = GOOD, FILM
    _, state = begun(judge)
    evaluate = judge.discriminator.evaluate
    _, state = evaluate(judge.params, state, node(1, [good, film], [0, 0]))
    log_class, _ = evaluate(judge.params, state, node(3, [good, film], [1, 2]))
    one, two = present(" good"), present(" good good")
    assert np.exp(log_class[0, 0, :, 1]).tolist() == pytest.approx([two, LEAK])
    # The first node becomes the root.
    state = move(state, jnp.asarray([[[1]]]))
    log_class, _ = evaluate(judge.params, state, node(1, [film, Y], [0, 0]))
    assert np.exp(log_class[0, 0, :, 1]).tolist() == pytest.approx([one, LEAK])


def test_the_prompt_counts_where_it_is_read():
    log_class, state = begun(bag(reads_prompt=True), " so good bad")
    assert np.exp(log_class[0, 1]) == pytest.approx(present(" so good bad"))
    film = FILM
    log_class, _ = bag().discriminator.evaluate(bag().params, state, node(1, [film], [0]))
    assert np.exp(log_class[0, 0, 0, 1]) == pytest.approx(present(" so good bad film"))


def test_the_end_of_a_text_adds_no_word_to_it():
    judge = bag()
    good = GOOD
    _, state = begun(judge)
    log_class, _ = judge.discriminator.evaluate(judge.params, state, node(1, [good], [0], True))
    assert np.exp(log_class[0, 0, 0, 1]) == pytest.approx(LEAK)


def test_proof_by_one_word_is_finite():
    judge = bag_of_words(["good"], tokenizer=SOURCE, strength=1)
    good = GOOD
    _, state = begun(judge)
    log_class, _ = judge.discriminator.evaluate(judge.params, state, node(1, [good], [0]))
    assert np.isfinite(log_class).all() and np.exp(log_class[0, 0, 0, 1]) == pytest.approx(1)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="the bag of words is empty"):
        bag_of_words([" ", ""], tokenizer=SOURCE)
    with pytest.raises(UserError, match="words is one string"):
        bag_of_words("good", tokenizer=SOURCE)
    with pytest.raises(UserError, match="is spelt with 31 tokens: a word has at most 16"):
        bag_of_words(["x" * 30], tokenizer=SOURCE)
    for settings in ({"leak": 0}, {"leak": 1}, {"strength": 0}, {"strength": 1.1}):
        with pytest.raises(UserError, match="they must lie between 0 and 1"):
            bag_of_words(WORDS, tokenizer=SOURCE, **settings)


def test_words_of_one_token_are_looked_up_behind_a_space_and_bare():
    words = ["good", "y", "film", "plum", "bad film", "good"]
    ids, left = single_tokens(words, tokenizer=SOURCE)
    assert left == ["plum", "bad film"]
    forms = [form for word in words for form in (f" {word}", word)]
    alone = {form: SOURCE.encode_behind(form) for form in forms}
    assert set(ids) == {one[0] for one in alone.values() if len(one) == 1}
    # "y" is a letter of the vocabulary, and " y" two of them.
    assert GOOD in ids and FILM in ids and Y in ids and len(alone[" y"]) == 2
    assert len(set(ids)) == len(ids)
