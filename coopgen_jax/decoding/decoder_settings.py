"""The settings that every method has."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from coopgen_jax.decoding.flat_settings import changed
from coopgen_jax.decoding.rules.shaping import NO_RULES, Rules


def check_base_share(share: float) -> None:
    """Raises ValueError where a `mix_base` is no share."""
    if not 0 <= share <= 1:
        raise ValueError(f"mix_base is {share}: give a share from 0 (none) to 1")


@dataclass(frozen=True)
class DecoderSettings:
    """How much to write, and by which rules; the base of every decoder's settings.

    Settings are static under `jit` and keep what they are given: what follows from them is a
    property.

    Attributes:
      new_tokens: `T`, the most tokens to write.
      samples: `R`, texts per prompt.
      rules: what may follow a text.
    """

    new_tokens: int = 24
    samples: int = 1
    rules: Rules = NO_RULES

    # The method's name on the command line; by default that of the class, without Config.
    method: ClassVar[str] = ""
    # Whether every setting needs a discriminator and a target.
    always_guided: ClassVar[bool] = False
    # Whether a prompt's texts stand for a distribution only together with their weights.
    weighted: ClassVar[bool] = False
    # The rules that a method cannot honour, and why.
    refuses: ClassVar[tuple[str, ...]] = ()
    because: ClassVar[str] = ""
    # Why a watermark cannot take the place of a draw, where there is none.
    undrawn: ClassVar[str] = "here the best token is taken and none is drawn"
    # Whether a temperature of 0 stands for the likeliest token.
    may_be_greedy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_least(1, "new_tokens", "samples")
        rules = self.rules
        for name in rules.changed(self.refuses):
            raise ValueError(f"{name} is {getattr(rules, name)}: {self.because}, leave it out")
        if rules.temperature == 0 and not self.may_be_greedy:
            raise ValueError("temperature is 0: it must be above 0")
        self._check_watermark()
        if len(rules.forced) > self.new_tokens:
            raise ValueError(
                f"{len(rules.forced)} tokens are forced and {self.new_tokens} are to be written: "
                "ask for more new tokens"
            )

    def _check_watermark(self) -> None:
        watermark = self.rules.watermark
        if watermark is None:
            return
        if self.to_be_weighted and watermark.delta == float("inf") and not watermark.draws:
            raise ValueError(
                "delta is infinite, which leaves texts that nothing can draw, and weights are of "
                "all texts: give a finite delta"
            )
        if not watermark.draws:
            return
        scheme = watermark.scheme
        if not self.draws:
            raise ValueError(
                f"a {scheme} watermark takes the place of a token's draw, and {self.undrawn}: take "
                "a greenlist, or settings that draw"
            )
        if watermark.window == 0 and self.lanes > 1:
            raise ValueError(
                f"a {scheme} watermark without a window would make one text of the {self.lanes} "
                "that are drawn of a prompt: give a window of 1 or more, or write one"
            )
        if scheme == "permute-flip" and self.to_be_weighted:
            raise ValueError(
                "permute-flip draws from another distribution than that of the scores, which "
                "weights cannot put right: take gumbel"
            )
        if scheme == "tournament" and not self.few_candidates:
            raise ValueError(
                "a tournament is held among a few tokens, and here any may be drawn: give top_k "
                "where the method has it, a search visit_temperature without mix_base, or take "
                "gumbel"
            )

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: give {least} or more")

    def with_settings(self, **values: Any) -> Self:
        """Returns these settings with others, given by flat name.

        What follows from a setting that is given, such as a number of nodes from one of
        simulations, is set with it, unless it is given too.

        Raises:
          ValueError: a setting is out of its range, or does not go with the others.
          TypeError: there is no such setting.
        """
        return changed(self, values)

    @property
    def guided(self) -> bool:
        """Whether the method needs a discriminator and a target."""
        return self.always_guided

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken and none is drawn."""
        return self.rules.temperature == 0

    @property
    def draws(self) -> bool:
        """Whether every token that is written is drawn."""
        return not self.greedy

    @property
    def to_be_weighted(self) -> bool:
        """Whether texts have weights, or a proposal that is made to be weighted."""
        return self.weighted or getattr(self, "mix_base", 0.0) > 0

    @property
    def lanes(self) -> int:
        """How many texts of a prompt are drawn side by side."""
        return self.samples

    @property
    def few_candidates(self) -> bool:
        """Whether the tokens that may be drawn are a few, which a tournament can be held among."""
        return self.rules.top_k > 0

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.samples > 1 and self.greedy

    @property
    def ahead(self) -> int:
        """Tokens that may be read behind a prompt."""
        return self.new_tokens
