"""Finds marks in texts: scores of their tokens, exact p-values, messages and marked passages."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from scipy.special import rel_entr

from coopgen_jax.decoding.rules.keys import green_below
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.errors import UserError
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.watermark.mark_scores import (
    block_scores,
    scores_of,
    tokens_to_score,
    tournament_weights,
)
from coopgen_jax.watermark.p_values import (
    lattice_rate,
    log10_binomial,
    log10_gamma,
    log10_lattice,
    log10_of_several,
)

Text = str | Sequence[int] | np.ndarray

# The shortest passage that is looked at; each longer length is twice the one before.
SHORTEST_PASSAGE = 25
# Passages of more pairs of messages and tokens than these would take minutes a text.
MOST_PAIRS = 1 << 30
# A forecast of more tokens than this is none.
MOST_TOKENS = 1_000_000
# Words of at most so many (message, token) pairs are computed together.
_BLOCK = 1 << 21
_MOST_LANES = 1024
# Sums in float32 choose among messages; those so near the largest, relatively, are summed again.
_NEAR = 1e-5


@dataclass(frozen=True, eq=False)
class Detection:
    """What the test of one text found.

    Attributes:
      tokens: number of tokens of the text.
      scored: `n`, how many of them were scored.
      skipped: how many were not: those in front, which have no whole window, and repeats.
      score: sum of their scores, for `message`.
      expected: its expectation in a text without the mark.
      log10_p: log10 of the p-value of the whole text, for `message` alone.
      message: the message that fits best, by its passage where passages were asked for. It means
        something in a marked text only. None where no messages were asked for.
      log10_p_message: `log10_p`, corrected for the number of messages; None as above.
      marked: the verdict at `fpr`, by all corrections that were asked for.
      more_tokens: about how many more tokens, scored like these on average, would get the whole
        text called marked: 0 if it is, None if the average is not above its expectation or more
        than a million would be needed.
      passage: the first token of the passage of smallest p-value and the one behind its last; None
        if not asked for, or if fewer than 25 tokens were scored.
      log10_p_passage: its log10 p, corrected for the number of passages and of messages.
      token_scores: `[T]` float64, for `message`; NaN where a token was not scored.
      token_ids: `[T]` int64.
    """

    tokens: int
    scored: int
    skipped: int
    score: float
    expected: float
    log10_p: float
    message: int | None
    log10_p_message: float | None
    marked: bool
    more_tokens: int | None
    passage: tuple[int, int] | None
    log10_p_passage: float | None
    token_scores: np.ndarray = field(repr=False)
    token_ids: np.ndarray = field(repr=False)


def detect(
    texts: Iterable[Text],
    *,
    key: WatermarkKey,
    tokenizer: Tokenizer | None = None,
    messages: int = 0,
    fpr: float = 1e-6,
    by_passage: bool = False,
    deduplicate: bool = True,
) -> list[Detection]:
    """Tests every text for a key's mark.

    Every pair of a window and a token is scored once in a text, at its first place, for a repeat
    says nothing new; of a mark that skips repeated windows every window. The p-values are exact for
    the scores of a text without the mark.

    Args:
      texts: strings, which need the `tokenizer`, or sequences of token ids; the continuations
        alone, without their prompts.
      key: what they may be marked with.
      tokenizer: the one that the key was made for.
      messages: `M`, looks for the messages 0 to M - 1; 0 looks for message 0, with no correction.
      fpr: the false-positive rate: the share of texts without the mark that are called marked.
      by_passage: looks for the passage that stands out most, and lets it decide: 25, 50, 100, ...
        scored tokens long, starting at every quarter of its length, or all of them. A text of
        fewer than 25 is tested as a whole.
      deduplicate: false scores repeats too, only to show what is wrong with that.

    Raises:
      UserError: a setting is out of its range, a text is neither a string nor ids of the key's
        vocabulary, or a string comes without its tokenizer.
    """
    if not isinstance(fpr, int | float | np.floating) or not 0 < fpr < 1:
        raise UserError(f"fpr is {fpr!r}: give a false-positive rate between 0 and 1, as 1e-6")
    if isinstance(messages, bool) or not isinstance(messages, int | np.integer) or messages < 0:
        raise UserError(f"messages is {messages!r}: give how many to look for, 0 or more")
    if messages > key.vocab_size:
        raise UserError(
            f"messages is {messages}, and a key of {key.vocab_size} tokens tells no more than that "
            f"many apart: give at most {key.vocab_size}"
        )
    test = _Test(key, int(messages), math.log10(fpr), by_passage, deduplicate)
    return [test.of(ids) for ids in _ids_of(texts, key, tokenizer)]


def _ids_of(
    texts: Iterable[Text], key: WatermarkKey, tokenizer: Tokenizer | None
) -> list[np.ndarray]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise UserError("texts is not a list: give a list of texts, even of one")
    texts = list(texts)
    if tokenizer is not None:
        key.check(tokenizer)
    strings = [text for text in texts if isinstance(text, str)]
    if strings and tokenizer is None:
        raise UserError(
            f"texts are strings, and there is no tokenizer: give the tokenizer of {key.model}, or "
            "token ids"
        )
    # A continuation stands behind its prompt, so its first token has a space only if it shows one.
    coded = iter(tokenizer.encode_batch_behind(strings) if tokenizer and strings else ())
    rows = [next(coded) if isinstance(text, str) else text for text in texts]
    return [_checked(row, number, key) for number, row in enumerate(rows, start=1)]


def _checked(row: Any, number: int, key: WatermarkKey) -> np.ndarray:
    """Returns a text's ids `[T]` as int64."""
    wrong = UserError(f"text {number} is neither a string nor a list of token ids: give it as one")
    try:
        ids = np.asarray(row)
    except (TypeError, ValueError):
        raise wrong from None
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise wrong
    outside = (ids < 0) | (ids >= key.vocab_size) if len(ids) else np.zeros(0, bool)
    if outside.any():
        raise UserError(
            f"text {number} holds the token id {ids[outside][0]}, and the key is for ids from 0 to "
            f"{key.vocab_size - 1}: give ids of {key.model}"
        )
    return ids.astype(np.int64)


