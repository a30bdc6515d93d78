"""Sources and the human texts for them: what a generator and its discriminator are trained on.

Unconditional texts are pairs as well, all of one source: the token that begins a text. All arrays
have one shape, so that a round of training is compiled once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from coopgen_jax.data.batches import filled
from coopgen_jax.data.labelled import read_columns
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.tokenizer import Tokenizer

TEMPLATE = "{}\n"


@dataclass(frozen=True)
class Pairs:
    """Tokenised sources and texts.

    Attributes:
      sources: `n` rows of ids, what begins a text included.
      texts: `n` rows of ids, closed by the token that ends a text where they had room for it.
      source_width: `P`, tokens of a source at most.
      text_width: `T`, tokens of a text at most.
      written: the `n` texts as strings.
      conditional: whether sources differ.
    """

    sources: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[int, ...], ...]
    source_width: int
    text_width: int
    written: tuple[str, ...]
    conditional: bool

    def __len__(self) -> int:
        """Returns `n`."""
        return len(self.texts)

    def prompt(self, numbers: Sequence[int]) -> Prompt:
        """Returns sources as prompts of `P` tokens, numbered by their place."""
        tokens = np.zeros((len(numbers), self.source_width), np.int32)
        mask = np.zeros(tokens.shape, bool)
        for place, number in enumerate(numbers):
            source = self.sources[number]
            tokens[place, -len(source) :], mask[place, -len(source) :] = source, True
        arrays: Any = (tokens, mask, np.arange(len(numbers), dtype=np.int32))
        return Prompt(*arrays)

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the pairs as `rows_behind` returns sampled texts."""
        width = self.source_width + self.text_width
        tokens, mask = filled([(*self.sources[n], *self.texts[n]) for n in numbers], width)
        sources = np.array([len(self.sources[number]) for number in numbers])
        written = mask & (np.arange(width) >= sources[:, None])
        index = np.arange(len(numbers), dtype=np.int32)
        return {"tokens": tokens, "mask": mask, "written": written, "index": index}


def rows_behind(prompt: Prompt, tokens: jax.Array, length: jax.Array) -> dict[str, jax.Array]:
    """Returns texts behind their sources as rows padded on the right, one per text.

    Args:
      prompt: `[B, P]`, padded on the left.
      tokens: `[B, R, T]` int32.
      length: `[B, R]` int32.

    Returns:
      tokens `[B * R, P + T]` int32, mask of the same shape, `written`, true at the tokens of the
      text alone, and index `[B * R]` int32, the number of the row.
    """
    batch, samples, room = tokens.shape
    width = prompt.tokens.shape[1]
    front = jnp.broadcast_to(prompt.tokens[:, None], (batch, samples, width))
    whole = jnp.concatenate([front, tokens], axis=-1).reshape(batch * samples, width + room)
    source = jnp.repeat(jnp.sum(prompt.mask, axis=-1), samples)[:, None]
    place = jnp.arange(width + room)[None]
    at = jnp.minimum(place + width - source, width + room - 1)
    mask = place < source + length.reshape(-1, 1)
    return {
        "tokens": jnp.where(mask, jnp.take_along_axis(whole, at, axis=1), 0),
        "mask": mask,
        "written": mask & (place >= source),
        "index": jnp.arange(batch * samples, dtype=jnp.int32),
    }


