"""Text to ids and back."""

import numpy as np
import pytest
import tokenizers

from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer
from tests.byte_tokenizer import make_tokenizer


def test_encoding_adds_nothing_unless_asked() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("Hi")
    assert len(ids) == 2
    assert tokenizer.encode("Hi", special=True) == [257, *ids]
    assert tokenizer.encode("Hi<|endoftext|>") == [*ids, 256]
    assert tokenizer.encode_batch(["Hi", ""]) == [ids, []]


def test_truncation_and_padding_of_the_file_are_off() -> None:
    core = make_tokenizer().core
    core.enable_truncation(3)
    core.enable_padding(length=9)
    assert len(Tokenizer(core).encode("longer")) == 6


@pytest.mark.parametrize("text", ["plain", "  two  spaces \n", "caf\u00e9 \u4e2d\u6587 \U0001f642"])
def test_round_trip(text: str) -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(np.array(tokenizer.encode(text), np.int32)) == text


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer.encode("a\U0001f642")
    assert len(ids) == 5
    for length in (2, 3, 4):
        assert tokenizer.decode(ids[:length]) == "a\ufffd"
    assert tokenizer.decode(ids[2:]).startswith("\ufffd")
    assert tokenizer.decode_batch([ids, []]) == ["a\U0001f642", ""]


def test_special_tokens_are_left_out_of_text() -> None:
    tokenizer = make_tokenizer()
    ids = [257, *tokenizer.encode("Hi"), 256]
    assert tokenizer.decode(ids) == "Hi"
    assert tokenizer.decode(ids, skip_special=False) == "<s>Hi<|endoftext|>"
    assert tokenizer.special_ids == {256, 257}
    assert tokenizer.vocab_size == 258


def test_end_tokens_are_declared_or_known_by_name() -> None:
    assert make_tokenizer().end_tokens == (256,)
    assert make_tokenizer(end_tokens=[257, 256]).end_tokens == (257, 256)


def test_an_end_by_name_must_be_special() -> None:
    core = tokenizers.Tokenizer(tokenizers.models.BPE({"</s>": 0}, []))
    assert Tokenizer(core).end_tokens == ()


def test_equal_when_they_split_alike() -> None:
    one, same, other = make_tokenizer(), make_tokenizer(), make_tokenizer()
    other.core.add_tokens(["more"])
    assert one == same and hash(one) == hash(same) and one.identity == same.identity
    assert one != other and one != "one"


def test_broken_unicode_is_named() -> None:
    with pytest.raises(UserError, match="text 2 holds half a character"):
        make_tokenizer().encode_batch(["fine \u00e9", "half \udce9"])


def test_chat() -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer = make_tokenizer(chat_template=template, begin_tokens=[257], end_tokens=[256])
    assert tokenizer.chat("Hi?") == "<s>[user] Hi?<|endoftext|>[assistant] "
    with pytest.raises(UserError, match="no chat template"):
        make_tokenizer().chat("Hi?")
    with pytest.raises(UserError, match="chat template fails"):
        make_tokenizer(chat_template="{{ messages[7].content.x }}").chat("Hi?")


def test_a_continuation_keeps_the_space_that_a_text_would_lose() -> None:
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁b": 1, "c": 2}))
    decoders = tokenizers.decoders
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = Tokenizer(core)
    assert tokenizer.decode([0, 1, 2]) == "a bc"
    assert tokenizer.continuation([0, 1, 2]) == " a bc"
    assert tokenizer.continuation([]) == ""
    bytewise = make_tokenizer()
    assert bytewise.continuation(bytewise.encode(" Hi 中")) == " Hi 中"
    assert bytewise.continuation([256]) == ""


def test_a_text_behind_another_has_the_space_that_is_given_and_no_other() -> None:
    assert make_tokenizer().encode_behind(" Hi") == make_tokenizer().encode(" Hi")
    words = {"<0x0A>": 0, "\u2581": 1, "\u2581Hi": 2, "Hi": 3, "\n": 4, "<unk>": 5}
    core = tokenizers.Tokenizer(tokenizers.models.Unigram([(w, -1.0) for w in words], unk_id=5))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = Tokenizer(core)
    assert tokenizer.encode("Hi") == tokenizer.encode(" Hi") == [2]
    assert tokenizer.encode_behind("Hi") == [3] and tokenizer.encode_behind(" Hi") == [2]