@dataclass(frozen=True)
class _Test:
    """One test, of many texts; the arguments are those of `detect`, `limit` log10 of `fpr`."""

    key: WatermarkKey
    messages: int
    limit: float
    by_passage: bool
    deduplicate: bool

    def of(self, ids: np.ndarray) -> Detection:
        h, asked = self.key.watermark.window, self.messages > 0
        mask = np.arange(len(ids)) >= h
        if self.deduplicate:
            # Where repeated windows are left unmarked they have nothing to say.
            once = self.key.watermark.skips_repeats
            mask = tokens_to_score(ids, h, windows_once=once)
        places, n = np.flatnonzero(mask), int(mask.sum())
        passages = self.by_passage and n >= SHORTEST_PASSAGE
        if passages and self.messages * n > MOST_PAIRS:
            raise UserError(
                f"messages is {self.messages}, and a text has {n} tokens to look for passages in: "
                "give fewer messages, or look for none in passages"
            )
        message = 0
        if n and self.messages > 1:
            best = self._best_by_passage if passages else self._best_message
            message = best(ids, places)
        scores = np.where(mask, scores_of(self.key, ids, [message])[0], np.nan)
        score, expected = float(scores[places].sum()), n * self._expected
        log10_p = float(self._log10_p(score, n))
        several = float(log10_of_several(log10_p, max(self.messages, 1)))
        passage, log10_p_passage, tests = None, None, max(self.messages, 1)
        if passages:
            start, end, found, looked_at = self._best_passage(scores[places])
            passage = int(places[start]), int(places[end - 1]) + 1
            tests *= looked_at
            log10_p_passage = float(log10_of_several(found, tests))
        verdict = several if log10_p_passage is None else log10_p_passage
        marked = verdict <= self.limit
        return Detection(
            tokens=len(ids),
            scored=n,
            skipped=len(ids) - n,
            score=score,
            expected=expected,
            log10_p=log10_p,
            message=message if asked else None,
            log10_p_message=several if asked else None,
            marked=marked,
            more_tokens=0 if marked else self._more_tokens(score, n, tests),
            passage=passage,
            log10_p_passage=log10_p_passage,
            token_scores=scores,
            token_ids=ids,
        )

    @property
    def _weights(self) -> np.ndarray:
        return tournament_weights(self.key.watermark.layers)

    @property
    def _gamma(self) -> float:
        return green_below(self.key.watermark.gamma) / 2**32

    @property
    def _expected(self) -> float:
        """A token's expected score without the mark."""
        match self.key.watermark.scheme:
            case "greenlist":
                return self._gamma
            case "tournament":
                return float(self._weights.sum()) / 2
        return 1.0

    def _log10_p(self, score: Any, n: Any) -> np.ndarray:
        match self.key.watermark.scheme:
            case "greenlist":
                return log10_binomial(score, n, self._gamma)
            case "tournament":
                return log10_lattice(score, n, self._weights)
        return log10_gamma(score, n)

    def _blocks(self, ids: np.ndarray, places: np.ndarray, *, summed: bool) -> Any:
        """Yields the first message of every block, and `[lanes, n]` scores or their sums."""
        h = self.key.watermark.window
        rows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.uint32), h + 1)[places - h]
        # Shapes are powers of two, so that few programs are compiled.
        longest = _BLOCK // _MOST_LANES
        width = min(1 << max(len(rows) - 1, 31).bit_length(), longest)
        lanes = min(1 << (self.messages - 1).bit_length(), _MOST_LANES)
        if not summed:
            # Passages need the scores of a whole text together.
            lanes = min(lanes, 1 << max(_BLOCK // len(rows), 1).bit_length() - 1)
        secret = np.asarray(self.key.secret, np.uint32)
        program = partial(
            block_scores,
            watermark=self.key.watermark,
            vocab_size=self.key.vocab_size,
            lanes=lanes,
            summed=summed,
        )
        for first in range(0, self.messages, lanes):
            found = []
            for start in range(0, len(rows), width):
                part = rows[start : start + width]
                padded = np.pad(part, ((0, width - len(part)), (0, 0)))
                there = np.arange(width) < len(part)
                values = np.asarray(program(secret, padded, there, np.uint32(first)), np.float64)
                found.append(values if summed else values[:, : len(part)])
            whole = np.sum(found, axis=0) if summed else np.concatenate(found, axis=1)
            yield first, whole[: self.messages - first]

    def _best_message(self, ids: np.ndarray, places: np.ndarray) -> int:
        """Returns the message of largest score, the first of several."""
        blocks = self._blocks(ids, places, summed=True)
        sums = np.concatenate([found for _, found in blocks])
        # Chosen in float64, so that all devices agree.
        near = np.flatnonzero(sums >= sums.max() * (1 - _NEAR))[:64]
        if len(near) > 1 and self.key.watermark.scheme in ("gumbel", "permute-flip"):
            exact = [scores_of(self.key, ids, [one])[0, places].sum() for one in near]
            return int(near[np.argmax(exact)])
        return int(near[0])

    def _best_by_passage(self, ids: np.ndarray, places: np.ndarray) -> int:
        """Returns the message of the passage of smallest p-value, the first of several."""
        lengths = _passage_lengths(len(places))
        best = np.full(len(lengths), -np.inf)
        message = np.zeros(len(lengths), int)
        for first, scores in self._blocks(ids, places, summed=False):
            for place, (sums, _) in enumerate(map(_passage_sums(scores), lengths)):
                most = sums.max(axis=1)
                if most.max() > best[place]:
                    best[place], message[place] = most.max(), first + int(most.argmax())
        return int(message[np.argmin(self._log10_p(best, np.asarray(lengths)))])

    def _best_passage(self, scores: np.ndarray) -> tuple[int, int, float, int]:
        """Returns start, end and log10 p of the best passage, and how many were looked at."""
        lengths = _passage_lengths(len(scores))
        passages = [_passage_sums(scores[None])(length) for length in lengths]
        sums = [float(found.max()) for found, _ in passages]
        values = self._log10_p(np.asarray(sums), np.asarray(lengths))
        best = int(np.argmin(values))
        found, starts = passages[best]
        start = int(starts[found[0].argmax()])
        looked_at = sum(len(starts) for _, starts in passages)
        return start, start + lengths[best], float(values[best]), looked_at

    def _more_tokens(self, score: float, n: int, tests: int) -> int | None:
        if n == 0 or score <= n * self._expected:
            return None
        mean = score / n
        rate = self._rate(mean) / math.log(10)
        # Of the whole text, after the corrections for messages and passages.
        target = self.limit - math.log10(tests)
        if rate * MOST_TOKENS < -target:
            return None
        # Chernoff's bound first, then steps along its slope, which is nearly that of log10 p.
        total = -target / rate
        for _ in range(2):
            count = max(math.ceil(total), n + 1)
            whole = self.key.watermark.scheme in ("greenlist", "tournament")
            reached = math.floor(mean * count) if whole else mean * count
            total = count + (float(self._log10_p(reached, count)) - target) / rate
        return min(max(math.ceil(total), n + 1), MOST_TOKENS) - n

    def _rate(self, mean: float) -> float:
        """Returns Chernoff's exponent of a mean score: p falls as exp(-n times it)."""
        match self.key.watermark.scheme:
            case "greenlist":
                gamma = self._gamma
                return float(rel_entr(mean, gamma) + rel_entr(1 - mean, 1 - gamma))
            case "tournament":
                return lattice_rate(mean, self._weights.tolist())
        return mean - 1 - math.log(mean)


def _passage_lengths(n: int) -> list[int]:
    """Returns 25, 50, 100, ... below `n`, and `n`."""
    lengths = []
    length = SHORTEST_PASSAGE
    while length < n:
        lengths.append(length)
        length *= 2
    return [*lengths, n]


def _passage_sums(scores: np.ndarray) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Returns what gives, of a length, the passages' sums `[M, S]` and their starts `[S]`.

    The scores are `[M, n]`; passages start at every quarter of their length.
    """
    edges = np.pad(np.cumsum(scores, axis=1), ((0, 0), (1, 0)))

    def of_length(length: int) -> tuple[np.ndarray, np.ndarray]:
        starts = np.arange(0, scores.shape[1] - length + 1, max(length // 4, 1))
        return edges[:, starts + length] - edges[:, starts], starts

    return of_length