def read_pairs(
    where: str | Path, *, source: str | None = None, text: str = "text"
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Returns pairs of source and text, and what is wrong with rows that were left out.

    Without a column of sources every source is "". See `labelled.read_labelled` for `where`, and
    for when UserError is raised.
    """
    columns = (text,) if source is None else (source, text)
    rows, broken = read_columns(where, columns)
    return tuple((row[0] if source else "", row[-1]) for row in rows), broken


def tokenise_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    *,
    source_width: int,
    text_width: int,
    template: str | None = TEMPLATE,
    told: Callable[[int, int], None] = lambda sources, texts: None,
) -> Pairs:
    """Returns pairs as ids: a source behind what begins a text, cut at its end, and its text.

    Args:
      tokenizer: the generator's.
      pairs: sources and texts.
      source_width: tokens of a source at most, what begins a text and the template included.
      text_width: tokens of a text at most, its end included.
      template: what a source is put into, at "{}", and what the text follows at once, so that it
        ends in a space or a line break; None where there are no sources.
      told: told how many sources and how many texts are cut, with their end.

    Raises:
      UserError: there are no texts, all are cut, the template has no place for a source, or no
        token begins or ends a text.
    """
    if not pairs:
        raise UserError("there are no texts to train on")
    if template is not None and template.count("{}") != 1:
        raise UserError(f"the template {template!r} must have {{}} once, where a source goes")
    end = tokenizer.end_tokens[:1]
    front = tokenizer.begin_tokens or (end if template is None else ())
    if not end or not (front or template):
        raise UserError("the model has no token that ends a text: take another one to train")
    around = tuple(map(len, tokenizer.encode_batch((template or "").split("{}"))))
    room = source_width - len(front) - sum(around)
    if template is not None and room < 1:
        raise UserError(
            f"{source_width} tokens of source leave no room beside the template {template!r}: give "
            "more"
        )
    sources: list[tuple[int, ...]] = [tuple(front)] * len(pairs)
    cut_sources = 0
    if template is not None:
        ids_of = tokenizer.encode_batch([source for source, _ in pairs])
        cut = [
            source if len(ids) <= room else tokenizer.decode(ids[:room]).strip()
            for ids, (source, _) in zip(ids_of, pairs, strict=True)
        ]
        filled = [template.replace("{}", source) for source in cut]
        rows = tokenizer.encode_batch(filled)
        sources = [(*front, *ids[: source_width - len(front)]) for ids in rows]
        cut_sources = sum(
            len(ids) > room or len(row) > source_width - len(front)
            for ids, row in zip(ids_of, rows, strict=True)
        )
    if not all(sources):
        raise UserError("a source has no tokens: leave it out, or give a template with words")
    # Without a source a text stands at the front, where many tokenizers put a space.
    encode = tokenizer.encode_batch if template is None else tokenizer.encode_batch_behind
    coded = encode([text.strip() for _, text in pairs])
    texts = [(*ids, *end)[:text_width] for ids in coded]
    cut_texts = sum(len(ids) + len(end) > text_width for ids in coded)
    if cut_texts == len(pairs):
        raise UserError(
            f"all {cut_texts} texts have more than {text_width} tokens, their end included, so "
            "that none shows how a text ends: allow more new tokens, or give shorter texts"
        )
    told(cut_sources, cut_texts)
    return Pairs(
        tuple(sources),
        tuple(texts),
        source_width if template is not None else len(front),
        text_width,
        tuple(text for _, text in pairs),
        template is not None,
    )


@struct.dataclass
class Drawn:
    """What a round is trained on.

    Attributes:
      prompt: `[B, P]` the sources that texts are sampled for.
      truth: rows of the human texts for them.
      human: rows of human texts `[B * R]`, beside every sampled text one of the same source.
      ahead: prompt and human of every sampling in front of the first round.
    """

    prompt: Prompt
    truth: dict[str, Any]
    human: dict[str, Any]
    ahead: tuple[tuple[Prompt, dict[str, Any]], ...]


@dataclass(frozen=True)
class Rounds:
    """What every round is trained on, by its number: a pure function of it.

    If the human texts were those of other sources, the discriminator would learn to recognise the
    sources.

    Attributes:
      pairs: what is drawn from, shuffled anew in every turn through it.
      sources: `B`, sources of a round.
      samples: `R`, texts that are sampled for each.
      ahead: samplings in front of the first round.
      seed: of the order.
    """

    pairs: Pairs
    sources: int
    samples: int
    ahead: int = 0
    seed: int = 0

    def __getitem__(self, number: int) -> Drawn:
        """Returns what round `number` is trained on."""
        own = self._turns(0, self.sources * number, self.sources)
        ahead = []
        for sampling in range(0 if number else self.ahead):
            asked = self._turns(1, self.sources * sampling, self.sources)
            ahead.append((self.pairs.prompt(asked), self._beside(asked, sampling)))
        return Drawn(
            self.pairs.prompt(own),
            self.pairs.rows(own),
            self._beside(own, self.ahead + number),
            tuple(ahead),
        )

    def _beside(self, asked: list[int], sampling: int) -> dict[str, np.ndarray]:
        """Returns human texts beside the sampled ones; without sources any will do."""
        count = self.samples * self.sources
        if self.pairs.conditional:
            return self.pairs.rows([number for number in asked for _ in range(self.samples)])
        return self.pairs.rows(self._turns(2, count * sampling, count))

    def _turns(self, stream: int, start: int, count: int) -> list[int]:
        order = grain.MapDataset.source(range(len(self.pairs))).seed(3 * self.seed + stream)
        endless = order.shuffle().repeat()
        return [int(endless[place]) for place in range(start, start + count)]
