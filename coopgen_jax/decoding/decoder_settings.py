"""What every decoder is told, whatever its method."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderSettings:
    """How much to write; the base of every decoder's settings, static under `jit`.

    Attributes:
      new_tokens: `T`, the most tokens to write.
      samples: `R`, texts per prompt.
    """

    new_tokens: int = 24
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")

    @property
    def guided(self) -> bool:
        """Whether the method needs a discriminator and a target."""
        return False

    @property
    def weighted(self) -> bool:
        """Whether a prompt's texts stand for a distribution only together with their weights."""
        return False

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return False

    @property
    def ahead(self) -> int:
        """Tokens that may be read behind a prompt."""
        return self.new_tokens
