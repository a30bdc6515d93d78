"""Candidate re-scoring: the likeliest next tokens are all read, judged, and drawn from anew.

FUDGE (Yang and Klein, NAACL 2021, arXiv 2104.05218, equation 2) draws from
p(v | x) p(c | x v)^strength over the K likeliest tokens; RAD (Deng and Raffel, EMNLP 2023, arXiv
2310.09520) adds strength * p(c | x v) to the logits instead, as Controlled Decoding (Mudgal et al.,
ICML 2024, arXiv 2310.17022) adds the value of a prefix. The candidates are the lanes of one call;
the row of the one that is drawn is the next token's, so nothing is read twice or copied. A
discriminator that judges children before they are read can spare that call its lanes: with
`look_ahead` only the candidate that is drawn is read.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import entry_at
from coopgen_jax.decoding.job import (
    Decoder,
    Job,
    children,
    ends,
    read_nodes,
    roots,
    shaped,
    stop_states,
    write_token,
)
from coopgen_jax.decoding.judgement import LEAST, check_foresight, foreseen, log_target
from coopgen_jax.decoding.methods.rescoring import (
    RescoringState,
    begin_rescoring,
    choose,
    seen_of,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.slots import commit, move
from coopgen_jax.parallel.mesh import top_k


@dataclass(frozen=True)
class FudgeConfig(DecoderSettings):
    """Draws among the likeliest tokens, weighed by the discriminator (FUDGE, RAD).

    `log_proposal` is what a text was drawn with, NaN where greedily; `simulations` counts the
    candidates that were judged once read, with `look_ahead` the tokens written.

    Attributes:
      candidates: `K`, likeliest tokens that are judged.
      strength: weight of the discriminator; 0 leaves top-K sampling.
      score: adds strength times "log" p(c|x v) to the logits, or its "value" p(c|x v). The first is
        FUDGE's, the second that of RAD and Controlled Decoding.
      look_ahead: judges candidates before they are read; only the drawn one is read then. It needs
        a discriminator that has foresight: a look-ahead head, a generative one, a bag of words, or
        one that reads every text anew, such as a function of texts.
      greedy: takes the best candidate instead of drawing.
    """

    candidates: int = 20
    strength: float = 1.0
    score: Literal["log", "value"] = "log"
    look_ahead: bool = False
    greedy: bool = False

    always_guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "candidates")
        self._check_least(0, "strength")
        if self.score not in ("log", "value"):
            raise ValueError(f"score is {self.score!r}: give log or value")

    @property
    def few_candidates(self) -> bool:
        """Whether the tokens that may be drawn are a few: the candidates are."""
        return True

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.samples > 1 and (self.greedy or self.candidates == 1)


def begin(job: Job) -> RescoringState:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to judge candidates by, or not before they are read where that is
        asked for, or the prompts exceed the context.
    """
    config: FudgeConfig = job.config
    if job.discriminator is None or job.target is None:
        raise UserError("candidates are judged by a discriminator: give one and a target")
    count = min(config.candidates, job.language_model.vocab_size)
    state = begin_rescoring(job, nodes=1 if config.look_ahead else 1 + count)
    if config.look_ahead:
        check_foresight(job, state.states, "fudge with look_ahead", few=True)
    return state


def advance(key: jax.Array, job: Job, state: RescoringState) -> tuple[RescoringState, None]:
    """Judges the candidates of every text that is not finished and writes one of them."""
    config: FudgeConfig = job.config
    assert job.target is not None
    generation = state.generation
    count = min(config.candidates, job.language_model.vocab_size)
    logits = shaped(job, state.logits, seen_of(job, state))
    best, tokens = top_k(logits, count, shards=job.language_model.vocab_shards)
    if config.look_ahead:
        root = roots(generation.length)
        said = foreseen(job, state.states, root, tokens[:, :, None])[:, :, 0]
        token, log_proposal = choose(key, job, state, _score(config, best, said), tokens)
        return write_token(job, state, token, log_proposal, simulations=1), None
    tokens = tokens.astype(jnp.int32)
    end = ends(job, tokens, stop_states(state.states, jnp.zeros_like(tokens)))
    nodes = children(tokens, generation.length, terminal=end, slot=1)
    above = generation.log_class[:, :, None]
    logits, log_class, states = read_nodes(job, state.states, nodes, above)
    said = jnp.maximum(log_target(log_class, job.target), LEAST)
    token, log_proposal = choose(key, job, state, _score(config, best, said), tokens)
    chosen = jnp.argmax(tokens == token[..., None], axis=-1)
    logits, log_class = entry_at((logits, log_class), chosen)
    read = logits, log_class, commit(move(states, 1 + chosen[..., None]), generation.length)
    after = write_token(
        job, state, token, log_proposal, read, model_tokens=count, simulations=count
    )
    return after, None


def _score(config: FudgeConfig, best: jax.Array, said: jax.Array) -> jax.Array:
    """Returns what candidates are drawn by, of their logits and log p(c | x v), all `[B, R, K]`."""
    if not config.strength:
        return best
    return best + config.strength * (said if config.score == "log" else jnp.exp(said))


FUDGE = Decoder(begin, advance)
