"""Rules on the next token: one record, applied in one order by every decoder.

There are two kinds. *Constraints* (bad words, least length, forced tokens, stop strings) say what a
text may be: they restrict every distribution, that of a weight and of a mixture's full part
included. *Shaping* (repetition penalty, n-gram rule, token bias, temperature, truncation) says how
a text is looked for: it touches proposals and priors alone.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.rules.repetition import no_repeat_ngram, repetition_penalty
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.decoding.rules.truncation import (
    eta_cutoff,
    min_p,
    top_k_and_nucleus,
    typical,
)
from coopgen_jax.decoding.rules.watermark import Mark, Watermark, biased
from coopgen_jax.decoding.rules.words import add_bias, forbid, forbid_ends, force

# Shaping that takes the probability of some tokens to zero.
TRUNCATION = ("top_k", "top_p", "min_p", "typical_p", "eta")
REMOVES_SUPPORT = ("no_repeat_ngram", *TRUNCATION)
SHAPING = (
    "repetition_penalty", "no_repeat_ngram", "token_bias", "temperature", *TRUNCATION,
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """What may follow a text, and how it is looked for; static under `jit`.

    The rules apply in the order in which they stand here, each to what the ones before it have
    left.

    Attributes:
      repetition_penalty: CTRL's penalty on tokens of the prompt and the text so far; 1 for none.
      no_repeat_ngram: n-grams of this length are never written twice; 0 for no such rule.
      penalise_prompt: whether the prompt counts as text that these two rules, and bad words, have
        seen.
      token_bias: token ids and what is added to their logits.
      bad_words: sequences of tokens that are never completed.
      min_tokens: tokens that a text has at least: no token ends it before.
      forced: tokens that every text begins with, whatever the other rules say.
      stop: strings that end a text as soon as they are complete. The text is cut in front of them;
        `cg.generate` takes the strings, `cg.decode` what `StopStrings.compile` makes of them.
      temperature: divides the logits; 0 is greedy where a method allows it.
      top_k: how many of the likeliest tokens may be drawn, 0 for all.
      top_p: probability of the nucleus; 1 for all.
      min_p: least share of the likeliest token's probability; 0 for none.
      typical_p: probability of the locally typical tokens that may be drawn; 1 for all.
      eta: epsilon of eta sampling; 0 for none.
      watermark: the mark that texts are given, in the logits before the temperature or in the draw;
        None for none. `decode` takes the secret as `marking`, `cg.generate` a key.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    penalise_prompt: bool = True
    token_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    forced: tuple[int, ...] = ()
    stop: tuple[str, ...] | StopStrings = ()
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    eta: float = 0.0
    watermark: Watermark | None = None

    def __post_init__(self) -> None:
        infinity = float("inf")
        if not 0 < self.repetition_penalty < infinity:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: give 1 or more")
        if self.no_repeat_ngram < 0 or self.no_repeat_ngram == 1:
            raise ValueError(
                f"no_repeat_ngram is {self.no_repeat_ngram}: give 0 (no rule), or 2 or more"
            )
        if not all(abs(bias) < infinity for _, bias in self.token_bias):
            raise ValueError("token_bias must be finite: rule a token out by bad_words")
        if not all(self.bad_words):
            raise ValueError("a bad word has no tokens: leave it out")
        if min(self._tokens, default=0) < 0:
            raise ValueError(
                "bad words, forced tokens and biases are given by token ids: 0 or more"
            )
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens is {self.min_tokens}: give 0 or more")
        if not isinstance(self.stop, StopStrings) and not all(self.stop):
            raise ValueError("a stop string is empty: leave it out")
        if not 0 <= self.temperature < infinity:
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a probability above 0, 1 for no nucleus")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: give a share from 0 (no rule) to 1")
        if not 0 < self.typical_p <= 1:
            raise ValueError(
                f"typical_p is {self.typical_p}: give a probability above 0, 1 for all"
            )
        if not 0 <= self.eta < 1:
            raise ValueError(f"eta is {self.eta}: give 0 (no rule) or a probability below 1")

    @property
    def constrains(self) -> bool:
        """Whether any constraint restricts the next token; a stop string alone does not."""
        return bool(self.bad_words or self.min_tokens or self.forced)

    @property
    def _tokens(self) -> list[int]:
        words = (*self.bad_words, self.forced, (token for token, _ in self.token_bias))
        return list(chain.from_iterable(words))

    @property
    def largest_token(self) -> int:
        """The largest token id that a rule names, -1 where none does."""
        return max(self._tokens, default=-1)

    def changed(self, names: tuple[str, ...]) -> list[str]:
        """Returns which of these rules are not at their defaults."""
        return [name for name in names if getattr(self, name) != getattr(Rules, name)]


