"""GeDi: every token of the vocabulary is weighed by the class that it would bring about.

Krause, Gotmare, McCann, Keskar, Joty, Socher and Rajani, "GeDi: Generative Discriminator Guided
Sequence Generation" (Findings of EMNLP 2021, arXiv 2009.06367). With the judgement of all children
of a text from one pass of the discriminator the next token comes from

    p_w(v | x, c) is proportional to p(v | x) p(c | x v)^omega

over the whole vocabulary, after a filter: of the tokens in the order of p(c | x v) the smallest
set of the best whose p_w reaches 1 - rho is kept, and with it every token with p(c | x v) above
tau. The language model and the discriminator read one token per token written, as in sampling. The
repetition penalty is CTRL's, on the language model's logits; the authors' code applies it to the
weighed ones.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.job import Decoder, Job, roots, shaped, write_token
from coopgen_jax.decoding.judgement import check_foresight, foreseen
from coopgen_jax.decoding.methods.rescoring import (
    RescoringState,
    begin_rescoring,
    choose,
    seen_of,
)
from coopgen_jax.decoding.rules.shaping import CTRL, Rules
from coopgen_jax.decoding.rules.truncation import leading


@dataclass(frozen=True)
class GediConfig(DecoderSettings):
    """Weighs the whole vocabulary by a discriminator that has foresight (GeDi).

    The defaults are the published settings.

    `log_proposal` is what a text was drawn with, NaN where greedily; `simulations` counts how often
    the vocabulary was judged.

    Attributes:
      strength: omega, the exponent of p(c | x v); 0 leaves the language model's distribution.
      filter_p: rho, the probability under p_w that the filter may take away, from the tokens with
        the least p(c | x v) on; 0 for no filter.
      target_p: tau, the p(c | x v) above which a token is kept whatever its place; 1 for none.
      draw: draws tokens of what is left instead of taking the likeliest.
    """

    rules: Rules = CTRL
    strength: float = 30.0
    filter_p: float = 0.8
    target_p: float = 0.8
    draw: bool = False

    always_guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(0, "strength")
        if not 0 <= self.filter_p < 1:
            raise ValueError(
                f"filter_p is {self.filter_p}: give a probability below 1, 0 for no filter"
            )
        if not 0 <= self.target_p <= 1:
            raise ValueError(f"target_p is {self.target_p}: give a probability from 0 to 1")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return not self.draw


def begin(job: Job) -> RescoringState:
    """Reads the prompts.

    Raises:
      UserError: there is no discriminator or target, the discriminator does not judge children of
        this vocabulary, or the prompts exceed the context.
    """
    state = begin_rescoring(job)
    check_foresight(job, state.states, "gedi")
    return state


def advance(key: jax.Array, job: Job, state: RescoringState) -> tuple[RescoringState, None]:
    """Writes one token of every text that is not finished; there is no tree to show."""
    config: GediConfig = job.config
    said = foreseen(job, state.states, roots(state.generation.length), None)[:, :, 0]
    score = shaped(job, state.logits, seen_of(job, state))
    if config.strength:
        score = score + config.strength * said
    score = by_class(score, said, mass=1 - config.filter_p, certain=config.target_p)
    token, log_proposal = choose(key, job, state, score)
    return write_token(job, state, token, log_proposal, simulations=1), None


def by_class(score: jax.Array, said: jax.Array, *, mass: float, certain: float) -> jax.Array:
    """Keeps the tokens that bring the class about; the others become minus infinity.

    `score` `[..., V]` are the logits of p_w and `said` `[..., V]` is log p(c | x v). In the order
    of the latter, the lower id first among equals, tokens are kept until their p_w reaches the
    `mass`, 1 - rho. Those above tau, which is `certain`, are kept besides.
    """
    if mass >= 1:
        return score
    kept = leading(said, jax.nn.softmax(score), mass)
    return jnp.where(kept | (said > jnp.log(certain)), score, -jnp.inf)


GEDI = Decoder(begin, advance)
