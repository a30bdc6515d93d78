"""Text to token ids and back, and the chat template of a model."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import accumulate, islice, pairwise
from typing import Any

import numpy as np
import tokenizers

from coopgen_jax.errors import UserError

# How the usual vocabularies call the tokens that end a text or a turn. A model's files often
# declare only one of them, although the model writes others.
END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "</s>",
)


class Tokenizer:
    """A vocabulary, and what the files of its language model say about it.

    Two tokenizers are equal when they split and join texts alike, whatever file they came from.

    Attributes:
      core: the tokenizer of the `tokenizers` package that does the work.
      begin_tokens: ids that the model expects in front of every text; `make_prompt` puts them
        there.
      end_tokens: ids that end a text: those the model's files declare, then those that are known
        by name.
      declared_ends: those of them that the model's files declare.
      bos_token, eos_token: what the chat template calls the tokens that begin and end a text,
        whether or not the tokenizer adds them to texts; None where there is none.
      close_tokens: ids that the model expects behind every prompt, where prompts are sources that
        an encoder reads; `make_prompt` puts them there. Empty where a text continues its prompt.
      chat_template: the Jinja template of a conversation, or None.
      limit: how many ids the network has, where the tokenizer has more; else None.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        *,
        begin_tokens: Iterable[int] = (),
        end_tokens: Iterable[int] = (),
        close_tokens: Iterable[int] = (),
        chat_template: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        limit: int | None = None,
    ) -> None:
        core.no_padding()
        core.no_truncation()
        self.core = core
        self.begin_tokens = tuple(begin_tokens)
        self.close_tokens = tuple(close_tokens)
        self.declared_ends = tuple(end_tokens)
        named = [core.token_to_id(name) for name in END_NAMES]
        ends = [*self.declared_ends, *(number for number in named if number in self.special_ids)]
        self.end_tokens: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.chat_template = chat_template
        self.bos_token = bos_token or self._name_of_first(self.begin_tokens)
        self.eos_token = eos_token or self._name_of_first(self.end_tokens)
        self.limit = limit

    def _name_of_first(self, ids: tuple[int, ...]) -> str | None:
        return self.core.id_to_token(ids[0]) if ids else None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for no text, such as the end of one."""
        added = self.core.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    @property
    def vocab_size(self) -> int:
        """Number of ids; the network's may be larger, where it is padded."""
        return self.core.get_vocab_size(with_added_tokens=True)

    @cached_property
    def identity(self) -> str:
        """The sha256 of everything that decides how texts are split and joined."""
        return hashlib.sha256(self.core.to_str().encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, identity={self.identity[:8]!r})"

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Returns the ids of a text, in which the names of special tokens become those tokens.

        They are wrapped as the model wraps a text where they are to be `special`, as in an
        encoder's [CLS] and [SEP].
        """
        return self.encode_batch([text], special=special)[0]

    def encode_batch(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Returns the ids of every text; see `encode`.

        Raises:
          UserError: a text holds half a character (a lone surrogate), as undecodable bytes leave,
            or a token that the network lacks.
        """
        for number, text in enumerate(texts, start=1):
            if has_half_character(text):
                raise UserError(f"text {number} holds half a character: it is not valid Unicode")
        coded = self.core.encode_batch_fast(list(texts), add_special_tokens=special)
        rows: list[list[int]] = [entry.ids for entry in coded]
        for number, ids in enumerate(rows if self.limit is not None else (), start=1):
            self._check_ids(f"text {number}", ids)
        return rows

    @cached_property
    def wrapping(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids in front of a text and behind it where it is encoded as a special one."""
        # Only behind a text can what begins it be told from what ends it.
        coded = self.core.encode(self.decode(self._anchor) or "a", add_special_tokens=True)
        own = [place for place, special in enumerate(coded.special_tokens_mask) if not special]
        if not own:
            return tuple(coded.ids), ()
        return tuple(coded.ids[: own[0]]), tuple(coded.ids[own[-1] + 1 :])

    def _check_ids(self, place: str, ids: Iterable[int]) -> None:
        for number in ids:
            if self.limit is not None and number >= self.limit:
                raise UserError(
                    f"{place} holds the token {self.core.id_to_token(number)!r} (id {number}), "
                    f"which the network, of {self.limit} tokens, lacks: leave it out of the text"
                )

    def control_strings(self, text: str) -> list[str]:
        """Returns the names of special tokens that stand in a text."""
        names = map(self.core.id_to_token, sorted(self.special_ids))
        return [str(name) for name in names if str(name) in text]

    def encode_plainly(self, text: str, spans: Sequence[tuple[int, int]] = ()) -> list[int]:
        """Returns the ids of a text in which the names of special tokens are letters like others.

        Only in `spans` of characters, where there are any; elsewhere they become those tokens. See
        `encode_batch` for what is refused.
        """
        if has_half_character(text):
            raise UserError("a text holds half a character: it is not valid Unicode")
        coded = self.core.encode(text, add_special_tokens=False)
        ids: list[int] = []
        for number, (start, end) in zip(coded.ids, coded.offsets, strict=True):
            inside = any(start < last and end > first for first, last in spans or [(0, len(text))])
            if number in self.special_ids and inside:
                ids += self._spelled(text[start:end])
            else:
                ids.append(number)
        self._check_ids("a text", ids)
        return ids

    def _spelled(self, name: str) -> list[int]:
        """Returns the ids of the letters of a special token's name, behind other text."""
        front, whole = (self._letters.encode(text).ids for text in ("\n", f"\n{name}"))
        ids: list[int] = whole[len(front) :] if whole[: len(front)] == front else whole
        if self.special_ids.isdisjoint(ids):
            return ids
        # A vocabulary can have the name itself as a word: each of its letters is another.
        singly = [self._letters.encode(letter).ids for letter in name] if len(name) > 1 else []
        return [number for row in singly for number in row if number not in self.special_ids]

    @cached_property
    def _letters(self) -> tokenizers.Tokenizer:
        """The core, to which the names of special tokens are letters."""
        core = tokenizers.Tokenizer.from_str(self.core.to_str())
        core.post_processor = tokenizers.processors.Sequence([])
        core.encode_special_tokens = True
        return core

    def encode_behind(self, text: str) -> list[int]:
        """Returns the ids of `text` as it stands behind other text.

        Many tokenizers put a space in front of a text; here there is one only where it is given.
        """
        return self.encode_batch_behind([text])[0]

    def encode_batch_behind(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of every text; see `encode_behind`."""
        front = self.encode("\n")
        rows = self.encode_batch([f"\n{text}" for text in texts])
        return [
            ids[len(front) :] if ids[: len(front)] == front else self.encode(text)
            for ids, text in zip(rows, texts, strict=True)
        ]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; bytes that are no whole character become U+FFFD."""
        return self.decode_batch([ids], skip_special)[0]

    def decode_batch(self, rows: Iterable[Iterable[int]], skip_special: bool = True) -> list[str]:
        """Returns the text of every row of ids; see `decode`."""
        lists = [np.asarray(list(row), np.int64).tolist() for row in rows]
        return self.core.decode_batch(lists, skip_special_tokens=skip_special)

    def continuation(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids` as it stands behind other text.

        Many tokenizers drop the first space of a text; here it stays.
        """
        return self.continuations([ids])[0]

    def continuations(self, rows: Iterable[Iterable[int]]) -> list[str]:
        """Returns the text of every row of ids as it stands behind other text."""
        behind = [[*self._anchor, *ids] for ids in rows]
        alone, *texts = self.decode_batch([self._anchor, *behind])
        return [text.removeprefix(alone) for text in texts]

    def written(self, ids: Iterable[int]) -> str:
        """Returns the text of `ids` as it was written: behind its prompt, or of a source."""
        return self.decode(ids) if self.close_tokens else self.continuation(ids)

    @cached_property
    def _anchor(self) -> list[int]:
        """A token of plain letters, to read others behind; none where there is no such token."""

        def is_plain(number: int) -> bool:
            text = self.decode([number])
            return text.isascii() and text.isalpha()

        return list(islice(filter(is_plain, range(self.vocab_size)), 1))

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """The bytes that every token adds behind other text, None where it stands for no text."""
        texts = self.continuations([number] for number in range(self.vocab_size))
        return [self._bytes(number, text) for number, text in enumerate(texts)]

    def _bytes(self, number: int, text: str) -> bytes | None:
        piece = self.core.id_to_token(number)
        if piece is None or number in self.special_ids:
            return None
        if "\ufffd" not in text or "\ufffd" in piece:
            return text.encode()
        # A part of a character: the token is its bytes.
        if piece.startswith("<0x"):
            return bytes([int(piece[3:5], 16)])
        alphabet = _byte_alphabet()
        if all(letter in alphabet for letter in piece):
            return bytes(alphabet[letter] for letter in piece)
        return str(piece).encode()

    def chat(self, prompt: str | Sequence[Mapping[str, str]]) -> str:
        """Returns the text that asks the model's assistant `prompt`, up to where it answers.

        A prompt that is more than text is a list of its parts, as the template reads them.

        Raises:
          UserError: the model has no chat template, or it fails.
        """
        if self.chat_template is None:
            raise UserError(
                "this model has no chat template: give it raw text to continue, or choose an "
                "instruction-tuned model"
            )
        try:
            rendered = self._renderer.apply_chat_template(
                [{"role": "user", "content": prompt if isinstance(prompt, str) else list(prompt)}],
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template is a program and may fail in any way
            raise UserError(
                f"the model's chat template fails ({error}): give it raw text to continue"
            ) from error
        return str(rendered)

    def chat_ids(self, prompt: str, *, control_strings: bool = False) -> list[int]:
        """Returns the ids of what `chat` returns.

        By default the names of special tokens in the prompt are text; as control strings they
        become those tokens, as those of the template do.

        Raises:
          UserError: see `chat`; or the template changes the prompt, so that control strings of both
            cannot be told apart.
        """
        rendered = self.chat(prompt)
        if control_strings or not self.control_strings(prompt):
            return self.encode(rendered)
        used = {*rendered, *prompt}
        mark = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)
        # Many templates strip the prompt.
        for content in (prompt, prompt.strip()):
            parts = self.chat(f"{mark}{content}{mark}").split(mark)
            if len(parts) > 2 and len(parts) % 2 and "".join(parts) == rendered:
                ends = list(accumulate(map(len, parts)))
                return self.encode_plainly(rendered, list(pairwise(ends))[::2])
        raise UserError(
            "the model's chat template changes the prompt, so that the prompt's control strings "
            "cannot be told from the template's: leave them out, or give --control-strings"
        )

    @cached_property
    def _renderer(self) -> Any:
        # The import takes seconds, and only conversations need it.
        from transformers import PreTrainedTokenizerFast

        names = {"bos_token": self.bos_token, "eos_token": self.eos_token}
        known = {name: token for name, token in names.items() if token is not None}
        return PreTrainedTokenizerFast(tokenizer_object=self.core, **known)


@cache
def _byte_alphabet() -> dict[str, int]:
    """Returns which byte each letter of GPT-2's byte-level vocabularies stands for."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    shifted = {chr(256 + place): byte for place, byte in enumerate(hidden)}
    return {chr(byte): byte for byte in visible} | shifted


def has_half_character(text: str) -> bool:
    """Tells whether a text holds a lone surrogate, half of a character: it is not Unicode."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Tells whether the same ids stand for the same tokens in both."""
    return bool(one.core.get_vocab() == other.core.get_vocab())
