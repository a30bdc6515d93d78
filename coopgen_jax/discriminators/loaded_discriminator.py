"""A discriminator with its weights: what a decode from strings to strings is guided by."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax

from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.host.call import HostCall
from coopgen_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class LoadedDiscriminator:
    """A discriminator with its weights.

    Attributes:
      discriminator: the functions, equal for two loads of one head.
      params: its weights, those of an encoder included.
      card: what card.json says of it, empty where there is none.
      calls: the functions of the host that it calls, none where it reads tokens as they are.
    """

    discriminator: Discriminator
    params: Any = None
    card: dict[str, Any] = field(default_factory=dict)
    calls: tuple[HostCall, ...] = ()

    @property
    def host_seconds(self) -> float | None:
        """Seconds that the functions of the host have taken so far, None without any."""
        return sum(call.counts.seconds for call in self.calls) if self.calls else None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raises UserError in place of JAX's error where a function of the host has failed."""
        for call in self.calls:
            call.forgive()
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            # A program that runs while it is called raises the second.
            for call in self.calls:
                if isinstance(call.failure, UserError):
                    raise call.failure from error
                if call.failure is not None:
                    raise UserError(
                        "the discriminator's host function failed: "
                        f"{type(call.failure).__name__}: {call.failure}"
                    ) from call.failure
            raise
