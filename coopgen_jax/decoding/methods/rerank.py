"""Re-ranking: several texts are written, and the one that the discriminator likes best is kept.

Best-of-n: the sampling-argmax and beam-argmax that Chaffin et al. (NAACL 2022, arXiv 2109.13582)
compare PPL-MCTS with. The discriminator has no say in what is written, only in what is kept.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import changed, settings_of
from coopgen_jax.decoding.generation import Generation, entry_at, grouped
from coopgen_jax.decoding.hypotheses import check_length_penalty, per_length
from coopgen_jax.decoding.job import Decoder, Job
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.methods.beam import BEAM, BeamConfig
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.rules.shaping import NO_RULES, Rules
from coopgen_jax.errors import UserError


@dataclass(frozen=True)
class RerankConfig(DecoderSettings):
    """Keeps the best of several texts under the discriminator (best-of-n).

    `log_proposal` is NaN, for nobody can tell how likely the best of several texts is, and
    `simulations` counts the texts that were compared.

    Attributes:
      proposal: how texts are drawn, or found by beam search; its `new_tokens`, `samples` and
        `rules` are not read.
      of: `N`, how many texts one is chosen from. Of a beam search the best `N` are the first
        sample's, the next `N` the second's.
      alpha: weight of log p(c|x) against a token's mean log-likelihood, from 0 to 1. A weight `a`
        beside a log-likelihood of weight 1 is an alpha of a / (1 + a).
      length_penalty: power of the length that makes the log-likelihood a mean; 0 compares sums.
    """

    proposal: SamplingConfig | BeamConfig = field(default_factory=SamplingConfig)
    of: int = 16
    alpha: float = 1.0
    length_penalty: float = 1.0

    may_be_greedy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, "of")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}: give a weight from 0 to 1")
        check_length_penalty(self.length_penalty, self.new_tokens)
        if self.proposal.rules != NO_RULES:
            raise ValueError("the rules of a re-ranking are its own: give them beside the proposal")
        _ = self.written  # whose own checks are made

    def with_settings(self, **values: Any) -> Self:
        """Returns these settings with others, given by flat name.

        A setting of beams has beam search write the texts, all of which are compared unless `of` is
        given too.
        """
        mine = ("new_tokens", "samples", *(setting.name for setting in settings_of(Rules)))
        of_beams = {setting.name for setting in settings_of(BeamConfig)} - set(mine)
        proposal = self.proposal
        if values.keys() & of_beams and not isinstance(proposal, BeamConfig):
            proposal = BeamConfig()
        own = {*mine, "of", "alpha"}
        theirs = {name: value for name, value in values.items() if name not in own}
        if isinstance(proposal, BeamConfig):
            for name in values:
                if name in proposal.refuses or name in theirs.keys() - of_beams:
                    raise ValueError(f"{name} says nothing to beams: leave it or beams out")
        proposal = changed(proposal, theirs)
        if isinstance(proposal, BeamConfig):
            samples = max(1, values.get("samples", self.samples))
            values.setdefault("of", max(1, proposal.beams * proposal.groups // samples))
        by_name = {name: value for name, value in values.items() if name in own}
        rules = changed(self.rules, {n: by_name.pop(n) for n in mine[2:] if n in by_name})
        return replace(self, proposal=proposal, rules=rules, **by_name)

    @property
    def guided(self) -> bool:
        """Whether the method needs a discriminator and a target."""
        return self.alpha > 0

    @property
    def draws(self) -> bool:
        """Whether every token that is written is drawn."""
        return not (self.greedy or isinstance(self.proposal, BeamConfig))

    @property
    def lanes(self) -> int:
        """How many texts of a prompt are drawn side by side."""
        return self.samples * self.of

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.written.deterministic

    @property
    def written(self) -> SamplingConfig | BeamConfig:
        """How all texts of a prompt are written together."""
        return replace(
            self.proposal,
            new_tokens=self.new_tokens,
            samples=self.samples * self.of,
            rules=self.rules,
        )


def begin(job: Job) -> Any:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to compare texts by, or they exceed the context.
    """
    if job.config.alpha > 0 and (job.discriminator is None or job.target is None):
        raise UserError(
            "re-ranking compares texts by a discriminator: give one and a target, or an alpha of 0"
        )
    return _writer(job).begin(_writing(job))


def advance(key: jax.Array, job: Job, state: Any) -> tuple[Any, None]:
    """Writes one token of every text, `R * n` of them per prompt."""
    after, _ = _writer(job).advance(key, _writing(job), state)
    return after, None


def finish(job: Job, generation: Generation) -> Generation:
    """Returns the best of every `n` texts; what it cost to read them all is counted."""
    config: RerankConfig = job.config

    score = jnp.zeros(generation.length.shape, jnp.float32)
    if config.alpha > 0 and job.target is not None:
        score = config.alpha * log_target(generation.log_class[:, :, None], job.target)[:, :, 0]
    if config.alpha < 1:
        mean = per_length(generation.log_prob, generation.length, config.length_penalty)
        score = score + (1 - config.alpha) * mean
    # Beams that found nothing are no texts.
    score = jnp.where(jnp.isfinite(generation.log_prob), score, -jnp.inf)
    texts, score = grouped((generation, score), config.of)
    best = jnp.argmax(score, axis=-1)
    return replace(
        entry_at(texts, best),
        log_proposal=jnp.full(best.shape, jnp.nan, jnp.float32),
        simulations=jnp.full(best.shape, config.of, jnp.int32),
        model_tokens=texts.model_tokens.sum(axis=-1),
    )


def _writer(job: Job) -> Decoder:
    return BEAM if isinstance(job.config.proposal, BeamConfig) else SAMPLING


def _writing(job: Job) -> Job:
    return replace(job, config=job.config.written)


RERANK = Decoder(begin, advance, finish)
