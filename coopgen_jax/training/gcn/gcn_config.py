"""The settings of one round of cooperative training."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.training.gcn.importance import Baseline

Objective = Literal["gcn", "selfgan", "gan", "gdc", "mle"]
Scheduler = Literal["none", "manual", "z"]
Negatives = Literal["proposal", "generator"]
# Steps of the discriminator on the texts of one sampling, where `discriminator_steps` is 0.
TURN = 4


class ProposalError(UserError):
    """A proposal that does not go with the objective."""


@dataclass(frozen=True)
class GcnConfig:
    """One round: sample, train the discriminator, weigh, train the generator.

    Attributes:
      objective: how texts are weighed. "gcn" climbs towards p_{t-1} D_t by self-normalised
        importance weights (Lamprier et al., ICML 2022, arXiv 2201.12320); "selfgan" counts all
        texts of a cooperative decoder alike (Scialom et al., NeurIPS 2021, arXiv 2106.06363);
        "gan" is REINFORCE with D as its reward, a discrete GAN; "gdc" climbs towards p_0 D_t, which
        changes with D alone (Khalifa et al., ICLR 2021, arXiv 2012.11635); "mle" reads human texts
        for the same sources, without any discriminator.
      proposal: settings of the decoder that samples texts, `samples` for every source.
      sources: `B` sources of a round; of unconditional texts so many times `samples` are sampled.
      generator_steps: steps on a round's texts, whose weights stay those of the generator that
        sampled them.
      discriminator_steps: steps of the discriminator in a round.
      first_discriminator_steps: its steps in the first round, if that is more; those in front of
        `discriminator_steps` are on fresh texts of the generator.
      discriminator_rows: texts of such a step, half of them human, for the same sources.
      replay_rows: texts of earlier rounds that are remembered, with human ones beside them.
      replay_share: their share of a step.
      negatives: whether the discriminator is trained on texts that the "generator" has sampled by
        itself or on those of the "proposal", which saves one sampling pass. With the former the
        fixed point of p D is reached where p is the distribution of human texts; with the latter it
        lies elsewhere, the farther the farther the proposal is from p.
      prefixes: whether the discriminator is trained on every prefix of a text, which a decoder
        needs that asks it on the way, or on full texts; None for what the proposal needs.
      clip: weights above so many times their mean are cut; see `importance.self_normalised`.
      kl: price of leaving the first generator; see `imitation.weighted_likelihood_loss`.
      baseline: of "gan": what is subtracted from a reward.
      scheduler: of "gan": "manual" halves its rewards every `half_life` rounds, "z" divides them by
        their sum, which is "gcn" with the generator as its own proposal.
      half_life: of the "manual" scheduler, in rounds.
    """

    objective: Objective = "gcn"
    proposal: DecoderSettings = field(
        default_factory=lambda: SamplingConfig(mix_base=0.1, samples=4, rules=Rules(top_p=0.9))
    )
    sources: int = 8
    generator_steps: int = 1
    discriminator_steps: int = 4
    first_discriminator_steps: int = 50
    discriminator_rows: int = 32
    replay_rows: int = 512
    replay_share: float = 0.25
    negatives: Negatives = "generator"
    prefixes: bool | None = None
    clip: float | None = None
    kl: float = 0.0
    baseline: Baseline = "none"
    scheduler: Scheduler = "none"
    half_life: float = 100.0

    def __post_init__(self) -> None:
        for name, known in (
            ("objective", Objective),
            ("scheduler", Scheduler),
            ("negatives", Negatives),
            ("baseline", Baseline),
        ):
            if getattr(self, name) not in get_args(known):
                raise UserError(
                    f"there is no {name} {getattr(self, name)!r}: choose one of "
                    f"{', '.join(get_args(known))}"
                )
        for name in (
            "sources",
            "generator_steps",
            "first_discriminator_steps",
            "discriminator_rows",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.discriminator_rows % 2:
            raise UserError(
                f"discriminator_rows is {self.discriminator_rows}: half of them are human texts, "
                "so give an even number"
            )
        if self.discriminator_steps < 0 or self.replay_rows < 0:
            raise UserError("discriminator_steps and replay_rows must be 0 or more")
        if not 0 <= self.replay_share < 1:
            raise UserError(f"replay_share is {self.replay_share}: give a share from 0 to below 1")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"clip is {self.clip}: give a multiple of the mean above 0, or none")
        if not 0 <= self.kl < float("inf"):
            raise UserError(f"kl is {self.kl}: give a price of 0 (none) or more")
        if not self.half_life > 0:
            raise UserError(f"half_life is {self.half_life} rounds: it must be above 0")
        if self.clip is not None and self.objective != "gcn":
            raise UserError(f"clip says nothing to {self.objective}, only to gcn")
        if self.objective != "gan" and (self.baseline != "none" or self.scheduler != "none"):
            raise UserError(f"baseline and scheduler say nothing to {self.objective}, only to gan")
        if self.scheduler == "z" and self.baseline != "none":
            raise UserError("rewards from which a baseline is taken have no sum to divide by")
        if self.texts < 2 and self.compares:
            raise UserError(
                "a text is weighed against others of its round, and there is one: give sources or "
                "samples of 2 or more"
            )
        self._check_proposal()

    def check_sources(self) -> None:
        """Raises UserError where texts cannot be compared with those of their own source only."""
        if self.proposal.samples < 2 and self.compares:
            raise UserError(
                "a text of one source is weighed against others of it, and there is one sample "
                "each: give samples of 2 or more"
            )
        if self.objective == "gdc":
            raise UserError(
                "gdc estimates one Z for all texts, and every source has its own: train by gcn"
            )

    def _check_proposal(self) -> None:
        if self.objective in ("gcn", "gdc") and not self.weighable:
            raise ProposalError(
                f"{self.objective} weighs a text by the probability that it was sampled with, and "
                "of this proposal it cannot be had: draw tokens (temperature, value_power or "
                "visit_temperature above 0) by sampling, search, FUDGE or SMC, or train by "
                "selfgan, which weighs all alike"
            )
        if self.objective == "gdc" and isinstance(self.proposal, SMCConfig):
            raise ProposalError(
                "particles are weighed towards p_{t-1} D, and gdc aims at p_0 D: sample otherwise, "
                "or train by gcn"
            )
        if self.objective == "gan" and not self.own:
            raise ProposalError(
                "a discrete GAN learns from what the generator samples by itself: give plain "
                "sampling (no truncation, no rule), or train by gcn"
            )
        if self.objective == "selfgan" and (
            not self.proposal.guided or isinstance(self.proposal, SMCConfig)
        ):
            raise ProposalError(
                "SelfGAN imitates what a decoder writes under the discriminator's guidance: give "
                "one that asks it and does not weigh its texts, such as mcts, das, fudge or rerank"
            )

    @property
    def compares(self) -> bool:
        """Whether a text is weighed against others: a single one would always weigh the same."""
        return self.objective == "gcn" or self.scheduler == "z" or self.baseline == "mean"

    @property
    def plain(self) -> SamplingConfig:
        """What samples as many texts from the generator by itself."""
        proposal = self.proposal
        return SamplingConfig(new_tokens=proposal.new_tokens, samples=proposal.samples)

    @property
    def own(self) -> bool:
        """Whether the proposal is the generator's own distribution."""
        return self.proposal == self.plain

    @property
    def weighable(self) -> bool:
        """Whether texts have weights: of known density, or because the decoder weighs them."""
        match self.proposal:
            case SamplingConfig(rules=rules):
                return rules.temperature > 0 and not rules.forced
            case MCTSConfig() as searched:
                return searched.draws
            case FudgeConfig() as chosen:
                return not chosen.greedy
        return isinstance(self.proposal, SMCConfig)

    @property
    def covers(self) -> bool:
        """Whether the proposal can write all that the generator can, so that weights are unbiased.

        A truncated one needs a share of the whole distribution (`mix_base`).
        """
        match self.proposal:
            case SamplingConfig(mix_base=share) as drawn:
                smooth = replace(
                    drawn, rules=replace(drawn.rules, temperature=1.0, repetition_penalty=1.0)
                )
                return share > 0 or smooth == self.plain
            case MCTSConfig() as searched:
                return searched.has_full_support
        return isinstance(self.proposal, SMCConfig)

    @property
    def guided(self) -> bool:
        """Whether the proposal asks the discriminator."""
        return self.objective != "mle" and self.proposal.guided

    @property
    def reads_prefixes(self) -> bool:
        """Whether the discriminator is trained on every prefix of a text."""
        return self.guided if self.prefixes is None else self.prefixes

    @property
    def steps_ahead(self) -> int:
        """Steps of the discriminator in front of the first round's own."""
        return max(0, self.first_discriminator_steps - self.discriminator_steps)

    @property
    def turn(self) -> int:
        """How many of these steps one sampling is for."""
        return self.discriminator_steps or TURN

    @property
    def samplings(self) -> int:
        """How many samplings these steps take."""
        return -(-self.steps_ahead // self.turn)

    @property
    def texts(self) -> int:
        """`M`, texts of a round."""
        return self.sources * self.proposal.samples
