"""What Plug and Play Language Models are told."""

from dataclasses import dataclass
from typing import ClassVar

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.rules.shaping import Rules

# As published.
TOP_TEN = Rules(top_k=10)


@dataclass(frozen=True)
class PPLMConfig(DecoderSettings):
    """Shifts what has been read along a gradient before every token (PPLM).

    The rules apply to the fused distribution. `log_proposal` is that of the fused, shaped
    distribution, NaN where greedily; `simulations` counts the gradient steps and `model_tokens`
    every token that was read.

    Attributes:
      bags: token ids of every bag of words; none where a discriminator alone guides.
      iterations: gradient steps per token; 0 leaves top-K sampling.
      step_size: length of each step in every layer, keys and values together, where gamma is 1.
      gamma: power of the norm that a layer's gradient is divided by.
      kl: weight of the divergence from the unshifted distribution.
      fusion: share of the shifted distribution in the fused one; 0 leaves top-K sampling.
      window: newest tokens in front of the last that are shifted; 0 for all.
      decay: shifts older tokens of the window less, in proportion to their age.
    """

    rules: Rules = TOP_TEN

    bags: tuple[tuple[int, ...], ...] = ()
    iterations: int = 3
    step_size: float = 0.02
    gamma: float = 1.0
    kl: float = 0.01
    fusion: float = 0.9
    window: int = 0
    decay: bool = False

    may_be_greedy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(0, "iterations", "window", "step_size", "gamma", "kl")
        if not 0 <= self.fusion <= 1:
            raise ValueError(f"fusion is {self.fusion}: give a share from 0 to 1")
        if self.decay and not self.window:
            raise ValueError("decay is over a window: give a window, or no decay")
        if not all(self.bags):
            raise ValueError("a bag of words is empty: leave it out")
        if any(token < 0 for bag in self.bags for token in bag):
            raise ValueError("bags of words are given as token ids: 0 or more")

    @property
    def guided(self) -> bool:
        """Whether there must be a target; with bags of words there may be one besides."""
        return not self.bags

    @property
    def shifts(self) -> bool:
        """Whether anything is shifted at all."""
        return self.iterations > 0 and self.step_size > 0 and self.fusion > 0
