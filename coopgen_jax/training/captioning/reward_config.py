"""The settings of a round of rewarded captioning."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.training.captioning.baselines import CaptionBaseline
from coopgen_jax.training.captioning.caption_objectives import CaptionObjective
from coopgen_jax.training.captioning.rewards import ALPHA, TEMPERATURE, Combine

Similarity = Literal["contrastive", "one-way", "clip-s"]
Regulariser = Literal["discriminator", "grammar"]


@dataclass(frozen=True)
class RewardConfig:
    """One round: write captions, reward them and their references, take a step.

    Attributes:
      objective: which captions are weighed by their rewards; see `caption_objectives`.
      similarity: the reward of a caption for its image: "contrastive" in both directions, "one-way"
        from image to text, or "clip-s".
      combine: of "contrastive": the sum of both directions or their mean.
      temperature: of the contrastive rewards.
      baseline: what is subtracted from the reward of what was written; see `caption_advantage`. The
        contrastive rewards have similar images inside: "group" and "strongest" are for "clip-s".
      regulariser: what keeps the language human: a "discriminator" that is trained beside the
        captioner, or a "grammar" head, trained beforehand.
      alpha: share of the similarity in the reward, the rest is the regulariser's probability of a
        human, or sound, caption; 1 for no regulariser.
      offset: what is added to every reward; see `total_reward`.
      per_token: whether a caption's log-likelihood is averaged over its tokens.
      proposal: the method that writes, `samples` captions of every image.
    """

    objective: CaptionObjective = "wtf-rl"
    similarity: Similarity = "contrastive"
    combine: Combine = "sum"
    temperature: float = TEMPERATURE
    baseline: CaptionBaseline = "none"
    regulariser: Regulariser = "discriminator"
    alpha: float = ALPHA
    offset: float = 0.0
    per_token: bool = True
    proposal: DecoderSettings = field(
        default_factory=lambda: BeamConfig(new_tokens=50, beams=5, rules=Rules(no_repeat_ngram=3))
    )

    def __post_init__(self) -> None:
        for name, known in (
            ("objective", CaptionObjective),
            ("similarity", Similarity),
            ("combine", Combine),
            ("baseline", CaptionBaseline),
            ("regulariser", Regulariser),
        ):
            if getattr(self, name) not in get_args(known):
                raise UserError(
                    f"there is no {name} {getattr(self, name)!r}: choose one of "
                    f"{', '.join(get_args(known))}"
                )
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}: give a share from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: it must be above 0")
        if not math.isfinite(self.offset):
            raise UserError(f"offset is {self.offset}: give a finite number")
        if self.baseline in ("group", "strongest") and self.similarity != "clip-s":
            raise UserError(
                f"the baseline {self.baseline} compares with similar images, as the reward "
                f"{self.similarity} does itself: give similarity clip-s with it"
            )
        if self.proposal.guided:
            raise UserError("a round's captions are written without a guide: give another method")
