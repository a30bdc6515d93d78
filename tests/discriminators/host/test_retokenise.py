"""Special tokens around texts, the width that is left for the texts, and the widths of waves."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from coopgen_jax.discriminators.host.rereading import widths_up_to
from coopgen_jax.discriminators.host.retokenise import Crossing, word_pieces
from coopgen_jax.tokenizer import Tokenizer
from tests.byte_tokenizer import make_tokenizer

WORDS = {name: number for number, name in enumerate(["<s>", "</s>", "<b>", "a", "b", "c"])}


def words(template: str) -> Tokenizer:
    core = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="c"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(name, number) for name, number in WORDS.items() if name in template]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return Tokenizer(core)


@pytest.mark.parametrize(
    ("template", "rows"),
    [
        ("$A", [[4, 5], [3], []]),
        ("<s> $A", [[0, 4, 5], [0, 3], [0]]),
        ("$A </s>", [[4, 5, 1], [3, 1], [1]]),
        ("<s> $A </s>", [[0, 4, 5, 1], [0, 3, 1], [0, 1]]),
        ("<s> <b> $A </s>", [[0, 2, 4, 5, 1], [0, 2, 3, 1], [0, 2, 1]]),
    ],
)
def test_each_special_token_stands_on_its_side_of_a_text(template, rows):
    tokenizer = words(template)
    special = len(rows[2])
    found = word_pieces(tokenizer, ["a b c", "a", ""], special + 2)
    assert found == rows
    whole = tokenizer.encode("a b c", special=True)
    assert word_pieces(tokenizer, ["a b c"], special + 3) == [whole]


@pytest.mark.parametrize("template", ["$A", "<s> $A"])
def test_a_text_without_pieces_has_none_at_all(template):
    crossing = Crossing(make_tokenizer(), words(template), width=4)
    crossing.reset()
    rows = crossing._pieces(["a", ""])
    assert (rows[0] >= 0).sum() == 1 + crossing.special
    np.testing.assert_array_equal(rows[1], [-1] * 4)


def test_a_text_alone_lacks_the_space_of_a_continuation():
    letters = make_tokenizer()
    rows = {
        alone: Crossing(letters, letters, width=8, alone=alone)._pieces([" ab", "ab"])
        for alone in (False, True)
    }
    assert not np.array_equal(rows[False][0], rows[False][1])
    np.testing.assert_array_equal(rows[True], rows[False][[1, 1]])
    assert Crossing(letters, letters, width=8) != Crossing(letters, letters, width=8, alone=True)


def test_wide_waves_are_of_few_widths():
    assert widths_up_to(12) == [12]
    assert widths_up_to(40) == [16, 32, 40]
    assert widths_up_to(128) == [16, 32, 48, 64, 80, 96, 112, 128]
    assert widths_up_to(512)[7:] == [128, 256, 512]
    assert widths_up_to(300)[7:] == [128, 256, 300]
