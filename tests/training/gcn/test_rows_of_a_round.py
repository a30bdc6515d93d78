"""The pairs that a round trains on, which of them it takes, and what it remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from coopgen_jax.data.pairs import Rounds, rows_behind, tokenise_pairs
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.gcn.replay import draw, empty, remember
from tests.training.gcn.gcn_worker import END, pairs, tokenizer


def test_pairs_are_padded_cut_and_closed():
    told: list[tuple[int, int]] = []
    found = tokenise_pairs(
        tokenizer(), [("w1 w2 w3 w4 w5 w6", "w7 w8"), ("w1", "w2 w3 w4 w5 w6")],
        source_width=5, text_width=4, template="w58 {} w57",
        told=lambda *counts: told.append(counts),
    )  # fmt: skip
    tokenise_pairs(
        tokenizer(), [("w1 w2 w3", "w7 w8 w9"), ("w1 w2", "w2 w3 w4 w5"), ("w1", "w2 w3 w4 w5")],
        source_width=5, text_width=4, template="w58 {} w57",
        told=lambda *counts: told.append(counts),
    )  # fmt: skip
    # What just fits, its end included, is whole.
    assert told == [(1, 1), (0, 2)]
    assert found.sources == ((58, 1, 2, 3, 57), (58, 1, 57))
    assert found.texts == ((7, 8, END), (2, 3, 4, 5))
    rows = found.rows([1, 0])
    np.testing.assert_array_equal(rows["tokens"][0], [58, 1, 57, 2, 3, 4, 5, 0, 0])
    np.testing.assert_array_equal(rows["written"][1], [False] * 5 + [True] * 3 + [False])
    prompt = found.prompt([1, 0])
    np.testing.assert_array_equal(prompt.tokens[0], [0, 0, 58, 1, 57])
    texts = jnp.asarray([[[2, 3, 4, 5]], [[7, 8, END, 9]]], jnp.int32)
    again = rows_behind(prompt, texts, jnp.asarray([[4], [3]]))
    for name, array in rows.items():
        np.testing.assert_array_equal(again[name], array)
    alone = tokenise_pairs(tokenizer(), [("", "w1")], source_width=9, text_width=3, template=None)
    assert (alone.sources, alone.source_width, alone.conditional) == (((END,),), 1, False)


def test_a_text_has_a_space_in_front_only_where_nothing_else_stands_there():
    words = {"\n": 0, "\u2581": 1, "\u2581Hi": 2, "Hi": 3, "<unk>": 4, "<end>": 5}
    core = tokenizers.Tokenizer(tokenizers.models.Unigram([(w, -1.0) for w in words], unk_id=4))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    core.add_special_tokens(["<end>"])
    spaced = Tokenizer(core, end_tokens=[5])
    common = {"source_width": 4, "text_width": 3}
    behind = tokenise_pairs(spaced, [("Hi", "Hi")], template="{}\n", **common)
    assert (behind.sources, behind.texts) == (((2, 0),), ((3, 5),))
    alone = tokenise_pairs(spaced, [("", "Hi")], template=None, **common)
    assert alone.texts == ((2, 5),)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"template": "no place"}, "must have {} once"),
        ({"template": "{} w1 w2 w3 w4 w5"}, "leave no room"),
        ({"pairs": []}, "no texts to train on"),
        ({"pairs": [("w1", "w2 w3 w4"), ("w1", "w2 w3 w4 w5")]}, "all 2 texts have more than 3"),
    ],
)
def test_pairs_of_no_use_are_told(given, sentence):
    options = {"pairs": [("w1", "w2")], "source_width": 4, "text_width": 3, **given}
    with pytest.raises(UserError, match=sentence):
        tokenise_pairs(tokenizer(), **options)


def test_rounds_are_functions_of_their_number_and_come_to_every_pair():
    rounds = Rounds(pairs(0, 12, True), sources=4, samples=2, ahead=3)
    one, again = rounds[1], rounds[1]
    for ours, theirs in zip(*map(jax.tree.leaves, (one, again)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (len(rounds[0].ahead), len(one.ahead)) == (3, 0)
    seen = [row.tobytes() for number in range(3) for row in rounds[number].truth["tokens"]]
    every = [row.tobytes() for row in rounds.pairs.rows(range(12))["tokens"]]
    assert sorted(seen) == sorted(every)
    read = [row.tobytes() for _, human in rounds[0].ahead for row in human["tokens"]]
    assert sorted(read) == sorted(every * 2)


@pytest.mark.parametrize("conditional", [True, False])
def test_people_are_set_beside_texts_of_the_same_sources(conditional):
    rounds = Rounds(pairs(0, 24, conditional), sources=4, samples=2, ahead=2)
    drawn, every = rounds[0], set()
    for prompt, human in ((drawn.prompt, drawn.human), *drawn.ahead):
        texts = rows_behind(prompt, jnp.zeros((4, 2, 4), jnp.int32), jnp.ones((4, 2), jnp.int32))
        for row in range(8):
            front = texts["tokens"][row][texts["mask"][row] & ~texts["written"][row]]
            own = human["tokens"][row][human["mask"][row] & ~human["written"][row]]
            np.testing.assert_array_equal(own, front)
            every.add(human["tokens"][row].tobytes())
    # Without sources any text will do, and so each stands beside one.
    assert len(every) <= 12 if conditional else len(every) > 12


def test_the_memory_is_a_ring():
    replay = empty({"x": jnp.zeros(2, jnp.int32)}, 5)
    for start in (0, 3, 6):
        replay = remember(replay, {"x": jnp.arange(start, start + 3)})
    assert int(replay.count) == 9
    assert sorted(replay.rows["x"].tolist()) == [4, 5, 6, 7, 8]
    replay = remember(replay, {"x": jnp.arange(10, 18)})
    assert sorted(replay.rows["x"].tolist()) == [13, 14, 15, 16, 17]
    now = {"x": jnp.arange(100, 106)}
    drawn = draw(jax.random.key(0), replay, now, count=6, share=0.0)["x"].tolist()
    assert sorted(drawn) == [*range(100, 106)]
    twice = draw(jax.random.key(0), replay, now, count=9, share=0.0)["x"].tolist()
    assert len(set(twice)) == 6
    many = np.asarray(draw(jax.random.key(1), replay, now, count=3000, share=0.25)["x"])
    assert np.mean(many < 100) == pytest.approx(0.25, abs=0.04)
    assert set(many[many < 100]) == {13, 14, 15, 16, 17}
    none = draw(jax.random.key(1), empty(now, 5), now, count=60, share=0.9)["x"]
    assert (np.asarray(none) >= 100).all()
