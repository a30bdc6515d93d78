"""What `experiments.captioning` compares: rewards of captioners, and guided decoding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import coopgen_jax as cg
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.training.captioning.reward_config import RewardConfig

if TYPE_CHECKING:
    from experiments.captioning import Config

FORCED = "mle"
RULES = cg.Rules(no_repeat_ngram=3)


@dataclass(frozen=True)
class Rewarded:
    """A captioner that rewards train.

    Attributes:
      settings: of `RewardConfig`, beside what all have.
      offset: whether the config's offset is added to the reward: what weighs references has to be
        positive.
      temperature: at which captions are drawn, None for the config's. Most captions that are drawn
        colder than the model are below a baseline that is one caption, such as the greedy one:
        lowering all of them flattens the distribution.
    """

    settings: dict[str, Any]
    offset: bool = False
    temperature: float | None = None


CLIP_S = {"objective": "rl", "similarity": "clip-s"}
REWARDED = {
    "wtf": Rewarded({"objective": "wtf"}, offset=True),
    "rl": Rewarded({"objective": "rl"}),
    "wtf-rl": Rewarded({"objective": "wtf-rl"}, offset=True),
    "rl-one-way": Rewarded({"objective": "rl", "similarity": "one-way"}),
    "rl-alone": Rewarded({"objective": "rl", "alpha": 1.0}),
    "rl-strongest": Rewarded(CLIP_S | {"baseline": "strongest"}, temperature=1.0),
    "scst": Rewarded(CLIP_S | {"baseline": "greedy"}, temperature=1.0),
    "scst-grammar": Rewarded(
        CLIP_S | {"baseline": "greedy", "regulariser": "grammar"}, temperature=1.0
    ),
}
GUIDED = ("rerank", "fudge", "mcts")
METHODS = (FORCED, *REWARDED, *GUIDED)


def reward_of(config: "Config", name: str, temperature: float) -> RewardConfig:
    """Returns the settings of a rewarded captioner's rounds.

    Several captions of an image are drawn. Of the contrastive rewards the mean of the image's other
    ones is the baseline.
    """
    method = REWARDED[name]
    return RewardConfig(
        **{"baseline": "leave-one-out"} | method.settings,
        temperature=temperature,
        offset=config.offset if method.offset else 0.0,
        proposal=cg.SamplingConfig(
            new_tokens=config.new_tokens,
            samples=config.samples,
            rules=cg.Rules(temperature=method.temperature or config.temperature),
        ),
    )


def decoder_of(config: "Config", name: str) -> DecoderSettings:
    """Returns how captions are written: by beams, or as a guided method does it."""
    if name == "rerank":
        return cg.RerankConfig(
            new_tokens=config.new_tokens,
            proposal=cg.BeamConfig(beams=config.candidates),
            of=config.candidates,
            rules=RULES,
        )
    if name == "fudge":
        return cg.FudgeConfig(
            new_tokens=config.new_tokens, candidates=config.candidates, greedy=True,
            strength=config.strength, rules=RULES,
        )  # fmt: skip
    if name == "mcts":
        return cg.PRESETS["default"].with_settings(
            new_tokens=config.new_tokens, simulations=config.simulations,
            wave=min(8, config.simulations), considered=min(8, config.simulations),
            candidates=config.candidates, depth=config.new_tokens, alpha=config.alpha,
            no_repeat_ngram=3,
        )  # fmt: skip
    return cg.BeamConfig(new_tokens=config.new_tokens, beams=config.beams, rules=RULES)