NO_RULES = Rules()
# CTRL's penalty, as PPL-MCTS and GeDi were published with.
CTRL = Rules(repetition_penalty=1.2)


@struct.dataclass
class Seen:
    """What stands in front of the next token of every text; the leading axes are any.

    Attributes:
      tokens: `[..., S]` int32 the prompt and the text, in order; gaps are allowed.
      mask: `[..., S]` bool, true where there is a token.
      length: `[...]` int32 how many new tokens there are.
      stop: `[...]` int32 states of the stop strings' automaton, None without stop strings.
      mark: the watermark of the next token, None where it is not marked.
    """

    tokens: jax.Array
    mask: jax.Array
    length: jax.Array
    stop: jax.Array | None = None
    mark: Mark | None = None

    def followed_by(self, more: "Seen") -> "Seen":
        """Returns what stands in front where more tokens follow; missing axes are the same ones."""

        def joined(own: jax.Array, other: jax.Array) -> jax.Array:
            own = jnp.broadcast_to(own, (*other.shape[:-1], own.shape[-1]))
            return jnp.concatenate([own, other], axis=-1)

        tokens, mask = joined(self.tokens, more.tokens), joined(self.mask, more.mask)
        return Seen(tokens, mask, self.length + more.length, more.stop, more.mark)


def constrain(
    rules: Rules, logits: jax.Array, seen: Seen, *, ends: tuple[int, ...], given: Any = None
) -> jax.Array:
    """Applies the constraints alone: logits `[..., V]` are minus infinity where one rules out.

    The tokens `ends` end a text; forced tokens keep their logits of `given`, by default `logits`.
    """
    given = logits if given is None else given
    logits = forbid(logits, seen.tokens, seen.mask, rules.bad_words)
    if rules.min_tokens:
        stop = rules.stop if isinstance(rules.stop, StopStrings) else None
        over = None if stop is None or seen.stop is None else stop.completing(seen.stop)
        logits = forbid_ends(logits, seen.length < rules.min_tokens, ends, over)
    return force(logits, seen.length, rules.forced, given)


def unrepeated(rules: Rules, log_p: jax.Array, seen: Seen, *, ends: tuple[int, ...]) -> jax.Array:
    """Applies what leaves the other tokens' scores alone: the n-gram rule and the constraints.

    It is for beams, which rank log p and draw nothing.
    """
    left = no_repeat_ngram(log_p, seen.tokens, seen.mask, rules.no_repeat_ngram)
    return constrain(rules, left, seen, ends=ends, given=log_p)


def shape(
    rules: Rules, logits: jax.Array, seen: Seen, *, ends: tuple[int, ...], shards: int = 1
) -> jax.Array:
    """Applies all rules to logits `[..., V]`, whose softmax is then the distribution to draw from.

    A temperature of 0 neither scales nor truncates, for a greedy choice. The tokens `ends` end a
    text, and the vocabulary is split over so many `shards`; see `parallel.mesh.top_k`.
    """
    given = logits
    logits = repetition_penalty(logits, seen.tokens, seen.mask, rules.repetition_penalty)
    logits = no_repeat_ngram(logits, seen.tokens, seen.mask, rules.no_repeat_ngram)
    logits = add_bias(logits, rules.token_bias)
    logits = constrain(rules, logits, seen, ends=ends, given=given)
    logits = marked(rules, logits, seen)
    if rules.temperature == 0:
        return logits
    logits = logits / rules.temperature
    logits = top_k_and_nucleus(logits, top_k=rules.top_k, top_p=rules.top_p, shards=shards)
    logits = min_p(logits, rules.min_p)
    logits = typical(logits, rules.typical_p)
    return eta_cutoff(logits, rules.eta)


def marked(
    rules: Rules, scores: jax.Array, seen: Seen, tokens: jax.Array | None = None
) -> jax.Array:
    """Adds a watermark's bias to the scores `[..., K]` that a token is chosen by, if there is one.

    They are log-probabilities of `tokens` `[..., K]`, None where `K` is the vocabulary.
    """
    if rules.watermark is None or seen.mark is None:
        return scores
    return biased(rules.watermark, scores, seen.mark, tokens)


def log_marked(rules: Rules, log_p: jax.Array, seen: Seen) -> jax.Array:
    """Returns log p `[..., V]` of the language model with a watermark's bias, normalised."""
    if rules.watermark is None or rules.watermark.draws or seen.mark is None:
        return log_p
    return jax.nn.log_softmax(marked(rules, log_p, seen))


def log_constrained(
    rules: Rules, logits: jax.Array, seen: Seen, *, ends: tuple[int, ...]
) -> jax.Array:
    """Returns log p `[..., V]` of the language model under the constraints, normalised."""
    return jax.nn.log_softmax(constrain(rules, logits.astype(jnp.float32), seen, ends=ends))
