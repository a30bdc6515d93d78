"""Prompts of several lengths in one padded batch."""

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.models.prompt import bucket, make_prompt
from tests.byte_tokenizer import make_tokenizer


def test_buckets() -> None:
    lengths = [1, 16, 17, 33, 49, 65, 97, 129, 193, 257]
    assert [bucket(length) for length in lengths] == [16, 16, 32, 48, 64, 96, 128, 192, 256, 384]
    assert [bucket(length, 4) for length in (1, 5, 9, 13, 17)] == [4, 8, 12, 16, 24]
    for length in range(17, 3000):
        assert length <= bucket(length) < 2 * length


def test_prompts_are_padded_on_the_left() -> None:
    tokenizer = make_tokenizer()
    prompt = make_prompt(tokenizer, ["abc", "seventeen letters"], first_index=5)
    assert prompt.tokens.shape == prompt.mask.shape == (2, 32)
    assert prompt.tokens.dtype == prompt.index.dtype == np.int32
    assert prompt.mask.dtype == bool
    assert prompt.index.tolist() == [5, 6]
    assert prompt.mask.sum(axis=1).tolist() == [3, 17]
    assert bool(prompt.mask[:, -1].all())
    assert prompt.tokens[0, -3:].tolist() == tokenizer.encode("abc")
    assert not prompt.mask[0, :-3].any()


def test_padding_stays_within_the_context() -> None:
    prompt = make_prompt(make_tokenizer(), ["x" * 17], context=30, reserve=10)
    assert prompt.tokens.shape == (1, 20)


def test_the_beginning_is_put_in_front_once() -> None:
    tokenizer = make_tokenizer(begin_tokens=[257])
    prompt = make_prompt(tokenizer, ["ab", "<s>ab"])
    expected = [257, *tokenizer.encode("ab")]
    assert prompt.tokens[:, -3:].tolist() == [expected, expected]
    assert prompt.mask.sum(axis=1).tolist() == [3, 3]


@pytest.mark.parametrize("begin", [[], [257]])
def test_an_empty_prompt_is_named(begin: list[int]) -> None:
    tokenizer = make_tokenizer(begin_tokens=begin)
    with pytest.raises(UserError, match="prompt 12 is empty"):
        make_prompt(tokenizer, ["fine", ""], first_index=10)
    with pytest.raises(UserError, match="no prompt"):
        make_prompt(tokenizer, [])


def test_a_prompt_longer_than_the_context_is_named() -> None:
    tokenizer = make_tokenizer()
    make_prompt(tokenizer, ["x" * 20], context=30, reserve=10)
    with pytest.raises(UserError, match=r"prompt 2 has 21 tokens.* 10 new .* 30 "):
        make_prompt(tokenizer, ["x", "x" * 21], context=30, reserve=10)
